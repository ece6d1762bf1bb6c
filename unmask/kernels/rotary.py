"""What lies between the input products of a layer and its attention: norms of single heads, rotary, the memory of keys.

Shapes: N packed queries of which the first M are remembered, H query heads, G key/value heads, D head size, R rotated
channels of it, S slots of the pool; B rows of Q queries.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from unmask.kernels import accelerated
from unmask.kernels.norm import rms_norm
from unmask.kernels.paged import write


class HeadNorms(NamedTuple):
    """RMS norms of single heads before they are rotated: weights [D] of queries and of keys."""

    q_D: Tensor
    k_D: Tensor
    eps: float


def rotate_and_write(
    q_NHD: Tensor,
    k_NGD: Tensor,
    v_NGD: Tensor,
    cos_NR: Tensor,
    sin_NR: Tensor,
    keys_SGD: Tensor | None,
    values_SGD: Tensor | None,
    slots_M: Tensor,
    *,
    norms: HeadNorms | None = None,
) -> tuple[Tensor, Tensor]:
    """Queries [N, H, D] and keys [N, G, D], rotated; the keys and values of the first M are written into their slots.

    What is handed in may be overwritten. `slots_M` int64; where nothing is remembered it is empty and there need be no pool.

    >>> x, cos, sin = torch.tensor([[[1.0, 2.0]]]), torch.zeros(1, 2), torch.ones(1, 2)  # a quarter turn
    >>> keys, values = torch.zeros(2, 1, 2), torch.zeros(2, 1, 2)
    >>> rotate_and_write(x, x, x, cos, sin, keys, values, torch.tensor([1]))[0], keys[1], values[1]
    (tensor([[[-2.,  1.]]]), tensor([[-2.,  1.]]), tensor([[1., 2.]]))
    """
    if accelerated(q_NHD):
        from unmask.kernels.gpu import rotary as gpu

        return gpu.rotate_and_write(
            q_NHD,
            k_NGD,
            v_NGD,
            cos_NR,
            sin_NR,
            keys_SGD,
            values_SGD,
            slots_M,
            norms=norms and (norms.q_D, norms.k_D, norms.eps),
        )
    if norms is not None:
        q_NHD, k_NGD = rms_norm(q_NHD, norms.q_D, norms.eps), rms_norm(k_NGD, norms.k_D, norms.eps)
    q_NHD, k_NGD = (rotate(x.transpose(0, 1)[None], cos_NR[None], sin_NR[None])[0].transpose(0, 1) for x in (q_NHD, k_NGD))
    remembered = len(slots_M)
    if remembered:
        assert keys_SGD is not None, "what is remembered needs a pool"
        assert values_SGD is not None, "what is remembered needs a pool"
        write(keys_SGD, k_NGD[:remembered], slots_M)
        write(values_SGD, v_NGD[:remembered], slots_M)
    return q_NHD, k_NGD


def rotate(x_BHQD: Tensor, cos_BQR: Tensor, sin_BQR: Tensor) -> Tensor:
    """Rotary position embedding (RoFormer, arXiv 2104.09864, eq. 34) of a head's first R channels, in cos's precision.

    The layout is half-split: channel i turns with channel i + R / 2. Channels from R on are left as they are.
    """
    turned_channels = cos_BQR.shape[-1]
    x = x_BHQD[..., :turned_channels].to(cos_BQR.dtype)
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    rotated = (x * cos_BQR[:, None] + turned.mul_(sin_BQR[:, None])).to(x_BHQD.dtype)
    if turned_channels == x_BHQD.shape[-1]:
        return rotated
    return torch.cat((rotated, x_BHQD[..., turned_channels:]), dim=-1)


def frequencies(channels: int, theta: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """By how much each rotated channel turns from one position to the next, [R], in fp32 or better: both halves alike.

    >>> frequencies(4, 100.0, torch.float32, torch.device("cpu"))
    tensor([1.0000, 0.1000, 1.0000, 0.1000])
    """
    precise = torch.promote_types(dtype, torch.float32)
    exponents = torch.arange(0, channels, 2, device=device, dtype=precise) / channels
    return (theta**-exponents).repeat(2)


def tables(positions_BQ: Tensor, frequencies_R: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine [B, Q, R] for `rotate`."""
    angles = positions_BQ[:, :, None] * frequencies_R
    return angles.cos(), angles.sin()
