"""Candidates, confidences and samples."""

import math

import pytest
import torch

from unmask.decode.proposal import Proposal
from unmask.decode.sampling import Sampling, gumbel, sample
from unmask.decode.step import BlockFacts, propose


def proposed(logits: torch.Tensor, sampling: Sampling | None = None, **options: object) -> Proposal:
    zero, tokens = torch.zeros(len(logits), dtype=torch.long), torch.full(logits.shape[:2], 3)
    facts = BlockFacts(torch.zeros_like(tokens, dtype=torch.bool), zero, zero, sampling)
    return propose(logits, tokens, facts, mask_id=3, eos_E=torch.tensor([2]), **options)  # type: ignore[arg-type]


def sampling(temperature: float, count: int, top_p: float | None = None, top_k: int | None = None) -> Sampling:
    return Sampling(
        temperature_B1=torch.tensor([[temperature]]),
        seed_B1=torch.tensor([[11]]),
        positions_BL=torch.arange(count)[None],
        top_p_B1=None if top_p is None else torch.tensor([[top_p]]),
        top_k_B1=None if top_k is None else torch.tensor([[top_k]]),
    )


def test_confidence_is_fp32_whatever_the_logits_are() -> None:
    logits = torch.tensor([[[1.0, 2.0, 4.0, 0.0]]], dtype=torch.bfloat16)
    made = proposed(logits)
    assert made.confidence_BL.dtype == torch.float32
    assert made.confidence_BL.item() == pytest.approx(logits.float().softmax(-1)[0, 0, 2].item(), abs=1e-7)
    assert made.filler_BL.item() is True


@pytest.mark.parametrize("temperature", [None, 0.0, 2.0])
def test_tokens_that_no_position_becomes_keep_their_share(temperature: float | None) -> None:
    logits = torch.tensor([[[1.0, 0.5, 4.0, 6.0]]]).expand(-1, 30, -1)
    made = proposed(logits, None if temperature is None else sampling(temperature, 30), never=(2,))
    assert set(made.candidate_BL[0].tolist()) == ({0, 1} if temperature else {0})
    share_BL = logits.softmax(-1).gather(-1, made.candidate_BL[..., None])[..., 0]
    torch.testing.assert_close(made.confidence_BL, share_BL)


def test_the_mask_is_never_a_candidate() -> None:
    made = proposed(torch.tensor([[[1.0, 2.0, 0.0, 50.0]]]))
    assert made.candidate_BL.item() == 1
    hot = sample(torch.tensor([[[1.0, 2.0, 0.0, 50.0]]]), sampling(1.0, 1), 3)
    assert hot.item() != 3


def test_confidence_of_a_sample_is_that_of_the_untempered_distribution() -> None:
    logits = torch.tensor([[[1.0, 2.0, 0.0, -9.0]]]).expand(1, 64, 4).contiguous()
    made = proposed(logits, sampling=sampling(5.0, 64))
    expected = logits.softmax(-1).gather(-1, made.candidate_BL[..., None])[..., 0]
    torch.testing.assert_close(made.confidence_BL, expected)
    assert len(made.candidate_BL.unique()) > 1


def test_gumbel_max_draws_from_the_tempered_softmax() -> None:
    """40,000 positions of one distribution: every share within five standard errors."""
    count = 40_000
    logits = torch.tensor([0.0, 1.0, 2.0, -99.0]).expand(1, count, 4).contiguous()
    drawn = sample(logits, sampling(1.5, count), 3)[0]
    for token, share in enumerate((logits[0, 0] / 1.5).softmax(-1).tolist()[:3]):
        error = math.sqrt(share * (1 - share) / count)
        assert abs((drawn == token).float().mean().item() - share) < 5 * error


def test_noise_is_a_function_of_seed_position_and_token() -> None:
    seeds, places = torch.tensor([[1], [2]]), torch.tensor([[0, 1], [0, 1]])
    noise = gumbel(seeds, places, 50)
    assert torch.equal(noise[1:], gumbel(seeds[1:], places[1:], 50))
    assert torch.equal(noise[:, 1:, :30], gumbel(seeds, places[:, 1:], 30))
    assert len(noise.unique()) == noise.numel()
    assert noise.isfinite().all()


def test_noise_is_finite_at_a_real_vocabulary() -> None:
    """Position 205 of seed 0 once rounded a uniform up to 1: infinite noise, and a random token committed."""
    assert gumbel(torch.tensor([[0]]), torch.arange(200, 210)[None], 126464).isfinite().all()
    sure = torch.full((1, 1, 126464), -20.0)
    sure[..., 5] = 20
    numbers = sampling(0.7, 1)._replace(seed_B1=torch.tensor([[0]]), positions_BL=torch.tensor([[205]]))
    assert sample(sure, numbers, 3).item() == 5


def test_filters_never_leave_nothing() -> None:
    """top_p 0 keeps the first token; a mask that ranks first does not take the only place."""
    logits = torch.tensor([1.0, 2.0, 0.0, 50.0]).expand(1, 8, 4).contiguous()
    for narrowed in ({"top_p": 0.0}, {"top_k": 1}, {"top_p": 0.3}):
        assert sample(logits, sampling(1.0, 8, **narrowed), 3).unique().tolist() == [1]


def test_top_k_and_top_p_keep_the_head() -> None:
    """Probabilities .5 .3 .15 .05: top-k 2 and top-p .7 keep two, top-p .5 keeps one."""
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05, 1e-9]).log().expand(1, 4000, 5).contiguous()
    for narrowed, kept in (
        ({"top_k": 2}, {0, 1}),
        ({"top_p": 0.7}, {0, 1}),
        ({"top_p": 0.5}, {0}),
        ({"top_p": 0.81}, {0, 1, 2}),
    ):
        drawn = sample(logits, sampling(1.0, 4000, **narrowed), 4)
        assert set(drawn.unique().tolist()) == kept, narrowed


def test_scores_of_dream() -> None:
    """Greedy or sampled, the same evidence: the scores are those of the untempered distribution."""
    shares = (0.6, 0.3, 0.1)
    logits = torch.tensor([[[*shares, 1e-9]]]).log()
    entropy = sum(share * math.log(share) for share in shares)
    for options in ({}, {"sampling": sampling(2.0, 1)}):
        assert proposed(logits, score="margin", **options).score_BL.item() == pytest.approx(0.3, abs=1e-6)
        assert proposed(logits, score="negative_entropy", **options).score_BL.item() == pytest.approx(entropy, abs=1e-6)


def test_official_precision_is_float64() -> None:
    made = proposed(torch.tensor([[[1.0, 2.0, 4.0, 0.0]]]).bfloat16(), precision=torch.float64)
    assert made.confidence_BL.dtype == torch.float64
    assert made.confidence_BL.item() == pytest.approx(math.exp(4) / sum(map(math.exp, (1, 2, 4, 0))), abs=1e-15)
