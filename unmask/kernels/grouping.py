"""Tokens in the order of the experts that they go through, and back: around the grouped products of a mixture of experts.

Shapes: N tokens, E experts, K of them chosen per token, M = N * K pairs of both, C channels, F outputs.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from unmask.kernels import accelerated


class Grouped(NamedTuple):
    """The pairs of tokens and experts in the order of the experts, and of the tokens within an expert.

    Attributes:
        token_M: int64, the token of each place.
        place_NK: int64, the place of each of a token's experts.
        end_E: int32, where the places of each expert end.
    """

    token_M: Tensor
    place_NK: Tensor
    end_E: Tensor


def by_expert(experts_NK: Tensor, experts: int) -> Grouped:
    """The order of the experts that each token has chosen, int64. No number of the device is read.

    >>> token_M, place_NK, end_E = by_expert(torch.tensor([[2, 0], [0, 2], [2, 0]]), 3)
    >>> token_M.tolist(), place_NK.tolist(), end_E.tolist()
    ([0, 1, 2, 0, 1, 2], [[3, 0], [1, 4], [5, 2]], [3, 3, 6])
    """
    if accelerated(experts_NK):
        from unmask.kernels.gpu import grouping as gpu

        return Grouped(*gpu.by_expert(experts_NK, experts))
    expert_M = experts_NK.flatten()
    order_M = expert_M.argsort(stable=True)
    count_E = torch.zeros(experts, dtype=torch.int32, device=experts_NK.device)
    count_E = count_E.scatter_add(0, expert_M, torch.ones_like(expert_M, dtype=torch.int32))
    place_M = torch.empty_like(order_M).scatter(0, order_M, torch.arange(len(order_M), device=order_M.device))
    return Grouped(order_M // experts_NK.shape[1], place_M.view_as(experts_NK), count_E.cumsum(0, dtype=torch.int32))


def grouped_product(x_MC: Tensor, weight_EFC: Tensor, end_E: Tensor) -> Tensor:
    """Rows in the order of the experts, each times its expert's matrix, [M, F].

    >>> weight = torch.arange(8.0).view(2, 4, 1).expand(2, 4, 4)  # the sum of a row, times 0 to 3, and times 4 to 7
    >>> grouped_product(torch.ones(2, 4), weight.contiguous(), torch.tensor([1, 2], dtype=torch.int32))
    tensor([[ 0.,  4.,  8., 12.],
            [16., 20., 24., 28.]])
    """
    weight_EFC = weight_EFC.to(x_MC.dtype)
    if accelerated(x_MC, weight_EFC) and not in_torch(x_MC):
        from unmask.kernels.gpu import grouping as gpu

        return gpu.grouped_product(x_MC, weight_EFC, end_E)
    return torch.nn.functional.grouped_mm(x_MC, weight_EFC.transpose(1, 2), offs=end_E)


def in_torch(x: Tensor) -> bool:
    """Whether torch has such a product for this card: bfloat16 on Hopper and on Blackwell of data centers.

    Elsewhere torch reads the ends on the host and makes a product per expert. The meta device stands for Hopper.
    """
    if x.is_meta:
        return True
    return x.dtype == torch.bfloat16 and torch.cuda.get_device_capability(x.device)[0] in (9, 10)


def weighted_sum(made_MC: Tensor, place_NK: Tensor, weights_NK: Tensor, beside_NC: Tensor | None = None) -> Tensor:
    """What each token's experts made of it, by weight, [N, C]; `beside_NC` is added to the rounded sum.

    >>> made = torch.tensor([[1.0], [10.0], [100.0]])
    >>> weighted_sum(made, torch.tensor([[2, 0]]), torch.tensor([[0.5, 2.0]]), torch.tensor([[7.0]]))
    tensor([[59.]])
    """
    if accelerated(made_MC, weights_NK):
        from unmask.kernels.gpu import grouping as gpu

        return gpu.weighted_sum(made_MC, place_NK, weights_NK, beside_NC)
    mixed_NC = (made_MC[place_NK] * weights_NK[..., None]).sum(1).to(made_MC.dtype)
    return mixed_NC if beside_NC is None else mixed_NC + beside_NC
