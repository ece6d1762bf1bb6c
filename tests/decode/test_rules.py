"""Each rule by hand on the papers' examples, and its promises on random evidence."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unmask.decode.around import Anchored, WithinSubBlock
from unmask.decode.memory import Memory
from unmask.decode.proposal import Proposal
from unmask.decode.redundancy import ConfidenceCluster, Temporal, TokenCluster
from unmask.decode.rule import Commit, Rule, Terms, select
from unmask.decode.rules import All, EntropyThreshold, Factor, Leftmost, Quota, QuotaOrThreshold, Schedule, Threshold
from unmask.decode.step import BlockFacts, propose
from unmask.errors import ConfigError
from unmask.methods.eb_sampler import EntropyBound
from unmask.methods.localleap import LocalLeap

BASE: list[Rule] = [
    Quota(steps=3),
    Schedule(steps=5),
    Threshold(threshold=0.9),
    Threshold(threshold=0.9, alpha=0.5),
    Threshold(threshold=0.9, alpha=0.5, official=True),
    Factor(factor=1.0),
    Factor(factor=1.0, official=True),
    EntropyBound(gamma=0.2),
    EntropyThreshold(threshold=0.5),
    LocalLeap(radius=2),
    Threshold(threshold=0.9, strict=True),
    Leftmost(steps=3),
    All(),
    QuotaOrThreshold(steps=3, threshold=0.9),
    QuotaOrThreshold(steps=3, threshold=0.9, strict=True),
    QuotaOrThreshold(threshold=0.9),
]
REST: list[Rule] = [
    ConfidenceCluster(size=3, threshold=0.7, max_unmasked=1),
    ConfidenceCluster(size=3, threshold=0.7, max_unmasked=None),
    TokenCluster(threshold=0.5),
    TokenCluster(threshold=0.5, pick="mid"),
    TokenCluster(threshold=0.5, pick="random"),
    Temporal(steps=2, threshold=0.5),
    Temporal(steps=2, threshold=0.5, metric="ave"),
    Temporal(steps=2, threshold=0.5, metric="max"),
]


def evidence(
    confidence: list[list[float]],
    candidate: list[list[int]] | None = None,
    masked: list[list[bool]] | None = None,
    step: int = 0,
    suffix: int = 0,
    filler: bool = False,
) -> Proposal:
    confidence_BL = torch.tensor(confidence)
    masked_BL = torch.ones_like(confidence_BL, dtype=torch.bool) if masked is None else torch.tensor(masked)
    rows, length = confidence_BL.shape
    return Proposal(
        candidate_BL=torch.arange(length).repeat(rows, 1) if candidate is None else torch.tensor(candidate),
        confidence_BL=confidence_BL,
        score_BL=confidence_BL,
        masked_BL=masked_BL,
        open_BL=masked_BL,
        filler_BL=torch.full_like(masked_BL, filler),
        step_B=torch.full((rows,), step),
        suffix_B=torch.full((rows,), suffix),
        token_BL=torch.where(masked_BL, 999, 0),
        fixed_BL=torch.zeros_like(masked_BL),
    )


def memory(rule: Rule, rows: int, length: int) -> Memory:
    return None if rule.state is None else rule.state.empty(rows, length, torch.device("cpu"), torch.float32)


def places(mask_BL: Tensor) -> list[list[int]]:
    return [row.nonzero()[:, 0].tolist() for row in mask_BL]


@st.composite
def situations(draw: st.DrawFn) -> Proposal:
    rows, length = draw(st.integers(1, 3)), 8

    def grid(values: st.SearchStrategy) -> list:
        return [[draw(values) for _ in range(length)] for _ in range(rows)]

    return evidence(
        grid(st.sampled_from([0.05, 0.4, 0.6, 0.75, 0.85, 0.9, 0.95, 1.0])),
        grid(st.integers(0, 2)),
        grid(st.booleans()),
        step=draw(st.integers(0, 4)),
        suffix=draw(st.integers(0, 40)),
    )


@settings(max_examples=80)
@given(situations())
def test_no_rule_takes_what_is_not_open(proposal: Proposal) -> None:
    for rule in BASE + REST + [Anchored(rule=base) for base in BASE] + [WithinSubBlock(rule=rule, length=3) for rule in REST]:
        mask_BL, _ = rule(proposal, memory(rule, *proposal.open_BL.shape))
        assert not (mask_BL & ~proposal.open_BL).any(), rule


@settings(max_examples=80)
@given(situations())
def test_a_base_rule_takes_something_of_every_open_row(proposal: Proposal) -> None:
    for rule in BASE + [WithinSubBlock(rule=base, length=3) for base in BASE]:
        mask_BL, _ = rule(proposal, None)
        assert (mask_BL.any(dim=1) == proposal.open_BL.any(dim=1)).all(), rule


@settings(max_examples=80)
@given(situations(), st.permutations(range(len(REST))), st.booleans())
def test_rules_in_order_never_overlap_and_always_progress(proposal: Proposal, order: list[int], one_per_run: bool) -> None:
    rules = (Threshold(threshold=0.9), *(REST[number] for number in order[:3]))
    memories = tuple(memory(rule, *proposal.open_BL.shape) for rule in rules)
    taken_BL = select(rules, proposal, memories, one_per_run=one_per_run).taken_BL
    assert not ((taken_BL > 0) & ~proposal.masked_BL).any()
    assert taken_BL.max() <= len(rules)
    assert ((taken_BL > 0).any(dim=1) == proposal.masked_BL.any(dim=1)).all()
    if one_per_run:
        for row in range(len(taken_BL)):
            for place in range(taken_BL.shape[1] - 1):
                equal = proposal.candidate_BL[row, place] == proposal.candidate_BL[row, place + 1]
                assert not (equal and (taken_BL[row, place : place + 2] > 0).all())


@settings(max_examples=50)
@given(situations())
def test_one_row_of_many_is_that_row_alone(proposal: Proposal) -> None:
    for rule in BASE + REST + [WithinSubBlock(rule=rule, length=3) for rule in BASE + REST]:
        if isinstance(rule, TokenCluster) and rule.pick == "random":
            continue
        together, _ = rule(proposal, memory(rule, *proposal.open_BL.shape))
        for row in range(len(together)):
            alone = proposal.rows(torch.tensor([row]))
            mask_BL, _ = rule(alone, memory(rule, 1, together.shape[1]))
            assert torch.equal(mask_BL[0], together[row]), rule


def test_quota_takes_the_surest() -> None:
    mask_BL, _ = Quota(steps=3)(evidence([[0.1, 0.9, 0.5, 0.7]]), None)
    assert places(mask_BL) == [[1, 3]]


def test_shares_are_even_and_the_surplus_comes_first() -> None:
    """8 positions in 3 steps: 3, 3, 2; what the shares leave over at the end is what is there."""
    whole = evidence([[0.1, 0.9, 0.5, 0.7, 0.3, 0.4, 0.6, 0.2]])
    for step, count in enumerate((3, 3, 2)):
        shown = whole._replace(step_B=torch.tensor([step]))
        assert places(Leftmost(steps=3)(shown, None)[0]) == [list(range(count))]
    late = evidence([[0.1, 0.9, 0.5, 0.7]], masked=[[False, True, False, True]])
    assert places(Leftmost(steps=2)(late, None)[0]) == [[1, 3]]
    assert places(Leftmost(steps=4)(late, None)[0]) == [[1]]
    assert places(All()(late, None)[0]) == [[1, 3]]


def test_quota_or_threshold_takes_the_quota_where_too_few_are_sure() -> None:
    """Two per step: three above .8 all go; one above .9 is too few, so the two best go; a lone mask goes."""
    shown = evidence([[0.95, 0.2, 0.85, 0.88]])
    assert places(QuotaOrThreshold(steps=2, threshold=0.8)(shown, None)[0]) == [[0, 2, 3]]
    assert places(QuotaOrThreshold(steps=2, threshold=0.9)(shown, None)[0]) == [[0, 3]]
    alone = shown._replace(open_BL=torch.tensor([[False, True, False, False]]))
    assert places(QuotaOrThreshold(steps=2, threshold=0.9)(alone, None)[0]) == [[1]]


def test_a_strict_threshold_must_be_exceeded() -> None:
    shown = evidence([[0.5, 1.0, 0.75, 1.0]])
    assert places(Threshold(threshold=1.0)(shown, None)[0]) == [[1, 3]]
    assert places(Threshold(threshold=1.0, strict=True)(shown, None)[0]) == [[1]]
    assert places(QuotaOrThreshold(threshold=0.75)(shown, None)[0]) == [[1, 2, 3]]
    assert places(QuotaOrThreshold(threshold=0.75, strict=True)(shown, None)[0]) == [[1, 3]]


def test_where_a_rule_decides_says_its_steps_and_its_comparison() -> None:
    """Steps are per block on a block-causal model; there alone a published loop compares strictly."""

    def bound(rule: Commit, **terms: Any) -> Any:
        return rule.bind(Terms(**{"answer_length": 24, "block_length": 8} | terms))

    assert bound(Quota(steps=12)).steps == 4
    assert bound(Quota(steps=4), on_grid=True).steps == 4
    assert bound(QuotaOrThreshold(), on_grid=True, answer_length=21).steps == 8
    with pytest.raises(ConfigError, match="9 steps for 8 tokens"):
        bound(Leftmost(steps=9), on_grid=True)
    for official, on_grid in ((False, False), (False, True), (True, False), (True, True)):
        for rule in (Threshold(), QuotaOrThreshold()):
            assert bound(rule, official=official, on_grid=on_grid).strict is (official and on_grid)
    # LLaDA2 cuts the steps of a short answer: 24 tokens, at least 8 of them per step, 3 steps.
    assert bound(QuotaOrThreshold(minimal_topk=8), on_grid=True).steps == 3
    assert bound(QuotaOrThreshold(minimal_topk=1), on_grid=True, block_length=32).steps == 24


def test_threshold_takes_at_least_the_surest() -> None:
    mask_BL, _ = Threshold(threshold=0.9)(evidence([[0.9, 0.2, 0.95], [0.3, 0.5, 0.2]]), None)
    assert places(mask_BL) == [[0, 2], [1]]


def test_dynamic_threshold_falls_with_the_block_and_published_one_with_the_query() -> None:
    """Threshold .9, alpha .4, two of four masked: .72 by the block; by a query with 4 suffix masks r = 6/8, .81."""
    half = evidence([[0.75, 0.85, 0.99, 0.99]], masked=[[True, True, False, False]], step=1, suffix=4)
    assert places(Threshold(threshold=0.9, alpha=0.4)(half, None)[0]) == [[0, 1]]
    assert places(Threshold(threshold=0.9, alpha=0.4, official=True)(half, None)[0]) == [[1]]
    first = half._replace(step_B=torch.zeros(1, dtype=torch.long))
    assert places(Threshold(threshold=0.7, alpha=0.9, official=True)(first, None)[0]) == [[0, 1]]


def test_factor_and_the_published_off_by_one() -> None:
    """C = .99 .10: the theorem allows one, the published loop takes both; c = .99 .98 .01: two, and three."""
    for confidence, right, published in (([0.99, 0.10], 1, 2), ([0.99, 0.98, 0.01], 2, 3), ([0.99, 0.5, 0.4, 0.3], 1, 1)):
        assert int(Factor(factor=1.0)(evidence([confidence]), None)[0].sum()) == right
        assert int(Factor(factor=1.0, official=True)(evidence([confidence]), None)[0].sum()) == published


def test_confidence_cluster_counts_only_what_is_open() -> None:
    """.95 .75 .72 after a threshold of .9: the open mean is .735, under .8; with .95 in it the mean would be .807."""
    proposal = evidence([[0.95, 0.75, 0.72]], masked=[[True, True, True]])._replace(open_BL=torch.tensor([[False, True, True]]))
    assert places(ConfidenceCluster(size=3, threshold=0.8, max_unmasked=1)(proposal, None)[0]) == [[]]
    assert places(ConfidenceCluster(size=3, threshold=0.73, max_unmasked=1)(proposal, None)[0]) == [[1, 2]]
    assert places(ConfidenceCluster(size=3, threshold=0.73, max_unmasked=0)(proposal, None)[0]) == [[]]


def test_windows_do_not_feed_one_another() -> None:
    confidence = [[0.9, 0.8, 0.7, 0.3, 0.1]]
    assert places(ConfidenceCluster(size=2, threshold=0.75, max_unmasked=0)(evidence(confidence), None)[0]) == [[0, 1, 2]]


def test_token_cluster_takes_one_of_a_run() -> None:
    proposal = evidence([[0.5, 0.85, 0.6, 0.9, 0.4]], [[7, 7, 7, 3, 3]])
    assert places(TokenCluster(threshold=0.8)(proposal, None)[0]) == [[1, 3]]
    assert places(TokenCluster(threshold=0.8, min_length=3)(proposal, None)[0]) == [[1]]
    assert places(TokenCluster(threshold=0.8, pick="mid")(proposal, None)[0]) == [[1, 4]]
    drawn = places(TokenCluster(threshold=0.8, pick="random")(proposal, None)[0])[0]
    assert len(drawn) == 2
    assert drawn[0] in (0, 1, 2)
    assert drawn[1] in (3, 4)


def test_temporal_waits_for_the_third_sight_and_starts_afresh_with_a_block() -> None:
    rule = Temporal(steps=3, threshold=0.7)
    streak: Memory = memory(rule, 1, 2)
    taken = []
    for step in range(3):
        mask_BL, streak = rule(evidence([[0.8, 0.8]], [[5, step]], step=step), streak)
        taken.append(places(mask_BL)[0])
    assert taken == [[], [], [0]]
    again, _ = rule(evidence([[0.8, 0.8]], [[5, 2]], step=0), streak)
    assert places(again) == [[]]


def test_temporal_metrics() -> None:
    """Confidences .9 then .5: last .5, average .7, largest .9."""
    for metric, threshold, fires in (
        ("last", 0.6, False),
        ("ave", 0.69, True),
        ("ave", 0.71, False),
        ("max", 0.9, True),
    ):
        rule = Temporal(steps=2, threshold=threshold, metric=metric)  # type: ignore[arg-type]
        _, streak = rule(evidence([[0.9]], step=0), memory(rule, 1, 1))
        mask_BL, _ = rule(evidence([[0.5]], step=1), streak)
        assert bool(mask_BL.any()) is fires, metric


def test_copies_of_a_word_are_committed_once() -> None:
    """R2-dLLM's hazards: .95 .85 .70 of one token (threshold, then run), and .88 .83 .80 (a window over a run)."""
    rules = (
        Threshold(threshold=0.9),
        TokenCluster(threshold=0.8),
        ConfidenceCluster(size=3, threshold=0.8, max_unmasked=1),
    )
    for confidence in ([0.95, 0.85, 0.70], [0.88, 0.83, 0.80]):
        proposal = evidence([confidence], [[4, 4, 4]])
        published = (rules[0], rules[2], rules[1])
        many = select(published, proposal, (None,) * 3).taken_BL
        once = select(rules, proposal, (None,) * 3, one_per_run=True).taken_BL
        assert int((many > 0).sum()) > 1
        assert places(once > 0) == [[0]]
        ends = proposal._replace(filler_BL=torch.ones_like(proposal.masked_BL))
        assert int((select(rules, ends, (None,) * 3, one_per_run=True).taken_BL > 0).sum()) > 1


