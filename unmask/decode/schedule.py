"""How much of a block a decode of a fixed number of steps commits at each. Pure numbers."""

import torch
from torch import Tensor


def timestep_shares(steps: int, device: torch.device | None = None, last: float = 1e-3) -> Tensor:
    """Dream: the share of a block's open positions that step i commits, 1 - t[i+1] / t[i], everything at the last step.

    t falls linearly from 1 to `last`. fp32, shape [steps].

    >>> [round(share, 3) for share in timestep_shares(4).tolist()]
    [0.25, 0.333, 0.499, 1.0]
    """
    times = torch.linspace(1, last, steps + 1, device=device)
    shares = 1 - times[1:] / times[:-1]
    shares[-1:] = 1.0  # a slice is filled on the device; a single place would be copied there, and waited for
    return shares
