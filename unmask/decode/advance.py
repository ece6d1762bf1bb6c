"""From evidence to tokens: as many commit steps as one forward has evidence for, and guesses at the next ones. Pure.

Shapes: B rows, W window positions, N blocks of a window, L positions of a block (W = N L), K states of a row's window that a
forward has tried (1 unless drafting). Where a function knows nothing of several blocks, L is the window.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.decode.holes import closed
from unmask.decode.memory import Memory, choose
from unmask.decode.multi_block import ONE, MultiBlock, by_block, each, join, later, openings, split
from unmask.decode.proposal import Proposal
from unmask.decode.rule import Rule, Selection, ranks, select


class Outcome(NamedTuple):
    """What a forward's evidence led to.

    Attributes:
        window_BL: the tokens afterwards.
        taken_BL: 0 where nothing was committed, else 1 + the index of the rule.
        step_B: commit steps made in the block so far; of several blocks [B, N].
        memories: one per rule.
        last: the evidence of the last step of each row, from which drafts are made.
        noted: what the model said of each token that was committed, at the step that did it.
        final_BN: blocks that are complete and will not change; None where no rule edits.
    """

    window_BL: Tensor
    taken_BL: Tensor
    step_B: Tensor
    memories: tuple[Memory, ...]
    last: Proposal
    noted: "Noted"
    final_BN: Tensor | None = None


class Noted(NamedTuple):
    """What a forward says of the tokens that it leads to; of other positions the numbers mean nothing.

    Attributes:
        confidence_BL: the token's probability; NaN where it is not the candidate, because it has moved or is filler.
        top_id_BLA, top_BLA: as in `Proposal`.
    """

    confidence_BL: Tensor
    top_id_BLA: Tensor | None
    top_BLA: Tensor | None

    @classmethod
    def of(cls, shown: Proposal, window_BL: Tensor) -> "Noted":
        """Of a step's evidence and the window after it."""
        sure_BL = shown.confidence_BL if shown.probability_BL is None else shown.probability_BL
        return cls(sure_BL.masked_fill(window_BL != shown.candidate_BL, torch.nan), shown.top_id_BLA, shown.top_BLA)

    def over(self, before: "Noted", new_BL: Tensor) -> "Noted":
        """What is noted here of the positions that are new, and what was before of the others."""
        parts = (
            None
            if new is None or old is None
            else torch.where(new_BL if new.dim() == new_BL.dim() else new_BL[..., None], new, old)
            for new, old in zip(self, before, strict=True)
        )
        return Noted(*parts)  # type: ignore[arg-type]


class Close(NamedTuple):
    """Where rows have holes: what their positions are, and what ends a hole (`holes.closed`)."""

    kind_BL: Tensor
    ends: tuple[int, ...]
    mask_id: int

    def __call__(self, window_BL: Tensor, taken_BL: Tensor) -> tuple[Tensor, Tensor]:
        return closed(window_BL, taken_BL, self.kind_BL, self.ends, self.mask_id)


