"""Every kernel compiles for Hopper (sm_90), without a GPU: real launches whose kernels are compiled instead of run."""

import functools
import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
import torch

SHARED_MEMORY = 227 * 2**10  # what a program may take on an H100 or H200
TYPES = {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int32: "*i32", torch.int64: "*i64", int: "i32", float: "fp32"}


@functools.cache
def compiler() -> ProcessPoolExecutor:
    """A process in which launched kernels are compiled, not run."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def compiled(module: str, dtype: torch.dtype) -> dict[str, tuple[int, str]]:
    """Shared memory and PTX of the kernels of a launch at the size of a real model."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    found = {}

    def compile_only(kernel: Any, *args: Any, grid: object, warmup: bool, **options: Any) -> None:
        names = kernel.arg_names
        given = {**dict(zip(names, args, strict=False)), **{name: options.pop(name) for name in names if name in options}}
        kinds = {name: TYPES[getattr(value, "dtype", type(value))] for name, value in given.items() if not name.isupper()}
        address = {name: x.data_ptr() if isinstance(x := given[name], torch.Tensor) else x for name in kinds}
        source = ASTSource(
            kernel,
            {name: kinds.get(name, "constexpr") for name in names},
            constexprs={(names.index(name),): value for name, value in given.items() if name.isupper()},
            attrs={(names.index(name),): [["tt.divisibility", 16]] for name, where in address.items() if where % 16 == 0},
        )
        made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        found[kernel.__name__] = made.metadata.shared, made.asm["ptx"]

    triton.JITFunction.run = compile_only
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        if module == "vocabulary":
            from unmask.kernels.gpu.vocabulary import evidence

            evidence(torch.zeros(2, 126464, dtype=dtype), 126336)
        else:
            from unmask.kernels.gpu.paged import paged_attention

            q, keys = torch.zeros(1, 32, 28, 128, dtype=dtype), torch.zeros(1024, 4, 128, dtype=dtype)
            pages, zero = torch.arange(64)[None], torch.zeros(1, dtype=torch.int64)
            paged_attention(q, keys, keys, pages, zero + 1024, zero, zero, zero, page=16)
    return found


@pytest.mark.parametrize(("module", "dtype", "kernel", "uses"), [
    ("vocabulary", torch.bfloat16, "_read", "ld.global.v4"),  # loads of 16 bytes
    ("paged", torch.bfloat16, "_attend", "wgmma"),  # Hopper's tensor cores
    ("paged", torch.float32, "_attend", "tf32"),
])  # fmt: skip
def test_kernels_compile_for_hopper(module: str, dtype: torch.dtype, kernel: str, uses: str) -> None:
    found = compiler().submit(compiled, module, dtype).result()
    assert found.keys() == {kernel, "_join"}
    assert all(shared <= SHARED_MEMORY for shared, _ in found.values())
    assert uses in found[kernel][1]
