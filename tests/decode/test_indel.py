"""Delete and split: where tokens move to, which round is the last, and the whole loop beside one that is written plainly."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import one_hot

from unmask.decode.advance import drafts
from unmask.decode.indel import Indel, Rounds, moved
from unmask.decode.memory import Memory
from unmask.decode.proposal import Proposal
from unmask.decode.rule import select
from unmask.decode.step import BlockFacts, StepSettings, decide
from unmask.errors import ConfigError
from unmask.methods import load

MASK, DELETE, SPLIT, VOCABULARY, LENGTH = 9, 7, 8, 10, 6


def empty(rows: int) -> Rounds:
    return Rounds.empty(rows, LENGTH, torch.device("cpu"), torch.float32)


def evidence(token: list[int], candidate: list[int], confidence: list[float], *, fixed: int = 0, step: int = 0) -> Proposal:
    """Of one row, whose second choice is everywhere 6 and third 5, and whose first `fixed` positions are given."""
    token_BL, candidate_BL, confidence_BL = torch.tensor([token]), torch.tensor([candidate]), torch.tensor([confidence])
    fixed_BL = torch.arange(len(token))[None] < fixed
    masked_BL = (token_BL == MASK) & ~fixed_BL
    second = torch.tensor([[[float(one == MASK) * -9 + 2 * (one == 6) + (one == 5) for one in range(VOCABULARY)]]])
    return Proposal(
        candidate_BL=candidate_BL,
        confidence_BL=confidence_BL,
        score_BL=confidence_BL,
        masked_BL=masked_BL,
        open_BL=masked_BL,
        filler_BL=torch.zeros_like(masked_BL),
        step_B=torch.tensor([step]),
        suffix_B=torch.tensor([0]),
        token_BL=token_BL,
        fixed_BL=fixed_BL,
        logits_BLV=second + 9.0 * one_hot(candidate_BL, VOCABULARY),
    )


def block(rule: Indel, shown: Proposal, memory: Memory) -> tuple[list[int], Memory]:
    """What a step makes of the row."""
    selected = select((rule,), shown, (memory,))
    window_BL, memory = rule.write(shown, selected.taken_BL, selected.memories[0], MASK)
    return window_BL[0].tolist(), memory


@settings(max_examples=100)
@given(st.lists(st.sampled_from(["stay", "gone", "split"]), min_size=1, max_size=8))
def test_values_move_as_a_list_would(fates: list[str]) -> None:
    value = list(range(1, len(fates) + 1))
    expected = [number for own, fate in zip(value, fates, strict=True) for number in _become(own, fate)]
    expected = (expected + [0] * len(fates))[: len(fates)]
    gone, split = (torch.tensor([[fate == name for fate in fates]]) for name in ("gone", "split"))
    assert moved(torch.tensor([value]), gone, split, fill=0).tolist() == [expected]


def _become(own: int, fate: str) -> list[int]:
    return {"stay": [own], "gone": [], "split": [0, own]}[fate]


def test_delete_drops_its_place_and_split_puts_a_mask_before_what_stood_there() -> None:
    rule = Indel(threshold=0.5, edit_threshold=0.5, max_post_steps=4, marks=(DELETE, SPLIT))
    sure = [0.9] * 6
    # The second position goes, the fourth makes place: 1 _ 3 [M 4] M 5 is as long as before.
    tokens, memory = block(rule, evidence([1, 2, 3, 4, MASK, 5], [1, DELETE, 3, SPLIT, 6, 5], sure, step=1), empty(1))
    assert tokens == [1, 3, MASK, 4, 6, 5]
    assert isinstance(memory, Rounds)
    assert memory.original.tolist() == [[0] * 6]
    # The prompt's end stays where it is, whatever is predicted there.
    tokens, _ = block(rule, evidence([1, 2, 3, 4, MASK, 5], [DELETE] * 6, sure, fixed=2), empty(1))
    assert tokens == [1, 2, MASK, MASK, MASK, MASK]
    # Nothing moves before what is fixed: the plain token is written.
    shown = evidence([1, 2, 3, 4, MASK, 5], [DELETE] * 6, sure)
    held = shown._replace(fixed_BL=torch.tensor([[False, False, True, False, False, False]]))
    assert block(rule, held, empty(1))[0] == [6, 6, 3, MASK, MASK, MASK]


def test_the_last_round_writes_no_mark_and_leaves_no_mask() -> None:
    rule = Indel(threshold=0.5, edit_threshold=0.5, max_post_steps=1, marks=(DELETE, SPLIT))
    shown = evidence([1, 2, MASK, 4, 4, 5], [DELETE, 3, DELETE, SPLIT, 4, 5], [0.9, 0.9, 0.1, 0.9, 0.9, 0.9], step=2)
    tokens, memory = block(rule, shown, empty(1))  # a mask that a move has brought, and one round behind the first masks
    assert tokens == [6, 3, 6, 6, 4, 5]
    assert rule.settled(memory).tolist() == [True]
    # Nor does the round that comes L + max_post_steps after the beginning, though a first mask is left.
    late = empty(1)._replace(original=torch.ones(1, 6, dtype=torch.long))
    tokens, memory = block(rule, shown._replace(step_B=torch.tensor([7])), late)
    assert tokens == [6, 3, 6, 6, 4, 5]
    assert rule.settled(memory).tolist() == [True]


@settings(max_examples=80)
@given(st.integers(0, 2**20), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([None, 0.0, 0.5]))
def test_only_what_may_be_written_at_least_a_mask_and_each_row_alone(seed: int, threshold: float, edit: float | None) -> None:
    generator = torch.Generator().manual_seed(seed)

    def drawn(high: int) -> list[int]:
        return torch.randint(0, high, (LENGTH,), generator=generator).tolist()

    rows = [
        evidence(
            [MASK if one > 5 else one for one in drawn(VOCABULARY)],
            drawn(9),
            torch.rand(LENGTH, generator=generator).tolist(),
            fixed=drawn(3)[0],
            step=drawn(4)[0],
        )
        for _ in range(3)
    ]
    rule = Indel(threshold=threshold, edit_threshold=edit, max_post_steps=2, marks=(DELETE, SPLIT))
    together = Proposal(*(torch.cat(parts) if parts[0] is not None else None for parts in zip(*rows, strict=True)))
    taken_BL, memory = rule(together, empty(3))
    assert not (taken_BL & ~(together.open_BL | together.editable)).any()
    assert ((taken_BL & together.open_BL).any(dim=1) == together.open_BL.any(dim=1)).all()
    window_BL, _ = rule.write(together, taken_BL, memory, MASK)
    assert not ((window_BL == DELETE) | (window_BL == SPLIT)).any()
    assert torch.equal(window_BL[together.fixed_BL], together.token_BL[together.fixed_BL])
    for number, row in enumerate(rows):
        alone_BL, own = rule(row, empty(1))
        assert torch.equal(alone_BL[0], taken_BL[number])
        assert torch.equal(rule.write(row, alone_BL, own, MASK)[0][0], window_BL[number])


# --- the whole loop -----------------------------------------------------------------------------------------------------

Model = Callable[[Tensor], Tensor]


def made_up(seed: int) -> Model:
    """A model of one block: tokens [B, L] to logits [B, L, V], a function of every token."""
    weights = torch.randn(LENGTH, VOCABULARY, LENGTH * VOCABULARY, generator=torch.Generator().manual_seed(seed))
    weights[:, MASK] = -100.0

    def logits(token_BL: Tensor) -> Tensor:
        return torch.einsum("lvh,bh->blv", weights, one_hot(token_BL, VOCABULARY).flatten(1).float())

    return logits


def plainly(model: Model, *, threshold: float, edit: float, budget: int) -> tuple[list[int], int, int]:
    """SGLang's loop over lists for one block: its tokens, its forwards but a clean one, and how often it went in circles."""
    block, first = [MASK] * LENGTH, [True] * LENGTH
    posts, forwards, circles = 0, 0, 0
    seen: set[tuple[int, ...]] = set()
    written: dict[int, set[int]] = {place: set() for place in range(LENGTH)}
    while True:
        masks = [place for place in range(LENGTH) if block[place] == MASK]
        new = [place for place in masks if not first[place]]
        posts += len(masks) == len(new)
        last = (posts > 0 and budget <= posts) or forwards >= LENGTH + budget
        logits = model(torch.tensor([block]))[0]
        forwards += 1
        confidence, token = (part.tolist() for part in logits.softmax(-1).max(-1))
        need = len(masks) if last or len(masks) == len(new) else 1 + len(new)
        sure = [place for place in masks if confidence[place] > threshold]
        fill = sure if len(sure) >= need else sorted(masks, key=lambda place: -confidence[place])[:need]
        if budget == 0 and {place for place in masks if first[place]} <= set(fill):
            last, fill = True, masks
        if last:
            logits[:, [DELETE, SPLIT, MASK]] = -torch.inf
            token = logits.argmax(-1).tolist()
        rest = [place for place in range(LENGTH) if place not in masks]
        fill += [place for place in rest if confidence[place] > edit and token[place] != block[place]]
        if not fill:
            return block, forwards, circles
        changing = [place for place in fill if token[place] != block[place]]
        if tuple(block) in seen and not last and changing:
            least = min(changing, key=lambda place: confidence[place])
            logits[least, sorted(written[least] | {MASK})] = -torch.inf
            token[least] = int(logits[least].argmax())
            circles += 1
        seen.add(tuple(block))
        for place in fill:
            written[place].add(token[place])
        made: list[tuple[int, bool]] = []
        for place, old in enumerate(block):
            becomes = token[place] if place in fill else old
            if place in fill and becomes == SPLIT:
                made += [(MASK, False), (old, first[place] and old == MASK)]
            elif place not in fill or becomes != DELETE:
                made.append((becomes, first[place] and becomes == MASK))
        made = (made + [(MASK, False)] * LENGTH)[:LENGTH]
        block, first = [own for own, _ in made], [flag for _, flag in made]
        if last:
            return block, forwards, circles


