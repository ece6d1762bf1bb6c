"""Rewriting what has been committed: what goes, what stays, and when a block is over."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import one_hot

from unmask.decode.advance import drafts
from unmask.decode.editing import Edit, Posts
from unmask.decode.memory import Memory
from unmask.decode.proposal import Proposal
from unmask.decode.redundancy import ConfidenceCluster, Temporal, TokenCluster
from unmask.decode.rule import Commit, Rule, RulePart
from unmask.decode.rules import EntropyThreshold, Threshold
from unmask.decode.step import UNSETTLED, BlockFacts, StepSettings, decide
from unmask.methods.localleap import LocalLeap

MASK, EOS, VOCABULARY = 9, 8, 10


def evidence(token: list[list[int]], candidate: list[list[int]], confidence: list[list[float]], step: int = 0) -> Proposal:
    token_BL, candidate_BL, confidence_BL = torch.tensor(token), torch.tensor(candidate), torch.tensor(confidence)
    masked_BL, step_B = token_BL == MASK, torch.full((len(token),), step)
    return Proposal(
        candidate_BL=candidate_BL,
        confidence_BL=confidence_BL,
        score_BL=confidence_BL,
        masked_BL=masked_BL,
        open_BL=masked_BL,
        filler_BL=candidate_BL == EOS,
        step_B=step_B,
        suffix_B=step_B,
        token_BL=token_BL,
        fixed_BL=torch.zeros_like(masked_BL),
    )


def empty(rows: int, length: int) -> Posts:
    return Posts.empty(rows, length, torch.device("cpu"), torch.float32)


def test_a_committed_token_goes_where_another_is_sure() -> None:
    """Threshold .5: the unsure, the equal, the masked and the given stay; at 0 every other token goes."""
    shown = evidence([[1, 2, 3, MASK, 4]], [[5, 5, 3, 5, 5]], [[0.6, 0.4, 0.9, 0.9, 0.5]])
    assert Edit(threshold=0.5)(shown, empty(1, 5))[0].tolist() == [[True, False, False, False, True]]
    assert Edit(threshold=0.5, strict=True)(shown, empty(1, 5))[0].tolist() == [[True, False, False, False, False]]
    given = shown._replace(fixed_BL=torch.tensor([[True, False, False, False, False]]))
    assert Edit(threshold=0.0)(given, empty(1, 5))[0].tolist() == [[False, True, False, False, True]]


def test_steps_are_counted_from_where_the_block_is_complete_and_afresh_per_block() -> None:
    rule = Edit(threshold=0.5, max_post_steps=2)
    memory: Memory = empty(2, 2)
    settled = []
    for step, tokens in enumerate(([[1, MASK], [1, 2]], [[1, 2], [1, 2]], [[1, 2], [1, 2]])):
        _, memory = rule(evidence(tokens, tokens, [[0.9, 0.9]] * 2, step), memory)
        settled.append(rule.settled(memory).tolist())
    assert settled == [[False, False], [False, True], [True, True]]
    _, memory = rule(evidence([[MASK, 2], [1, 2]], [[1, 2]] * 2, [[0.9, 0.9]] * 2, 0), memory)
    assert rule.settled(memory).tolist() == [False, False]
    assert Edit(max_post_steps=0).settled(empty(2, 2)).tolist() == [True, True]


@settings(max_examples=60)
@given(st.integers(0, 2**20), st.sampled_from([0.0, 0.3, 0.9, 1.0]), st.booleans())
def test_only_written_tokens_go_and_a_row_is_that_row_alone(seed: int, threshold: float, strict: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    token_BL, candidate_BL = (torch.randint(0, VOCABULARY, (3, 6), generator=generator) for _ in range(2))
    shown = evidence(token_BL.tolist(), candidate_BL.tolist(), torch.rand(3, 6, generator=generator).tolist())
    shown = shown._replace(fixed_BL=torch.rand(3, 6, generator=generator) < 0.3)
    rule = Edit(threshold=threshold, strict=strict)
    taken_BL, _ = rule(shown, empty(3, 6))
    assert not (taken_BL & (shown.masked_BL | shown.fixed_BL | (candidate_BL == token_BL))).any()
    for row in range(3):
        alone_BL, _ = rule(shown.rows(torch.tensor([row])), empty(1, 6))
        assert torch.equal(alone_BL[0], taken_BL[row])


Model = Callable[[Tensor], Tensor]


def made_up(seed: int) -> Model:
    """A model of one block of 6: tokens [B, L] to logits [B, L, V], a function of every token."""
    weights = torch.randn(6, VOCABULARY, 6 * VOCABULARY, generator=torch.Generator().manual_seed(seed))
    weights[:, MASK] = -100.0

    def logits(token_BL: Tensor) -> Tensor:
        return torch.einsum("lvh,bh->blv", weights, one_hot(token_BL, VOCABULARY).flatten(1).float())

    return logits


def published(model: Model, *, threshold: float, edit: float, budget: int) -> tuple[list[int], int]:
    """LLaDA2.1's loop for one block as its ports have it: the tokens and the forwards."""
    block, posts, forwards = torch.full((6,), MASK), 0, 0
    while True:
        masked = block == MASK
        if not masked.any():
            posts += 1
            if posts > budget:
                break
        confidence, token = model(block[None])[0].softmax(-1).max(-1)
        forwards += 1
        fill = masked & (confidence > threshold)
        if masked.any() and not fill.any():
            fill = torch.arange(6) == confidence.where(masked, -1.0).argmax()
        rewritten = ~masked & (confidence > edit) & (token != block)
        block = torch.where(fill | rewritten, token, block)
        if not masked.any() and not rewritten.any():
            break
    return block.tolist(), forwards


