"""What the compiler makes of every kernel for real cards: registers, spills and shared memory. Needs no GPU.

    python -m unmask.kernels.gpu.table              # every card; --card 90, 86 ... some of them

The launchers run as they are, on tensors of shapes alone, with a stub in place of the driver: what is compiled is what a card
would compile at its first launch, the specialisation of arguments included.
"""

import argparse
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import triton
import triton.backends.nvidia
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from unmask.kernels.gpu import gated, grouping, norm, paged, rotary, routing, sampling, slots, vocabulary

# Bytes of shared memory that a program may have, by compute capability (CUDA C++ Programming Guide, technical specifications).
CARDS = {75: 64 << 10, 80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}
Run = Callable[[], Any]


class Used(NamedTuple):
    """What one kernel takes on one card.

    Attributes:
        card: compute capability, as in sm_90.
        what: the launch, in words.
        stack: bytes per thread that lie in local memory: spilled registers.
        shared: bytes per program.
        ptx: the assembly.
    """

    card: int
    what: str
    kernel: str
    dtype: str
    registers: int
    stack: int
    shared: int
    ptx: str

    @property
    def fits(self) -> bool:
        """Whether a program of the card may have so much shared memory."""
        return self.shared <= CARDS[self.card]


def used(card: int, runs: dict[str, Run], dtype: torch.dtype) -> Iterator[Used]:
    """What the kernels of these launches take on a card."""
    name = str(dtype).removeprefix("torch.")
    for what, run in runs.items():
        found: list[tuple[str, Any]] = []
        with compiling(card, lambda kernel, made, found=found: found.append((kernel, made))):  # type: ignore[misc]
            run()
        for kernel, made in found:
            registers, stack = _usage(made.asm["cubin"])
            yield Used(card, what, kernel, name, registers, stack, made.metadata.shared, made.asm["ptx"])


