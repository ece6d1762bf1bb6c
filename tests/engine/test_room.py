"""Key/value memory takes what one forward of full size leaves of a GPU, with a stub for the GPU's memory."""

from typing import Any

import pytest
import torch

from unmask.engine.room import room
from unmask.models.denoiser import Denoiser
from unmask.models.toy import toy

FREE = 10**9


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Query tokens of each forward; one takes 1,000 bytes per token at its peak."""
    tokens: list[int] = []
    states = Denoiser.states

    def noted(self: Denoiser, tokens_N: torch.Tensor, *rest: Any) -> torch.Tensor:
        tokens.append(len(tokens_N))
        return states(self, tokens_N, *rest)

    monkeypatch.setattr(Denoiser, "states", noted)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 500)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 500 + 1000 * sum(tokens))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (FREE, FREE))
    return tokens


@pytest.mark.parametrize("family", ["llada", "sdar"])
def test_a_forward_of_full_size_is_measured_and_kept_free(family: str, forwards: list[int]) -> None:
    model = toy(family)
    longest = model.spec.max_length
    assert room(model, 2 * longest) == int(0.9 * (FREE - 2000 * longest))
    assert forwards == [2 * longest]


def test_where_it_does_not_fit_half_is_taken(forwards: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def none(self: Denoiser, *given: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Denoiser, "states", none)
    assert room(toy(), 100) == FREE // 2
