"""The learned rule and its head: numbers worked out by hand, and the promises of every base rule."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import unmask
from unmask.decode.commit_head import FACTS, LARGEST, CommitHead, HeadWeights, facts
from unmask.decode.learned import Learned
from unmask.decode.proposal import Proposal
from unmask.decode.rule import Terms

WIDTH = 3


def evidence(confidence: list[list[float]], masked: list[list[bool]], seed: int = 0, step: int = 0) -> Proposal:
    confidence_BL, masked_BL = torch.tensor(confidence), torch.tensor(masked)
    rows, length = confidence_BL.shape
    generator = torch.Generator().manual_seed(seed)
    return Proposal(
        candidate_BL=torch.arange(length).repeat(rows, 1),
        confidence_BL=confidence_BL,
        score_BL=-torch.rand(rows, length, generator=generator),
        masked_BL=masked_BL,
        open_BL=masked_BL,
        filler_BL=torch.zeros_like(masked_BL),
        step_B=torch.full((rows,), step),
        suffix_B=torch.zeros(rows, dtype=torch.long),
        token_BL=torch.where(masked_BL, 999, 0),
        fixed_BL=torch.zeros_like(masked_BL),
        hidden_BLC=torch.randn(rows, length, WIDTH, generator=generator),
    )


def random_head(seed: int = 0, channels: int = 4) -> CommitHead:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((channels, WIDTH + FACTS + 1), (channels, channels + 1), (1, channels + 1))
    return CommitHead(HeadWeights(*(torch.randn(shape, generator=generator) for shape in shapes)), "toy")


def test_a_head_by_hand() -> None:
    """One channel that reads the first hidden number, 2: silu 1.76159, silu again 1.50336, less 1: sigmoid .62319."""
    first, second, last = torch.zeros(1, WIDTH + FACTS + 1), torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, -1.0]])
    first[0, 0] = 1.0
    proposal = evidence([[0.5]], [[True]])._replace(hidden_BLC=torch.tensor([[[2.0, 7.0, 7.0]]]))
    head = CommitHead(HeadWeights(first, second, last), "toy")
    assert head.width == WIDTH
    assert head(proposal).item() == pytest.approx(0.62325, abs=1e-4)


def test_the_facts_by_hand() -> None:
    """Masks at 1, 2 and 4 of six positions, two steps made; what lies outside the block counts as committed."""
    masked = [[False, True, True, False, True, False]]
    proposal = evidence([[0.3, 0.5, 0.9, 0.3, 0.8, 0.3]], masked, step=2)._replace(score_BL=-torch.full((1, 6), 0.25))
    ln9, ln4, sure = math.log(9) / 4, math.log(4) / 4, LARGEST / 4
    expected = {
        1: [0.0, 0.25, sure, ln9, 0.0, 2 / 4, 1.0, 0.5, math.log(3)],
        2: [ln9, 0.25, 0.0, sure, 1 / 4, 1 / 4, 0.0, 0.5, math.log(3)],
        4: [ln4, 0.25, sure, sure, 2 / 4, 0.0, 0.0, 0.5, math.log(3)],
    }
    for place, numbers in expected.items():
        assert facts(proposal)[0, place].tolist() == pytest.approx(numbers, abs=1e-5)
    certain = facts(evidence([[1.0, 0.0]], [[True, True]]))[0, :, 0]
    assert certain.tolist() == [sure, -sure]


@settings(max_examples=60)
@given(st.integers(0, 2**20), st.floats(0, 1), st.floats(0, 1), st.integers(0, 5))
def test_at_least_one_each_row_alone_and_no_less_with_a_lower_threshold(seed: int, bar: float, less: float, step: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    confidence, masked = torch.rand(3, 8, generator=generator), torch.rand(3, 8, generator=generator) < 0.6
    shown, head = evidence(confidence.tolist(), masked.tolist(), seed, step), random_head(seed)
    rule = Learned(threshold=bar, head=head)
    taken_BL, _ = rule(shown, None)
    assert (taken_BL.any(dim=1) == masked.any(dim=1)).all()
    assert not (taken_BL & ~masked).any()
    wider_BL, _ = Learned(threshold=bar * less, head=head)(shown, None)
    assert not (taken_BL & ~wider_BL).any()
    for row in range(3):
        alone_BL, _ = rule(shown.rows(torch.tensor([row])), None)
        assert torch.equal(alone_BL[0], taken_BL[row])


def test_a_model_without_a_head_is_refused_in_one_line() -> None:
    with pytest.raises(unmask.ConfigError, match="the model has none: `unmask train head` makes one"):
        Learned().bind(Terms(answer_length=8, block_length=8))


def test_a_method_with_the_rule_is_plain_data() -> None:
    method = unmask.method("r2-dllm", commit={"rule": "learned", "threshold": 0.8})
    assert method.to_dict()["commit"] == {"rule": "learned", "threshold": 0.8}
    assert unmask.Method.from_dict(method.to_dict()) == method
