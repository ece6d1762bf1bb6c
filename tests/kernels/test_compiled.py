"""Every kernel compiled for real cards, without a GPU: what it takes of them, and which instructions it uses."""

import functools
import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

from unmask.kernels.choice import SHARED

# Bytes of local memory per thread where there are some: spilled registers, and what a draw keeps there on older cards. Where
# one program joins the parts of a tall tile, eight warps spill nothing on Hopper, and take 1.7 times as long (docs/gpu.md).
CEILING = {"float32": 300, "heads of 256": 1000, "drawing from 126464": 16, "Dream, 64 rows": 160}


@functools.cache
def compiler() -> ProcessPoolExecutor:
    """A process in which launched kernels are compiled, not run."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def compiled(card: int, dtype: torch.dtype, only: str = "", others: bool = False) -> list:  # type: ignore[type-arg]
    """What the kernels take, of the launches whose name begins like that."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        from unmask.kernels.gpu.table import eight, sizes, used, usual

        runs = {**usual(dtype), **(sizes(dtype) if others else {}), **(eight(dtype) if card >= 89 else {})}
        chosen = {what: run for what, run in runs.items() if what.startswith(only)}
        # Tuples, because the process that asks must not import triton's stub.
        return [(*row, row.fits) for row in used(card, chosen, dtype)]


def check(rows: list) -> None:  # type: ignore[type-arg]
    if rows[0][0] < 90:  # cards for which `choice` decides by what the largest tile takes
        most = max(row[6] for row in rows if row[1] != "heads of 256")
        assert most <= SHARED[4 if rows[0][3] == "float32" else 2] <= 1.1 * most
    for card, what, kernel, dtype, registers, stack, _, _, fits in rows:
        where = f"{kernel} of {what} in {dtype} on sm_{card}"
        assert registers <= 255, where
        if dtype != "float32":
            assert fits, where
        assert stack <= max(CEILING.get(dtype, 0), CEILING.get(what, 0)), where


@pytest.mark.parametrize("card", [90, 86])
def test_nothing_is_spilled_in_16_bit(card: int) -> None:
    """Real models' heads at any length of the context."""
    rows = compiler().submit(compiled, card, torch.bfloat16).result()
    expected = (
        "paged.attend paged.join rotary.turn norm.norm gated.gate vocabulary.read vocabulary.join sampling.draw slots.place "
        "routing.choose grouping.group grouping.product grouping.mix"
    )
    assert {row[2] for row in rows} == set(expected.split())
    check(rows)


@pytest.mark.parametrize(("only", "dtype", "kernel", "uses"), [
    ("vocabulary", torch.bfloat16, "vocabulary.read", "ld.global.v4"),  # loads of 16 bytes
    ("LLaDA, a", torch.bfloat16, "paged.attend", "wgmma"),  # Hopper's tensor cores
    ("Dream", torch.float32, "paged.attend", "tf32"),
])  # fmt: skip
def test_kernels_use_what_hopper_has(only: str, dtype: torch.dtype, kernel: str, uses: str) -> None:
    rows = compiler().submit(compiled, 90, dtype, only).result()
    found = {row[2]: row[7] for row in rows}
    assert uses in found[kernel]
    assert all(row[-1] for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("card", [80, 86, 89, 90, 100, 120])
def test_every_kernel_for_every_card(card: int, dtype: torch.dtype) -> None:
    check(compiler().submit(compiled, card, dtype, "", True).result())
