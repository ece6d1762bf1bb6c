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


def timestep_share(step_B: torch.Tensor, steps_B: torch.Tensor, last: float = 1e-3) -> torch.Tensor:
    """The same for rows that each have a number of steps of their own: the share of step `step_B`, fp32, shape [B].

    >>> [round(share, 3) for share in timestep_share(torch.tensor([0, 1, 1]), torch.tensor([4, 4, 2])).tolist()]
    [0.25, 0.333, 1.0]
    """
    fall_B = (1 - last) / steps_B
    share_B = 1 - (1 - (step_B + 1) * fall_B) / (1 - step_B * fall_B)
    return torch.where(step_B >= steps_B - 1, 1.0, share_B)