def ours(model: Model, rule: Indel, branches: int = 1) -> tuple[list[int], int, int]:
    """The same block by `decide`: the tokens, the steps and the forwards."""
    window_BL, nothing = torch.full((1, LENGTH), MASK), torch.zeros(1, LENGTH, dtype=torch.bool)
    zero, memories = torch.zeros(1, dtype=torch.long), (empty(1),)
    facts, last, forwards, left = BlockFacts(nothing, zero, zero, None), None, 0, LENGTH
    how = StepSettings(rules=(rule,))
    while left != 0:
        states_BKL = window_BL[:, None]
        if last is not None and branches > 1:
            states_BKL = drafts(window_BL, last.candidate_BL, last.score_BL, branches, MASK)
        logits_RV = model(states_BKL.flatten(0, 1)).flatten(0, 1)
        outcome, left_B = decide(how, logits_RV, states_BKL, facts, memories, mask_id=MASK, eos_E=torch.tensor([0]))
        window_BL, memories, last = outcome.window_BL, outcome.memories, outcome.last
        facts, left, forwards = facts._replace(step_B=outcome.step_B), int(left_B), forwards + 1
        assert forwards <= LENGTH + rule.max_post_steps + 1
    return window_BL[0].tolist(), int(facts.step_B), forwards