def advance(
    rules: tuple[Rule, ...],
    proposal: Proposal,
    states_BKL: Tensor,
    memories: tuple[Memory, ...],
    *,
    mask_id: int,
    one_per_run: bool = False,
    subset: bool = False,
    blocks: MultiBlock = ONE,
    ends_E: Tensor | None = None,
    close: Close | None = None,
    forced: Callable[[Tensor], Tensor] | None = None,
) -> Outcome:
    """Take as many commit steps as one forward has evidence for.

    `states` are the row's true state and K - 1 guessed ones; `proposal` holds the evidence of all, [B * K, L]. The
    first step is taken from the true state. While the state that it leads to is among the guesses, its evidence is at
    hand and the next step costs no forward (FreeDave, arXiv 2510.00294, section 4). Every step is made on a state that
    a forward has seen, with the memory of the true path, so for any rules the path is that of K = 1.

    `subset` is the published match for full-attention models: a guess counts if the step's state contains it. `blocks` and
    `ends_E` say which blocks are open, as in `openings`. `close` fills up holes that have ended. `forced` fills in what a
    constraint leaves no choice for, in the name of the last rule.
    """
    rows, branches, length = states_BKL.shape

    def take(proposal: Proposal, memories: tuple[Memory, ...]) -> _Taken:
        took = _take(
            rules, proposal, memories, mask_id=mask_id, one_per_run=one_per_run, blocks=blocks, ends_E=ends_E, close=close
        )
        return took if forced is None else _filled(took, forced(took.window_BL), len(rules))

    if branches == 1:
        took = take(proposal, memories)
        made = Noted.of(proposal, took.window_BL)
        return Outcome(took.window_BL, took.taken_BL, took.step_B, took.memories, proposal, made, took.final_BN)

    window_BL = states_BKL[:, 0]
    device = window_BL.device
    taken_BL = torch.zeros_like(window_BL)
    step_B = proposal.step_B[::branches]
    # Other rows of the batch may have more guesses: one that leaves nothing masked is no row's own, and rules that edit
    # would go on from it.
    own_B = (window_BL == mask_id).sum(dim=1)
    at_B = torch.zeros_like(own_B)  # the state that each row is in
    live_B = torch.ones_like(at_B, dtype=torch.bool)  # whether its evidence is still to be used
    final_BN: Tensor | None = None
    noted: Noted | None = None
    for _ in range(branches):
        index_B = torch.arange(rows, device=device) * branches + at_B
        shown = proposal.rows(index_B)._replace(step_B=step_B)
        took = take(shown, memories)
        new_BL = took.taken_BL * live_B[:, None]
        said = Noted.of(shown, took.window_BL)
        noted = said if noted is None else said.over(noted, new_BL > 0)
        after_BL = torch.where(live_B[:, None], took.window_BL, window_BL)
        memories = tuple(choose(live_B, new, old) for new, old in zip(took.memories, memories, strict=True))
        step_B = torch.where(live_B if step_B.dim() == 1 else live_B[:, None], took.step_B, step_B)
        if took.final_BN is not None:
            final_BN = took.final_BN if final_BN is None else torch.where(live_B[:, None], took.final_BN, final_BN)
            live_B = live_B & ~took.final_BN.all(dim=1)
        equal_BKL = states_BKL == after_BL[:, None]
        if subset:
            equal_BKL = equal_BKL | (states_BKL == mask_id)
        branch_K = torch.arange(branches, device=device)
        hits_BK = equal_BKL.all(dim=-1) & (branch_K > at_B[:, None]) & (branch_K < own_B[:, None])
        live_B = live_B & hits_BK.any(dim=1)
        last_hit_B = branches - 1 - hits_BK.flip(1).to(torch.uint8).argmax(dim=1)
        at_B = torch.where(live_B, last_hit_B, at_B)
        if subset:
            guess_BL = states_BKL.gather(1, at_B[:, None, None].expand(-1, 1, length))[:, 0]
            after_BL = torch.where(live_B[:, None], guess_BL, after_BL)
        taken_BL = torch.where(after_BL != window_BL, new_BL, taken_BL)
        window_BL = after_BL
    assert noted is not None, "a forward is at least one step"
    return Outcome(window_BL, taken_BL, step_B, memories, shown, noted, final_BN)


class _Taken(NamedTuple):
    """What one step took, as in `Outcome`."""

    window_BL: Tensor
    taken_BL: Tensor
    step_B: Tensor
    memories: tuple[Memory, ...]
    final_BN: Tensor | None


