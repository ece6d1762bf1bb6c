"""How many tokens a fixed-length decode commits at each step. Pure numbers, worked out once a method."""

import torch
from torch import Tensor


def even_quota(block_length: int, steps: int) -> list[int]:
    """LLaDA: `block_length` tokens over `steps` steps, as even as can be, the surplus first (arXiv 2502.09992, app. A.3).

    >>> even_quota(16, 5)
    [4, 3, 3, 3, 3]
    """
    base, surplus = divmod(block_length, steps)
    return [base + (step < surplus) for step in range(steps)]


def timestep_shares(steps: int, last: float = 1e-3) -> Tensor:
    """Dream: the share of a block's open positions that step i commits, 1 - t[i+1] / t[i], everything at the last step.

    t falls linearly from 1 to `last`. fp32, shape [steps].

    >>> [round(share, 3) for share in timestep_shares(4).tolist()]
    [0.25, 0.333, 0.499, 1.0]
    """
    times = torch.linspace(1, last, steps + 1)
    shares = 1 - times[1:] / times[:-1]
    shares[-1] = 1.0
    return shares