def test_order_decides_which_rule_names_a_commit() -> None:
    proposal = evidence([[0.85, 0.85, 0.85]])
    taken_BL = select(
        (Threshold(threshold=0.9), ConfidenceCluster(size=3, threshold=0.8, max_unmasked=1), TokenCluster(threshold=0.1)),
        proposal,
        (None,) * 3,
    ).taken_BL
    assert taken_BL.tolist() == [[1, 2, 2]]


def test_anchor_takes_the_first_position_of_a_refresh_only() -> None:
    rule = Anchored(rule=Threshold(threshold=0.5))
    assert places(rule(evidence([[0.1, 0.9]]), None)[0]) == [[0]]
    assert places(rule(evidence([[0.1, 0.9]], step=1), None)[0]) == [[1]]


def test_sub_blocks_come_one_after_the_other() -> None:
    """Sub-blocks of 2: the first that has a mask decides alone, by itself, for every rule of the step."""
    shown = evidence(
        [[0.99, 0.6, 0.95, 0.99], [0.5, 0.5, 0.2, 0.1]], masked=[[False, True, True, True], [False] * 2 + [True] * 2]
    )
    rule = WithinSubBlock(rule=Threshold(threshold=0.9), length=2)
    assert places(rule(shown, None)[0]) == [[1], [2]]
    later = shown._replace(open_BL=shown.open_BL & torch.tensor([[True, False, True, True]]))
    assert places(WithinSubBlock(rule=All(), length=2)(later, None)[0]) == [[], [2, 3]]
    assert places(WithinSubBlock(rule=All(), length=99)(later, None)[0]) == [[2, 3], [2, 3]]


