"""Every kernel compiles for Hopper (sm_90), without a GPU: real launches whose kernels are compiled instead of run."""

import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
import torch

SHARED_MEMORY = 227 * 2**10  # what a program may take on an H100 or H200
TYPES = {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int32: "*i32", torch.int64: "*i64", int: "i32", float: "fp32"}


def compiled(module: str, dtype: torch.dtype) -> list[tuple[str, int, str]]:
    """Name, shared memory and PTX of the kernels of a launch at the size of a real model; in a process of its own."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        found = []

        def compile_only(kernel: Any, *args: Any, grid: object, warmup: bool, **options: Any) -> None:
            names = kernel.arg_names
            given = {**dict(zip(names, args, strict=False)), **{name: options.pop(name) for name in names if name in options}}
            fixed = {(names.index(name),): value for name, value in given.items() if name.isupper()}
            kinds = {name: TYPES[getattr(value, "dtype", type(value))] for name, value in given.items() if not name.isupper()}
            even = {
                (names.index(name),): [["tt.divisibility", 16]]
                for name in kinds
                if (address := given[name].data_ptr() if isinstance(given[name], torch.Tensor) else given[name]) % 16 == 0
            }
            signature = {name: kinds.get(name, "constexpr") for name in names}
            source = ASTSource(kernel, signature, constexprs=fixed, attrs=even)
            made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
            found.append((kernel.__name__, made.metadata.shared, made.asm["ptx"]))

        triton.JITFunction.run = compile_only
        if module == "vocabulary":
            from unmask.kernels.gpu.vocabulary import evidence

            evidence(torch.zeros(2, 126464, dtype=dtype), 126336)
        else:
            from unmask.kernels.gpu.paged import paged_attention

            q, keys = torch.zeros(1, 32, 28, 128, dtype=dtype), torch.zeros(1024, 4, 128, dtype=dtype)
            pages, zero = torch.arange(64)[None], torch.zeros(1, dtype=torch.int64)
            paged_attention(q, keys, keys, pages, zero + 1024, zero, zero, zero, page=16)
        return found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("module", "names", "uses"), [
    ("vocabulary", ["_read", "_join"], "ld.global.v4"),  # loads of 16 bytes
    ("paged", ["_attend", "_join"], "wgmma"),  # Hopper's tensor cores
])  # fmt: skip
def test_kernels_compile_for_hopper(module: str, names: list[str], uses: str, dtype: torch.dtype) -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        found = process.submit(compiled, module, dtype).result()
    assert [name for name, _, _ in found] == names
    assert all(shared <= SHARED_MEMORY for _, shared, _ in found)
    assert uses in found[0][2]
