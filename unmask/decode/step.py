"""One decision: logits in, tokens out. Everything that happens between two forwards, and nothing else. Pure.

Shapes: B rows, L block length, V vocabulary, K states of a row's block that a forward has tried (1 unless drafting).
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from unmask.decode.memory import Memory, choose
from unmask.decode.proposal import Proposal
from unmask.decode.rules import Rule, ranks, select


class Outcome(NamedTuple):
    """What a forward's evidence led to.

    Attributes:
        window_BL: the block's tokens afterwards.
        taken_BL: 0 where nothing was committed, else 1 + the index of the rule.
        step_B: commit steps made in the block so far.
        memories: one a rule.
        last: the evidence of the last step of each row, from which drafts are made.
    """

    window_BL: Tensor
    taken_BL: Tensor
    step_B: Tensor
    memories: tuple[Memory, ...]
    last: Proposal


def advance(
    rules: tuple[Rule, ...],
    proposal: Proposal,
    states_BKL: Tensor,
    memories: tuple[Memory, ...],
    *,
    mask_id: int,
    one_per_run: bool = False,
    subset: bool = False,
) -> Outcome:
    """Take as many commit steps as one forward has evidence for.

    `states` are the block's true state and K - 1 guessed ones; `proposal` holds the evidence of all, [B * K, L]. The
    first step is taken from the true state. While the state that it leads to is among the guesses, its evidence is at
    hand and the next step costs no forward (FreeDave, arXiv 2510.00294, section 4). Every step is made on a state that
    a forward has seen, with the memory of the true path, so for any rules the path is that of K = 1.

    `subset` is the published match for full-attention models: a guess counts if the step's state contains it.
    """
    rows, branches, length = states_BKL.shape
    window_BL = states_BKL[:, 0]
    if branches == 1:
        selected = select(rules, proposal, memories, one_per_run=one_per_run)
        window_BL = torch.where(selected.taken_BL > 0, proposal.candidate_BL, window_BL)
        return Outcome(window_BL, selected.taken_BL, proposal.step_B + 1, selected.memories, proposal)

    device = window_BL.device
    taken_BL = torch.zeros_like(window_BL)
    step_B = proposal.step_B[::branches]
    at_B = torch.zeros_like(step_B)  # the state that each row is in
    live_B = torch.ones_like(step_B, dtype=torch.bool)  # whether its evidence is still to be used
    for _ in range(branches):
        index_B = torch.arange(rows, device=device) * branches + at_B
        evidence = Proposal(*(part[index_B] for part in proposal))._replace(step_B=step_B)
        selected = select(rules, evidence, memories, one_per_run=one_per_run)
        new_BL = selected.taken_BL * live_B[:, None]
        after_BL = torch.where(new_BL > 0, evidence.candidate_BL, window_BL)
        memories = tuple(choose(live_B, new, old) for new, old in zip(selected.memories, memories, strict=True))
        step_B = step_B + live_B
        equal_BKL = states_BKL == after_BL[:, None]
        if subset:
            equal_BKL = equal_BKL | (states_BKL == mask_id)
        hits_BK = equal_BKL.all(dim=-1) & (torch.arange(branches, device=device) > at_B[:, None])
        live_B = live_B & hits_BK.any(dim=1)
        last_hit_B = branches - 1 - hits_BK.flip(1).to(torch.uint8).argmax(dim=1)
        at_B = torch.where(live_B, last_hit_B, at_B)
        if subset:
            guess_BL = states_BKL.gather(1, at_B[:, None, None].expand(-1, 1, length))[:, 0]
            after_BL = torch.where(live_B[:, None], guess_BL, after_BL)
        taken_BL = torch.where(after_BL != window_BL, new_BL, taken_BL)
        window_BL = after_BL
    return Outcome(window_BL, taken_BL, step_B, memories, evidence)


def drafts(window_BL: Tensor, candidate_BL: Tensor, score_BL: Tensor, count: int, mask_id: int) -> Tensor:
    """The true state and `count` - 1 guesses, [B, K, L]: guess k fills the k positions that ranked best a step ago.

    Candidates and scores are that step's evidence.
    The guesses are a chain, each containing the one before (FreeDave, section 4.1); once nothing is masked they repeat.
    """
    open_BL = window_BL == mask_id
    rank_BL = ranks(score_BL, open_BL)
    kept_K = torch.arange(count, device=window_BL.device)
    fills_BKL = open_BL[:, None] & (rank_BL[:, None] < kept_K[:, None])
    return torch.where(fills_BKL, candidate_BL[:, None], window_BL[:, None])


Ending = Literal["never", "first", "block", "whole block"]
ENDED = -1


def status(window_BL: Tensor, *, mask_id: int, eos: Tensor, ending: Ending) -> Tensor:
    """What the host must know of each row, int64 [B]: the masks left in its block, or `ENDED`.

    A row ends with an EOS that has nothing masked before it ("first"), with a finished block that holds one ("block") or
    that holds nothing else ("whole block"), or only with its last block ("never"). `eos` has shape [E].

    >>> status(torch.tensor([[5, 1, 9], [5, 9, 9]]), mask_id=9, eos=torch.tensor([1]), ending="first")
    tensor([-1,  2])
    """
    masked_BL = window_BL == mask_id
    left_B = masked_BL.sum(dim=1)
    if ending == "never":
        return left_B
    is_eos_BL = (window_BL[..., None] == eos).any(dim=-1)
    if ending == "first":
        over_B = (is_eos_BL & (masked_BL.cumsum(dim=1) == 0)).any(dim=1)
    else:
        over_B = (is_eos_BL.any(dim=1) if ending == "block" else is_eos_BL.all(dim=1)) & (left_B == 0)
    return left_B.masked_fill(over_B, ENDED)