# --- entropy and LocalLeap ----------------------------------------------------------------------------------------------


def test_entropy_by_hand() -> None:
    """All at most this many nats, and the least anyway; confidences play no part."""
    proposal = evidence([[0.3, 0.9, 0.6, 0.5]])._replace(score_BL=-torch.tensor([[0.5, 0.6, 2.0, 0.1]]))
    for threshold, taken in ((0.5, [0, 3]), (0.49, [3]), (0.0, [3]), (1.0, [0, 1, 3])):
        assert places(EntropyThreshold(threshold=threshold)(proposal, None)[0]) == [taken]
    closed = proposal._replace(open_BL=torch.tensor([[False, True, True, False]]))
    assert places(EntropyThreshold(threshold=0.5)(closed, None)[0]) == [[1]]


def test_entropy_of_a_forward_is_in_nats() -> None:
    """Two equal tokens of four, the others impossible: ln 2."""
    logits = torch.tensor([[[0.0, 0.0, -torch.inf, -torch.inf]]])
    zero = torch.zeros(1, dtype=torch.long)
    facts = BlockFacts(torch.tensor([[False]]), zero, zero, None)
    made = propose(logits, torch.tensor([[3]]), facts, mask_id=3, eos_E=zero, score=EntropyThreshold().evidence())
    assert made.entropy.item() == pytest.approx(0.693147, abs=1e-6)