def ours(model: Model, rules: tuple[Rule, ...], branches: int = 1) -> tuple[list[int], int, int]:
    """The same block by `decide`: the tokens, the steps and the forwards."""
    window_BL, nothing = torch.full((1, 6), MASK), torch.zeros(1, 6, dtype=torch.bool)
    zero, memories = torch.zeros(1, dtype=torch.long), (None, empty(1, 6))
    facts, last, forwards, left = BlockFacts(nothing, zero, zero, None), None, 0, 6
    while left != 0:
        states_BKL = window_BL[:, None]
        if last is not None and branches > 1:
            states_BKL = drafts(window_BL, last.candidate_BL, last.score_BL, branches, MASK)
        logits_RV = model(states_BKL.flatten(0, 1)).flatten(0, 1)
        eos_E = torch.tensor([EOS])
        outcome, left_B = decide(StepSettings(rules=rules), logits_RV, states_BKL, facts, memories, mask_id=MASK, eos_E=eos_E)
        window_BL, memories, last = outcome.window_BL, outcome.memories, outcome.last
        facts, left, forwards = facts._replace(step_B=outcome.step_B), int(left_B), forwards + 1
        assert left in (UNSETTLED, int((window_BL == MASK).sum()))
    return window_BL[0].tolist(), int(facts.step_B), forwards


@pytest.mark.parametrize("budget", [0, 1, 4, 16])
def test_a_block_is_the_published_loops_and_drafts_change_nothing(budget: int) -> None:
    """No forward once nothing changes, none behind the budget; with drafts the same steps in no more forwards."""
    ends = set()
    for seed in range(30):
        model = made_up(seed)
        tokens, forwards = published(model, threshold=0.6, edit=0.3, budget=budget)
        rules = (Threshold(threshold=0.6, strict=True), Edit(threshold=0.3, max_post_steps=budget, strict=True))
        assert ours(model, rules) == (tokens, forwards, forwards)
        drafted = ours(model, rules, branches=3)
        assert drafted[:2] == (tokens, forwards)
        assert drafted[2] <= forwards
        ends.add(forwards)
    assert len(ends) > 1


# --- editing around every rule --------------------------------------------------------------------------------------------

BASES: tuple[Commit, ...] = (Threshold(threshold=0.6), EntropyThreshold(threshold=0.8), LocalLeap(threshold=0.7, radius=1))
R2: tuple[RulePart, ...] = (
    TokenCluster(threshold=0.3),
    ConfidenceCluster(size=3, threshold=0.5, max_unmasked=1),
    Temporal(steps=2, threshold=0.3),
)


@settings(max_examples=80)
@given(
    st.integers(0, 2**20), st.sampled_from(BASES), st.booleans(), st.booleans(), st.sampled_from([0, 1, 5]), st.integers(1, 3)
)
def test_an_edit_never_touches_what_is_fixed_and_every_block_ends(
    seed: int, base: Commit, with_r2: bool, one_per_run: bool, budget: int, branches: int
) -> None:
    """Whatever fills the masks, with drafts or without: at most a step per mask and `budget` more."""
    generator, model = torch.Generator().manual_seed(seed), made_up(seed)
    fixed_BL = torch.rand(1, 6, generator=generator) < 0.3
    given_BL = torch.where(fixed_BL, torch.randint(0, EOS, (1, 6), generator=generator), MASK)
    rules = (base, *(R2 if with_r2 else ()), Edit(threshold=0.2, max_post_steps=budget))
    settings = StepSettings(rules=rules, score=base.evidence(), one_per_run=one_per_run)
    memories = tuple(rule.state and rule.state.empty(1, 6, torch.device("cpu"), torch.float32) for rule in rules)
    zero, eos_E = torch.zeros(1, dtype=torch.long), torch.tensor([EOS])
    facts, window_BL, last, left = BlockFacts(fixed_BL, zero, zero, None), given_BL, None, int((~fixed_BL).sum())
    open_before = left
    while left != 0:
        states_BKL = window_BL[:, None]
        if last is not None and branches > 1:
            states_BKL = drafts(window_BL, last.candidate_BL, last.score_BL, branches, MASK)
        logits_RV = model(states_BKL.flatten(0, 1)).flatten(0, 1)
        outcome, left_B = decide(settings, logits_RV, states_BKL, facts, memories, mask_id=MASK, eos_E=eos_E)
        window_BL, memories, last = outcome.window_BL, outcome.memories, outcome.last
        facts, left = facts._replace(step_B=outcome.step_B), int(left_B)
        assert torch.equal(window_BL[fixed_BL], given_BL[fixed_BL])
        assert int(facts.step_B) <= open_before + budget
    assert (window_BL != MASK).all()