@pytest.mark.parametrize("budget", [0, 1, 4, 16])
def test_a_block_is_the_plain_loops_and_drafts_change_nothing(budget: int) -> None:
    found, circled = set(), 0
    for seed in range(20):
        model = made_up(seed)
        tokens, forwards, circles = plainly(model, threshold=0.6, edit=0.5, budget=budget)
        circled += circles
        rule = Indel(threshold=0.6, edit_threshold=0.5, max_post_steps=budget, marks=(DELETE, SPLIT), strict=True)
        assert ours(model, rule) == (tokens, forwards, forwards)
        drafted = ours(model, rule, branches=3)
        assert drafted[:2] == (tokens, forwards)
        assert drafted[2] <= forwards
        assert not {MASK, DELETE, SPLIT} & set(tokens)
        found.add(forwards)
    assert len(found) > 2
    assert circled > 0 or budget == 1  # where the last round comes too soon for circles


def test_a_block_that_comes_back_becomes_what_it_has_not_been() -> None:
    rule = Indel(threshold=0.5, edit_threshold=0.5, max_post_steps=9, marks=(DELETE, SPLIT))
    memory: Memory = empty(1)
    # The second position, the less sure one, is to be 2 and the first 1, whatever they are: 3 4 becomes 1 2 the first time.
    shown = evidence([3, 4, 0, 0, 0, 0], [1, 2, 0, 0, 0, 0], [0.9, 0.8, 0.7, 0.7, 0.7, 0.7])
    tokens, memory = block(rule, shown, memory)
    assert tokens == [1, 2, 0, 0, 0, 0]
    for step, expected in enumerate([6, 5], start=1):  # then its second choice, then its third
        tokens, memory = block(rule, shown._replace(step_B=torch.tensor([step])), memory)
        assert tokens == [1, expected, 0, 0, 0, 0]
    # A new block has no past.
    tokens, memory = block(rule, shown._replace(step_B=torch.tensor([0])), memory)
    assert tokens == [1, 2, 0, 0, 0, 0]
    # Before what is fixed the other token is no mark either.
    held = evidence([3, 4, 0, 0, 0, 0], [1, 2, 0, 0, 0, 0], [0.9, 0.8] + [0.7] * 4, step=1)
    held = held._replace(
        fixed_BL=torch.arange(6)[None] == 2, logits_BLV=one_hot(torch.tensor([[1, DELETE, 0, 0, 0, 0]]), 10) * 1.0
    )
    tokens, _ = block(rule, held, memory)
    assert tokens[1] not in (DELETE, 2)


def test_sub_blocks_do_not_go_with_moves() -> None:
    with pytest.raises(ConfigError, match="sub_blocks and the rule indel"):
        load("llada2.2", sub_block=4)