def test_localleap_by_hand() -> None:
    row = evidence([[0.8, 0.7, 0.95, 0.5, 0.8, 0.74, 0.8]])
    for radius, taken in ((0, [2]), (1, [2]), (2, [0, 2, 4]), (4, [0, 2, 4, 6]), (99, [0, 2, 4, 6])):
        assert places(LocalLeap(threshold=0.9, relaxed_threshold=0.75, radius=radius)(row, None)[0]) == [taken]
    # What is committed already is no anchor, and without an anchor only the best goes.
    closed = row._replace(open_BL=torch.tensor([[True, True, False, True, True, True, True]]))
    assert places(LocalLeap(radius=4)(closed, None)[0]) == [[0]]


@settings(max_examples=80)
@given(situations(), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.integers(0, 9))
def test_lower_bars_and_wider_radii_take_no_less(proposal: Proposal, bar: float, low: float, less: float, radius: int) -> None:
    def leap(threshold: float, relaxed: float, radius: int) -> Tensor:
        return LocalLeap(threshold=threshold, relaxed_threshold=relaxed, radius=radius)(proposal, None)[0]

    usual = leap(bar, low, radius)
    for wider in (leap(bar * less, low, radius), leap(bar, low * less, radius), leap(bar, low, radius + 1)):
        assert not (usual & ~wider).any()
    plain_BL, _ = Threshold(threshold=bar)(proposal, None)
    assert torch.equal(leap(bar, low, 0), plain_BL)
    assert torch.equal(leap(bar, bar, radius), plain_BL)
    surprise = proposal._replace(score_BL=proposal.confidence_BL.log())  # -ln p is an entropy as good as any
    few_BL, _ = EntropyThreshold(threshold=bar)(surprise, None)
    more_BL, _ = EntropyThreshold(threshold=bar + low)(surprise, None)
    assert not (few_BL & ~more_BL).any()
