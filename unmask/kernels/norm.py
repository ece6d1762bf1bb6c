"""Root-mean-square norm (arXiv 1910.07467), alone and of a sum: what every layer does before each of its parts.

Shapes: N rows in any number of leading dimensions, C channels.
"""

import torch
from torch import Tensor

from unmask.kernels import accelerated


def rms_norm(x_NC: Tensor, weight_C: Tensor, eps: float) -> Tensor:
    """X divided by the root of its mean square over the channels, times the weight, [N, C]; computed in fp32 or better.

    >>> rms_norm(torch.tensor([[3.0, 4.0]]), torch.tensor([1.0, 2.0]), 0.0)
    tensor([[0.8485, 2.2627]])
    """
    if accelerated(x_NC, weight_C):
        from unmask.kernels.gpu import norm as gpu

        return gpu.rms_norm(x_NC, weight_C, eps)
    precise = x_NC.to(torch.promote_types(x_NC.dtype, torch.float32))
    precise = precise * torch.rsqrt(precise.square().mean(-1, keepdim=True) + eps)
    return weight_C * precise.to(x_NC.dtype)


def add_rms_norm(x_NC: Tensor, more_NC: Tensor, weight_C: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """X + more, rounded to their type, and its norm.

    >>> states, normed = add_rms_norm(torch.tensor([[1.0, 4.0]]), torch.tensor([[2.0, 0.0]]), torch.ones(2), 0.0)
    >>> states.tolist(), normed
    ([[3.0, 4.0]], tensor([[0.8485, 1.1314]]))
    """
    if accelerated(x_NC, more_NC, weight_C):
        from unmask.kernels.gpu import norm as gpu

        return gpu.add_rms_norm(x_NC, more_NC, weight_C, eps)
    states_NC = x_NC + more_NC
    return states_NC, rms_norm(states_NC, weight_C, eps)
