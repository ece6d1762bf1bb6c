"""EB-Sampler's bound by hand, its promises on random evidence, and that it runs with everything."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import unmask
from unmask.decode.proposal import Proposal
from unmask.decode.step import BlockFacts, propose
from unmask.methods.eb_sampler import EntropyBound
from unmask.methods.table import TABLE

QUESTION = "Mia has 23 apples. On Monday Mia buys 8. How many apples does Mia have?"


def evidence(confidence: list[list[float]], entropy: list[list[float]], masked: list[list[bool]] | None = None) -> Proposal:
    confidence_BL = torch.tensor(confidence)
    masked_BL = torch.ones_like(confidence_BL, dtype=torch.bool) if masked is None else torch.tensor(masked)
    rows, length = confidence_BL.shape
    return Proposal(
        candidate_BL=torch.arange(length).repeat(rows, 1),
        confidence_BL=confidence_BL,
        score_BL=-torch.tensor(entropy),
        masked_BL=masked_BL,
        open_BL=masked_BL,
        filler_BL=torch.zeros_like(masked_BL),
        step_B=torch.zeros(rows, dtype=torch.long),
        suffix_B=torch.zeros(rows, dtype=torch.long),
        token_BL=torch.where(masked_BL, 999, 0),
        fixed_BL=torch.zeros_like(masked_BL),
    )


def taken(proposal: Proposal, gamma: float) -> list[list[int]]:
    mask_BL, _ = EntropyBound(gamma=gamma)(proposal, None)
    return [row.nonzero()[:, 0].tolist() for row in mask_BL]


def test_the_bound_by_hand() -> None:
    """Sorted .99 .9 .8 .7 with entropies .05 .3 .2 .8; sums without the largest: 0, .05, .25, .55."""
    row = evidence([[0.7, 0.99, 0.8, 0.9]], [[0.8, 0.05, 0.2, 0.3]])
    for gamma, places in ((0.0, [1]), (0.04, [1]), (0.06, [1, 3]), (0.26, [1, 2, 3]), (0.56, [0, 1, 2, 3])):
        assert taken(row, gamma) == [places]
    closed = row._replace(open_BL=torch.tensor([[True, False, True, True]]))
    assert taken(closed, 0.21) == [[2, 3]]  # .9 .8 .7: sums 0, .2, .5
    assert taken(row._replace(open_BL=torch.zeros(1, 4, dtype=torch.bool)), 9.0) == [[]]


def test_the_running_maximum_is_each_rows_own() -> None:
    """A row of large entropies first: a maximum over the batch would let the second row take all three."""
    first, second = [2.0, 2.0, 2.0], [0.5, 0.5, 0.5]
    confidence = [0.9, 0.8, 0.7]
    both = evidence([confidence, confidence], [first, second])
    assert taken(both, 0.6) == [[0], [0, 1]]
    assert taken(evidence([confidence], [second]), 0.6) == [[0, 1]]


@settings(max_examples=60)
@given(st.integers(0, 2**20), st.floats(0, 3), st.floats(0, 3))
def test_at_least_one_each_row_alone_more_with_more_and_never_over_the_bound(seed: int, gamma: float, more: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(3, 8, 12, generator=generator)
    masked = torch.rand(3, 8, generator=generator) < 0.7
    zero = torch.zeros(3, dtype=torch.long)
    facts = BlockFacts(torch.zeros_like(masked), zero, zero, None)
    tokens = torch.where(masked, 11, 0)
    made = propose(logits, tokens, facts, mask_id=11, eos_E=zero[:1], score=EntropyBound(gamma=gamma).evidence())
    mask_BL, _ = EntropyBound(gamma=gamma)(made, None)
    assert (mask_BL.any(dim=1) == masked.any(dim=1)).all()
    assert not (mask_BL & ~masked).any()
    wider_BL, _ = EntropyBound(gamma=gamma + more)(made, None)
    assert not (mask_BL & ~wider_BL).any()
    entropy_BL = torch.distributions.Categorical(logits=logits).entropy()
    for row in range(3):
        alone = made.rows(torch.tensor([row]))
        assert torch.equal(EntropyBound(gamma=gamma)(alone, None)[0][0], mask_BL[row])
        inside = entropy_BL[row][mask_BL[row]]
        if len(inside):
            assert inside.sum() - inside.max() <= gamma + 1e-5
            least = made.confidence_BL[row][mask_BL[row]].min()
            assert not (made.confidence_BL[row][masked[row] & ~mask_BL[row]] > least).any()


def test_there_is_no_official_twin_and_the_docstring_says_why() -> None:
    import unmask.methods.eb_sampler as module

    assert "eb-sampler-official" not in TABLE
    assert "no -official twin" in " ".join((module.__doc__ or "").split())
    with pytest.raises(unmask.ConfigError, match="eb-sampler"):
        unmask.method("eb-sampler-official")


@pytest.mark.parametrize(
    ("cache", "options"),
    [
        (cache, options)
        for cache in ("none", "prefix", "dual")
        for options in ({}, {"draft_steps": 3}, {"suffix_window": 16}, {"prompt_interval": 2})
        if cache != "none" or "prompt_interval" not in options
    ],
)
def test_it_runs_with_every_context_and_in_batches_as_alone(cache: str, options: dict[str, int]) -> None:
    model = unmask.load("unmask-tiny")
    method = unmask.method("eb-sampler", cache=cache, **options)
    prompts = [QUESTION, "Compute 12 - 9."]
    done = unmask.generate(model, prompts, method=method, max_new_tokens=64)
    for prompt, row in zip(prompts, done, strict=True):
        alone = unmask.generate(model, [prompt], method=method, max_new_tokens=64)[0]
        assert (alone.token_ids, alone.forwards) == (row.token_ids, row.forwards)
        assert set(row.commits) == {"entropy_bound"}
        assert row.forwards < row.tokens
    if "draft_steps" in options:
        plain = unmask.generate(model, prompts, method=method.change(draft=None), max_new_tokens=64)
        assert all(a.forwards <= b.forwards for a, b in zip(done, plain, strict=True))


def test_gamma_trades_forwards() -> None:
    model = unmask.load("unmask-tiny")
    counts = [
        unmask.generate(model, [QUESTION], method=unmask.method("eb-sampler", gamma=gamma), max_new_tokens=64)[0].forwards
        for gamma in (0.0, 0.1, 1.0)
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]
