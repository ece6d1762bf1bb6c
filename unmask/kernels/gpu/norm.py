"""The norm on a GPU: one program per row, which reads the row once and writes the sum and its norm.

Shapes: as in `unmask.kernels.norm`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


def rms_norm(x_NC: Tensor, weight_C: Tensor, eps: float) -> Tensor:
    """As in the seam."""
    x_RC = _rows(x_NC)
    normed_RC = torch.empty_like(x_RC, memory_format=torch.contiguous_format)
    _launch(x_RC, x_RC, weight_C, x_RC, normed_RC, eps, adds=False)
    return normed_RC.view(x_NC.shape)


def add_rms_norm(x_NC: Tensor, more_NC: Tensor, weight_C: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """As in the seam."""
    x_RC, more_RC = _rows(x_NC), _rows(more_NC)
    states_RC = torch.empty_like(x_RC, memory_format=torch.contiguous_format)
    normed_RC = torch.empty_like(states_RC)
    _launch(x_RC, more_RC, weight_C, states_RC, normed_RC, eps, adds=True)
    return states_RC.view(x_NC.shape), normed_RC.view(x_NC.shape)


def _rows(x_NC: Tensor) -> Tensor:
    assert x_NC.stride(-1) == 1, "the channels of a row must be contiguous"
    return x_NC.flatten(0, -2)


def _launch(
    x_RC: Tensor, more_RC: Tensor, weight_C: Tensor, states_RC: Tensor, normed_RC: Tensor, eps: float, *, adds: bool
) -> None:
    rows, channels = x_RC.shape
    assert more_RC.shape == x_RC.shape, "what is added has the states' shape"
    assert x_RC.dtype == more_RC.dtype == weight_C.dtype, "states and weight are of one type"
    if not rows:
        return
    width = triton.next_power_of_2(channels)
    with torch.cuda.device_of(x_RC):
        _norm[rows,](
            x_RC, more_RC, weight_C, states_RC, normed_RC, x_RC.stride(0), more_RC.stride(0), eps,
            ADDS=adds, CHANNELS=channels, WIDTH=width,
            num_warps=min(8, max(1, width // 512)), enable_fp_fusion=True,
        )  # fmt: skip


@triton.jit
def _norm(
    x_RC, more_RC, weight_C, states_RC, normed_RC, x_row, more_row, eps,
    ADDS: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, WIDTH)
    inside = c < CHANNELS
    x = tl.load(x_RC + row * x_row + c, mask=inside, other=0.0)
    if ADDS:
        more = tl.load(more_RC + row * more_row + c, mask=inside, other=0.0)
        x = (x.to(tl.float32) + more.to(tl.float32)).to(x.dtype)
        tl.store(states_RC + row * CHANNELS + c, x, mask=inside)
    precise = x.to(tl.float32)
    scale = tl.rsqrt(tl.sum(precise * precise, axis=0) / CHANNELS + eps)
    weight = tl.load(weight_C + c, mask=inside, other=0.0).to(tl.float32)
    # Rounded twice, as the plain form is.
    normed = (precise * scale).to(x.dtype).to(tl.float32) * weight
    tl.store(normed_RC + row * CHANNELS + c, normed.to(x.dtype), mask=inside)
