"""A loop in the place of torch's attention to sequences of any lengths, which a CPU does not have."""

import itertools

import pytest
import torch
from torch import Tensor

from unmask.kernels import varlen


def attend_together(monkeypatch: pytest.MonkeyPatch, *, padded: bool = True) -> list[list[int]]:
    """Whole sequences attend in one call, whatever the device and type; where those of each call begin.

    `padded`: the longest may be said to be longer than it is.
    """
    seen: list[list[int]] = []

    def looped(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        starts: Tensor,
        same: Tensor,
        most: int,
        longest: int,
        *,
        enable_gqa: bool,
        num_splits: int,
    ) -> Tensor:
        bounds = starts.tolist()
        assert starts is same
        assert starts.dtype == torch.int32
        assert num_splits == 1
        true = max(end - begin for begin, end in itertools.pairwise(bounds))
        assert most == longest >= true if padded else most == longest == true
        assert (bounds[0], bounds[-1]) == (0, len(q))
        seen.append(bounds)
        parts = [slice(*bound) for bound in itertools.pairwise(bounds) if bound[0] < bound[1]]
        each = [[x[part].transpose(0, 1) for x in (q, k, v)] for part in parts]
        attended = [torch.nn.functional.scaled_dot_product_attention(*one, enable_gqa=enable_gqa) for one in each]
        return torch.cat([one.transpose(0, 1) for one in attended])

    monkeypatch.setattr(varlen, "together", lambda x: True)
    monkeypatch.setattr(varlen, "_varlen", lambda: looped)
    return seen
