"""The gate on a GPU: one pass, where activation and product would be two. Shapes: as in `unmask.kernels.gated`."""

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 1024  # channels per program


def silu_times(gate_NF: Tensor, up_NF: Tensor) -> Tensor:
    """As in the seam. The two may be halves of one tensor."""
    gate_RF, up_RF = gate_NF.flatten(0, -2), up_NF.flatten(0, -2)
    assert gate_RF.stride(1) == up_RF.stride(1) == 1, "the channels of a row must be contiguous"
    assert gate_RF.dtype == up_RF.dtype, "gate and up are of one type"
    rows, channels = gate_RF.shape
    out_RF = torch.empty(rows, channels, dtype=gate_RF.dtype, device=gate_RF.device)
    if rows:
        with torch.cuda.device_of(gate_RF):
            # Rows are the grid's first dimension, which alone may be longer than 2**16.
            _gate[rows, triton.cdiv(channels, TILE)](
                gate_RF, up_RF, out_RF, gate_RF.stride(0), up_RF.stride(0), channels,
                TILE=TILE, num_warps=4, enable_fp_fusion=True,
            )  # fmt: skip
    return out_RF.view(gate_NF.shape)


@triton.jit
def _gate(gate_RF, up_RF, out_RF, gate_row, up_row, channels, TILE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    f = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = f < channels
    gate = tl.load(gate_RF + row * gate_row + f, mask=inside, other=0.0)
    up = tl.load(up_RF + row * up_row + f, mask=inside, other=0.0).to(tl.float32)
    x = gate.to(tl.float32)
    active = tl.div_rn(x, 1.0 + tl.exp(-x)).to(gate.dtype).to(tl.float32)  # rounded, as the plain form is
    tl.store(out_RF + row * channels + f, (active * up).to(gate.dtype), mask=inside)
