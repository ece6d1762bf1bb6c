"""The vocabulary pass: its plain form against the definition, its kernel against the plain form."""

import math

import pytest
import torch
from devices import DEVICES, kernel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unmask.kernels.vocabulary import Evidence, Score, evidence

SCORES: tuple[Score, ...] = ("confidence", "margin", "negative_entropy")
INF, NAN = math.inf, math.nan


def assert_same(found: Evidence, expected: Evidence, **tolerance: float) -> None:
    assert torch.equal(found.candidate_BL, expected.candidate_BL)
    for mine, theirs in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(mine, theirs, equal_nan=True, **tolerance)


@st.composite
def rows(draw: st.DrawFn) -> tuple[Tensor, int]:
    """Logits [B, L, V] with equals, forbidden tokens, now and then a sure one, and rows that lie apart; a mask id."""
    vocabulary = draw(st.sampled_from([2, 7, 255, 256, 1000, 4095, 4096, 4097, 9000]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    logits = torch.randn(2, 3, vocabulary + draw(st.integers(0, 3)), generator=generator) * draw(
        st.sampled_from([0.0, 1.0, 8.0])
    )
    logits = logits[..., :vocabulary]
    logits[0, 0, torch.randint(vocabulary, (3,), generator=generator)] += draw(st.sampled_from([5.0, 30.0, 200.0]))
    logits[1, :, torch.randint(vocabulary, (vocabulary // 2,), generator=generator)] = -INF
    mask_id = draw(st.one_of(st.sampled_from([0, vocabulary - 1]), st.integers(0, vocabulary - 1)))
    if draw(st.booleans()):
        logits[0, 1, mask_id] = 100.0
    return logits.to(dtype), mask_id


@given(rows(), st.sampled_from(SCORES))
def test_the_plain_form_is_the_definition(made: tuple[Tensor, int], score: Score) -> None:
    logits, mask_id = made
    found = evidence(logits, mask_id, score)
    probabilities = logits.double().softmax(-1)
    others = logits.index_fill(-1, torch.tensor(mask_id), -INF).double()
    for place in torch.cartesian_prod(torch.arange(2), torch.arange(3)).tolist():
        row, other = probabilities[*place], others[*place]
        if row.isnan().any():
            assert found.candidate_BL[*place] == (mask_id == 0)
            continue
        equals = [token for token in (other == other.max()).nonzero()[:, 0].tolist() if token != mask_id]
        assert found.candidate_BL[*place] == equals[0]
        assert found.confidence_BL[*place].item() == pytest.approx(row[equals[0]].item(), rel=1e-5, abs=1e-30)
        expected = {
            "confidence": row[equals[0]],
            "margin": row.topk(2).values.diff().neg(),
            "negative_entropy": torch.special.xlogy(row, row).sum(),
        }[score]
        assert found.score_BL[*place].item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
        assert found.logsumexp_BL[*place].item() == pytest.approx(
            logits[*place].double().logsumexp(-1).item(), rel=1e-5, abs=1e-5
        )


def test_piece_by_piece_is_the_whole_batch() -> None:
    """A real vocabulary goes through the CPU a few rows at a time; the numbers are those of one pass."""
    logits = torch.randn(3, 9, 126464, generator=torch.Generator().manual_seed(0))
    found = evidence(logits, 3)
    probabilities = logits.softmax(-1)
    probabilities[..., 3] = -1
    assert torch.equal(found.candidate_BL, probabilities.argmax(-1))
    assert torch.equal(found.confidence_BL, probabilities.amax(-1))


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=25)
@given(rows(), st.sampled_from(SCORES))
def test_the_kernel_is_the_plain_form(device: str, made: tuple[Tensor, int], score: Score) -> None:
    assert_same(Evidence(*kernel(device, evidence)(*made, score)), evidence(*made, score), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("mask_id", [0, 5, 4999])
def test_rows_that_are_no_distribution(device: str, score: Score, mask_id: int) -> None:
    """NaN numbers, the lowest token, and nothing that hangs or points outside the vocabulary."""
    logits = torch.randn(1, 5, 5000)
    logits[0, 0] = -INF
    logits[0, 1] = NAN
    logits[0, 2, 4500] = NAN
    logits[0, 3, 4500] = INF
    logits[0, 4] = -INF
    logits[0, 4, mask_id] = 2.0  # all of it on the mask: a distribution, in which every candidate has probability 0
    for found in (evidence(logits, mask_id, score), Evidence(*kernel(device, evidence)(logits, mask_id, score))):
        assert found.candidate_BL.tolist() == [[1 if mask_id == 0 else 0] * 5]
        assert torch.stack(found[1:])[..., :4].isnan().all()
        assert found.confidence_BL[0, 4] == 0
        assert found.logsumexp_BL[0, 4] == 2
        assert found.score_BL[0, 4] == {"confidence": 0, "margin": 1, "negative_entropy": 0}[score]


@pytest.mark.parametrize("device", DEVICES)
def test_ranks_near_one_survive(device: str) -> None:
    """Two positions at 1 - 2e-7 and 1 - 4e-7 beside logits of 1000, where fp32 knows no step below 6e-5."""
    logits = torch.full((2, 5000), -INF)
    logits[:, 7] = 1000.0
    logits[0, 4999] = 1000 + math.log(2e-7)
    logits[1, 4999] = 1000 + math.log(4e-7)
    for found in (evidence(logits, 3), Evidence(*kernel(device, evidence)(logits, 3))):
        assert 1 - 3e-7 < found.confidence_BL[0] < 1
        assert 1 - 5e-7 < found.confidence_BL[1] < found.confidence_BL[0]


@pytest.mark.parametrize("device", DEVICES)
def test_a_row_does_not_depend_on_its_batch(device: str) -> None:
    logits = torch.randn(3, 2, 5000).bfloat16()
    run = kernel(device, evidence)
    for mine, alone in zip(run(logits, 3), run(logits[1:2], 3), strict=True):
        assert torch.equal(mine[1:2], alone)
