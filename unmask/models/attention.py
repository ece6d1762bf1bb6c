"""The one seam through which every model attends; today PyTorch's SDPA on every device.

Shapes: B rows, Q queries, S keys, H query heads, G key/value heads (H is a multiple of G), D head size.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def attend(q_BHQD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, visible: Tensor | None) -> Tensor:
    """Bidirectional attention: softmax(q k^T / sqrt(D)) v over the visible keys.

    `visible` is a bool mask, [B, S] (the same keys for every query of a row) or [B, Q, S]; None shows every key.
    A query that sees no key at all (padding) gives zeros or NaN; nobody reads it. Returns [B, H, Q, D].
    """
    if visible is not None:
        visible = visible[:, None, None, :] if visible.dim() == 2 else visible[:, None, :, :]
    grouped = q_BHQD.shape[1] != k_BGSD.shape[1]
    return scaled_dot_product_attention(q_BHQD, k_BGSD, v_BGSD, attn_mask=visible, enable_gqa=grouped)


def rotate(x_BHQD: Tensor, cos_BQD: Tensor, sin_BQD: Tensor) -> Tensor:
    """Rotary position embedding (RoFormer, arXiv 2104.09864, eq. 34) in the half-split layout, in cos's precision."""
    x = x_BHQD.to(cos_BQD.dtype)
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x * cos_BQD[:, None] + turned * sin_BQD[:, None]).to(x_BHQD.dtype)


def rotary(positions_BQ: Tensor, head_size: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine tables [B, Q, D] for `rotate`, computed in fp32 or better."""
    precise = torch.promote_types(dtype, torch.float32)
    exponents = torch.arange(0, head_size, 2, device=positions_BQ.device, dtype=precise) / head_size
    angles = positions_BQ.to(precise)[:, :, None] * theta**-exponents
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()
