"""How much of a block a decode of a fixed number of steps commits at each. Pure numbers."""

import struct

import torch
from torch import Tensor


def timestep_shares(steps: int, device: torch.device | None = None, last: float = 1e-3) -> Tensor:
    """Dream: the share of a block's open positions that step i commits, 1 - t[i+1] / t[i], everything at the last step.

    t falls linearly from 1 to `last`. fp32, shape [steps].

    >>> [round(share, 3) for share in timestep_shares(4).tolist()]
    [0.25, 0.333, 0.499, 1.0]
    """
    return timestep_table(torch.arange(steps, device=device), steps, last)


def timestep_table(step_B: torch.Tensor, steps: float | torch.Tensor, last: float = 1e-3) -> torch.Tensor:
    """The same of single steps, each row's of its own number of steps, to the last digit of `torch.linspace`; fp32, [B].

    >>> timestep_table(torch.tensor([0, 3, 9]), torch.tensor([4, 4, 4])).tolist() == timestep_shares(4)[[0, 3, 3]].tolist()
    True
    """
    now_B, next_B = (_linspace(place_B, steps, last) for place_B in (step_B, step_B + 1))
    return torch.where(step_B >= steps - 1, 1.0, 1 - next_B / now_B)


def _linspace(place_B: torch.Tensor, steps: float | torch.Tensor, last: float) -> torch.Tensor:
    """Numbers of `torch.linspace(1, last, steps + 1)`: counted from the nearer end, multiplied and added in one rounding."""
    end = _single(last)
    steps_B = torch.zeros_like(place_B) + steps
    fall_B = torch.full_like(steps_B, _single(end - 1), dtype=torch.float32)  # a plain number would be times the reciprocal
    apart_B = (fall_B / steps_B).to(torch.float64)
    first_B = place_B < (steps_B + 1) // 2
    return torch.where(first_B, 1 + apart_B * place_B, end - apart_B * (steps_B - place_B)).to(torch.float32)


def _single(number: float) -> float:
    """The number as float32 has it."""
    (rounded,) = struct.unpack("f", struct.pack("f", number))
    return float(rounded)


def timestep_share(step_B: torch.Tensor, steps_B: torch.Tensor, last: float = 1e-3) -> torch.Tensor:
    """The same for rows that each have a number of steps of their own: the share of step `step_B`, fp32, shape [B].

    >>> [round(share, 3) for share in timestep_share(torch.tensor([0, 1, 1]), torch.tensor([4, 4, 2])).tolist()]
    [0.25, 0.333, 1.0]
    """
    fall_B = (1 - last) / steps_B
    share_B = 1 - (1 - (step_B + 1) * fall_B) / (1 - step_B * fall_B)
    return torch.where(step_B >= steps_B - 1, 1.0, share_B)
