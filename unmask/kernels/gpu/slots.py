"""The places of block forwards in one launch, where single operators would be seven. Shapes: as in `unmask.kernels.slots`."""

import torch
import triton
import triton.language as tl
from torch import Tensor


def block_slots(pages_BP: Tensor, begin_B: Tensor, shift_B: Tensor, length: int, *, page: int) -> tuple[Tensor, Tensor, Tensor]:
    """As in the seam."""
    assert pages_BP.stride(1) == 1, "the pages of a row must be contiguous"
    assert begin_B.is_contiguous(), "the numbers of rows must be contiguous"
    assert shift_B.is_contiguous(), "the numbers of rows must be contiguous"
    rows = len(begin_B)
    slot_BQ = torch.empty(rows, length, dtype=torch.int64, device=begin_B.device)
    pool_BQ, end_B = torch.empty_like(slot_BQ), torch.empty_like(begin_B)
    with torch.cuda.device_of(begin_B):
        _place[rows,](
            pages_BP, begin_B, shift_B, slot_BQ, pool_BQ, end_B, pages_BP.stride(0), length,
            PAGE=page, WIDTH=triton.next_power_of_2(length), num_warps=1, enable_fp_fusion=True,
        )  # fmt: skip
    return slot_BQ, pool_BQ, end_B


@triton.jit(do_not_specialize=["page_row"], do_not_specialize_on_alignment=["begin_B", "shift_B"])
def _place(
    pages_BP, begin_B, shift_B, slot_BQ, pool_BQ, end_B, page_row, length, PAGE: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    q = tl.arange(0, WIDTH)
    slot = tl.load(begin_B + row) + q
    own = slot + tl.load(shift_B + row)
    pool = tl.load(pages_BP + row * page_row + own // PAGE, mask=q < length, other=0) * PAGE + own % PAGE
    tl.store(slot_BQ + row * length + q, slot, mask=q < length)
    tl.store(pool_BQ + row * length + q, pool, mask=q < length)
    tl.store(end_B + row, tl.load(begin_B + row) + length)