@contextmanager
def compiling(card: int, tell: Callable[[str, Any], None]) -> Iterator[None]:
    """Within it a launch is compiled for a card and not made; the kernel's name and what was compiled are told.

    The stub stays in the driver's place: a process that has compiled for other cards launches nothing itself.
    """
    run = triton.JITFunction.run

    def compiled(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        made = run(kernel, *args, grid=grid, warmup=True, **options)
        tell(f"{kernel.fn.__module__.rpartition('.')[2]}.{kernel.fn.__name__.strip('_')}", made)

    triton.JITFunction.run = compiled
    driver.set_active(_Stub(card))
    try:
        yield
    finally:
        triton.JITFunction.run = run


class _Stub:
    """In a driver's place: a card that there is not."""

    def __init__(self, card: int) -> None:
        self._card = card

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._card, 32)

    def get_current_device(self) -> int:
        return self._card  # by this number Triton keeps what it has compiled apart

    def get_current_stream(self, device: int = 0) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def _usage(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of stack per thread."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        program = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"
        said = subprocess.run([program, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True).stdout
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", said).groups()  # type: ignore[union-attr]
    return int(registers), int(stack)


# --- launches of real shapes ------------------------------------------------------------------------------------------


def attention(
    dtype: torch.dtype,
    *,
    length: int,
    heads: int,
    groups: int,
    size: int,
    slots: int = 1024,
    rows: int = 1,
    states: int = 1,
    kept: torch.dtype | None = None,
) -> Run:
    """A block's queries, in several states of it, over the slots of its row, which are kept in another type or the same."""
    pages, number = _whole(rows, slots // 16), _whole(rows)
    keys = _empty(rows * slots, groups, size, dtype=kept or dtype)
    q = _empty(rows, states * length, heads, size, dtype=dtype)
    return lambda: paged.paged_attention(q, keys, keys, pages, number, number, number, number, page=16, states=states)


def heads(
    dtype: torch.dtype, *, heads: int, groups: int, size: int, normed: bool = False, kept: torch.dtype | None = None
) -> Run:
    """Rotary of a block's heads, whose keys and values are kept in another type or the same."""
    q, k, v = torch.split(_empty(32, heads + 2 * groups, size, dtype=dtype), [heads, groups, groups], dim=1)
    table, memory = _empty(32, size, dtype=torch.float32), _empty(1024, groups, size, dtype=kept or dtype)
    norms = (_empty(size, dtype=dtype), _empty(size, dtype=dtype), 1e-6) if normed else None
    return lambda: rotary.rotate_and_write(q, k, v, table, table, memory, memory, _whole(32), norms=norms)


def small(dtype: torch.dtype, *, width: int, hidden: int) -> dict[str, Run]:
    """Norm and gate of a block's states."""
    x, made = _empty(32, width, dtype=dtype), _empty(32, 2 * hidden, dtype=dtype)
    return {
        f"norm of {width}": lambda: norm.add_rms_norm(x, x, x[0], 1e-6),
        f"gate of {hidden}": lambda: gated.silu_times(*made.chunk(2, dim=-1)),
    }


def experts(dtype: torch.dtype, *, tokens: int, experts: int, chosen: int, width: int, **rules: Any) -> dict[str, Run]:
    """A block's or a refresh's way through a mixture of experts of 512 hidden channels."""
    said = {"score": "softmax", "weigh_biased": False, "normalise": True, "scale": 1.0, "groups": 1, "best_groups": 1}
    ways = SimpleNamespace(**(said | {"chosen": chosen, "capacity": None, "block": None} | rules))
    logits, bias = _empty(1, tokens, experts, dtype=torch.float32), _empty(experts, dtype=torch.float32)
    made, states = _empty(tokens * chosen, width, dtype=dtype), _empty(tokens, width, dtype=dtype)
    matrices, ends = _empty(experts, width, 512, dtype=dtype), _empty(experts, dtype=torch.int32)
    pairs, weights = _whole(tokens, chosen), _empty(tokens, chosen, dtype=torch.float32)
    what = f"{chosen} of {experts} experts for {tokens} tokens"
    return {
        f"choice of {what}": lambda: routing.choose(logits, bias, ways),
        f"order of {what}": lambda: grouping.by_expert(pairs, experts),
        f"products of {what}": lambda: grouping.grouped_product(made[:, :512], matrices, ends),
        f"sum of {what}": lambda: grouping.weighted_sum(made, pairs, weights, states),
    }


def drawing(logits: torch.Tensor) -> Run:
    """One row's tokens, sampled with both filters."""
    real, whole = _empty(1, 1, dtype=torch.float32), _whole(1, 1)
    numbers = {"temperature_B1": real, "seed_B1": whole, "positions_BL": _whole(1, len(logits))}
    return lambda: sampling.draw(logits[None], (126336,), top_p_B1=real, top_k_B1=whole, **numbers)


def usual(dtype: torch.dtype) -> dict[str, Run]:
    """The launches of LLaDA-8B and Dream-7B, and of the experts of LLaDA2-mini (2.0, 2.2) and SDAR-30B."""
    logits = _empty(32, 126464, dtype=dtype)
    mini: dict[str, Any] = {"experts": 256, "chosen": 8, "width": 2048, "score": "sigmoid", "scale": 2.5}
    return {
        "LLaDA": attention(dtype, length=32, heads=32, groups=32, size=128),
        "LLaDA, a query of 256": attention(dtype, length=256, heads=32, groups=32, size=128),
        "LLaDA, 64 rows": attention(dtype, length=32, heads=32, groups=32, size=128, rows=64),
        "Dream": attention(dtype, length=33, heads=28, groups=4, size=128),
        "Dream, 64 rows": attention(dtype, length=33, heads=28, groups=4, size=128, rows=64),
        "SDAR, 64 rows": attention(dtype, length=4, heads=32, groups=8, size=128, rows=64),
        "Dream, 128k slots": attention(dtype, length=33, heads=28, groups=4, size=128, slots=2**17),
        "Dream, three states": attention(dtype, length=33, heads=28, groups=4, size=128, states=3),
        "LLaDA's heads": heads(dtype, heads=32, groups=32, size=128),
        "SDAR's heads": heads(dtype, heads=32, groups=8, size=128, normed=True),
        "places of a block": lambda: slots.block_slots(_whole(1, 128), _whole(1), _whole(1), 33, page=16),
        **small(dtype, width=4096, hidden=12288),
        "vocabulary of 126464": lambda: vocabulary.evidence(logits, 126336),
        "drawing from 126464": drawing(logits),
        **experts(dtype, tokens=32, **mini, groups=8, best_groups=4),
        **experts(dtype, tokens=1280, **mini, capacity=48, block=32),
        **experts(dtype, tokens=4, experts=128, chosen=8, width=2048),
    }


def eight(dtype: torch.dtype) -> dict[str, Run]:
    """The launches that read and write keys and values in fp8, which cards know from 89 on."""
    shape: dict[str, Any] = {"heads": 32, "groups": 32, "size": 128, "kept": torch.float8_e4m3fn}
    return {"LLaDA in fp8": attention(dtype, length=32, **shape), "LLaDA's heads in fp8": heads(dtype, **shape)}


def sizes(dtype: torch.dtype) -> dict[str, Run]:
    """Attention of other head sizes."""
    return {
        f"heads of {size}": attention(dtype, length=32, heads=4 * groups, groups=groups, size=size)
        for size, groups in ((16, 4), (64, 8), (80, 8), (96, 8), (256, 4))
    }


def _empty(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _whole(*shape: int) -> torch.Tensor:
    return _empty(*shape, dtype=torch.int64)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Registers, spills and shared memory of every kernel, compiled here.")
    parser.add_argument("--card", type=int, action="append", choices=list(CARDS), help="compute capability; default: all")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        print("| card | type | launch | kernel | registers | spilled, bytes | shared, bytes | fits |")
        print("|---|---|---|---|---|---|---|---|")
        for card in parser.parse_args().card or CARDS:
            for dtype in (torch.float16 if card < 80 else torch.bfloat16, torch.float32):
                for row in used(card, {**usual(dtype), **sizes(dtype), **(eight(dtype) if card >= 89 else {})}, dtype):
                    fits = "yes" if row.fits else "no"
                    print(
                        f"| sm_{card} | {row.dtype} | {row.what} | {row.kernel} | {row.registers} | {row.stack} | {row.shared} "
                        f"| {fits} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
