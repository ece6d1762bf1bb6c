"""Which cards run the kernels, without any card: and what is said where they do not, once."""

import re
import warnings

import pytest
import torch

from unmask.kernels import choice
from unmask.kernels.choice import Card, give_up, runs, unfit

H100, A100, A10, T4, V100 = (
    Card((9, 0), 232_448),
    Card((8, 0), 166_912),
    Card((8, 6), 101_376),
    Card((7, 5), 65_536),
    Card((7, 0), 98_304),
)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("card", [H100, A100, A10])
def test_cards_from_capability_8_on_run_them_in_every_type(card: Card, dtype: torch.dtype) -> None:
    assert unfit(card, dtype) is None


@pytest.mark.parametrize(
    ("card", "dtype", "why"),
    [
        (T4, torch.float32, "shared memory"),
        (T4, torch.float16, "shared memory"),
        (V100, torch.float16, r"capability 7\.5"),
        (H100._replace(hip=True), torch.bfloat16, "NVIDIA"),
    ],
)
def test_others_say_what_is_missing(card: Card, dtype: torch.dtype, why: str) -> None:
    assert re.search(why, unfit(card, dtype) or "")


def test_without_triton_there_are_none() -> None:
    assert unfit(H100, torch.bfloat16, triton=False) == "Triton is not installed"


def test_a_refusal_is_said_once_and_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_verdicts", {})
    monkeypatch.setattr(Card, "of", classmethod(lambda cls, device: T4))
    device = torch.device("cuda", 0)
    with pytest.warns(UserWarning, match="plain PyTorch instead.*shared memory") as said:
        assert not runs(device, torch.float16)
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not runs(device, torch.float16)


def test_what_has_failed_once_is_not_launched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_verdicts", {})
    monkeypatch.setattr(Card, "of", classmethod(lambda cls, device: H100))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    device = torch.device("cuda", 0)
    assert runs(device, torch.bfloat16)
    with pytest.warns(UserWarning, match="kernel image"):
        give_up(device, torch.bfloat16, "device kernel image is invalid")
    assert not runs(device, torch.bfloat16)
    assert runs(device, torch.float32)