def _take(
    rules: tuple[Rule, ...],
    proposal: Proposal,
    memories: tuple[Memory, ...],
    *,
    mask_id: int,
    one_per_run: bool,
    blocks: MultiBlock,
    ends_E: Tensor | None,
    close: Close | None,
) -> _Taken:
    """One step: the rules decide block by block, and what they take is written."""
    count = blocks.count
    if count == 1:
        selected, window_BL = _write(rules, proposal, select(rules, proposal, memories, one_per_run=one_per_run), mask_id)
        if close is not None:
            window_BL, taken_BL = close(window_BL, selected.taken_BL)
            selected = selected._replace(taken_BL=taken_BL)
        final_B = _final(rules, selected, window_BL, mask_id)
        final_BN = None if final_B is None else final_B[:, None]
        return _Taken(window_BL, selected.taken_BL, proposal.step_B + 1, selected.memories, final_BN)
    opened = openings(proposal, blocks, ends_E)
    shown = by_block(proposal, blocks, opened)
    held = tuple(each(memory, split, count) for memory in memories)
    selected, window_RL = _write(rules, shown, select(rules, shown, held, one_per_run=one_per_run), mask_id)
    if close is not None:  # a hole may run over several blocks
        window_BL, taken_BL = close(join(window_RL, count), join(selected.taken_BL, count))
        window_RL, selected = split(window_BL, count), selected._replace(taken_BL=split(taken_BL, count))
    final_R = _final(rules, selected, window_RL, mask_id)
    # A block that is not open has made no step, and its rules have seen nothing.
    open_R = opened.open_BN.flatten()
    kept = (choose(open_R, new, old) for new, old in zip(selected.memories, held, strict=True))
    return _Taken(
        join(window_RL, count),
        join(selected.taken_BL, count),
        proposal.step_B + opened.open_BN,
        tuple(each(memory, join, count) for memory in kept),
        None if final_R is None else final_R.view(-1, count),
    )


def _filled(took: _Taken, window_BL: Tensor, number: int) -> _Taken:
    """The step with a window in which more is written, by the rule of that number."""
    taken_BL = torch.where(window_BL != took.window_BL, number, took.taken_BL)
    return took._replace(window_BL=window_BL, taken_BL=taken_BL)


def _write(rules: tuple[Rule, ...], proposal: Proposal, selected: Selection, mask_id: int) -> tuple[Selection, Tensor]:
    """The block [B, L] with what was taken written into it. Where a rule moves tokens all that has changed counts as taken."""
    taken_BL, memories = selected
    for number, rule in enumerate(rules):
        if rule.moves:
            window_BL, memory = rule.write(proposal, taken_BL, memories[number], mask_id)
            changed_BL = torch.where(window_BL != proposal.token_BL, taken_BL.clamp(min=number + 1), 0)
            return Selection(changed_BL, (*memories[:number], memory, *memories[number + 1 :])), window_BL
    return selected, torch.where(taken_BL > 0, proposal.candidate_BL, proposal.token_BL)


def _final(rules: tuple[Rule, ...], selected: Selection, window_BL: Tensor, mask_id: int) -> Tensor | None:
    """Rows [B] whose block is complete, and no rule that edits has changed it or will; None where no rule edits."""
    editing = [(rule, memory) for rule, memory in zip(rules, selected.memories, strict=True) if rule.edits]
    if not editing:
        return None
    settled = [settled_B for rule, memory in editing if (settled_B := rule.settled(memory)) is not None]
    over_B = (selected.taken_BL == 0).all(dim=1)
    if len(settled) == len(editing):
        over_B = over_B | torch.stack(settled).all(dim=0)
    return over_B & (window_BL != mask_id).all(dim=1)


def drafts(
    window_BL: Tensor, candidate_BL: Tensor, score_BL: Tensor, count: int, mask_id: int, blocks: MultiBlock = ONE
) -> Tensor:
    """The true state and `count` - 1 guesses, [B, K, L]: guess k fills the k positions that ranked best a step ago.

    Candidates and scores are that step's evidence. Of several blocks the open ones come first, then one after the other.
    The guesses are a chain, each containing the one before (FreeDave, section 4.1); once nothing is masked they repeat.
    """
    open_BL = window_BL == mask_id
    rank_BL = ranks(score_BL, open_BL)
    if blocks.count > 1:
        late_BL = later(open_BL, blocks)
        rank_BL = ranks(-(late_BL * open_BL.shape[1] + rank_BL).to(torch.float32), open_BL)
    kept_K = torch.arange(count, device=window_BL.device)
    fills_BKL = open_BL[:, None] & (rank_BL[:, None] < kept_K[:, None])
    return torch.where(fills_BKL, candidate_BL[:, None], window_BL[:, None])
