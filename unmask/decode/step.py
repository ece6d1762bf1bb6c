"""One decision: logits in, tokens out. All that happens between two forwards, and nothing else. Pure.

    (holes)   where a hole must be filled, no end of an answer is offered
    propose   logits -> what each position would become, and how surely
    narrow    a constraint, where there is one, offers other candidates
    advance   the rules take positions; with drafts, step after step while the evidence is at hand
    status    what is left of the block, or that the answer has ended

Shapes: B rows, N blocks that are decoded at once (1 unless a method says otherwise), L their positions, V vocabulary, C model
width, K states of them that a forward has tried (1 unless drafting), R = B K L tokens that the forward has predicted.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from unmask.decode.advance import Close, Outcome, advance
from unmask.decode.constraint import Held
from unmask.decode.holes import without_ends
from unmask.decode.memory import Memory
from unmask.decode.multi_block import ONE, MultiBlock, split
from unmask.decode.proposal import Proposal, Score, without
from unmask.decode.rule import Rule
from unmask.decode.sampling import Sampling, draw
from unmask.kernels.vocabulary import Evidence, evidence

Ending = Literal["never", "first", "written", "block", "whole block"]
Seed = Literal["alone", "with others"]
ENDED = -1
UNSETTLED = -2
BROKEN = -3


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """What a decision depends on beside its evidence: rows that decide together have it in common.

    Attributes:
        rules: in order; each sees what the earlier ones left open.
        score: what quota and schedule rank by.
        one_per_run: at most one commit per run of equal predictions, as in `select`.
        precision: of confidences, or the logits' own if that is better.
        subset: the published match of drafts, as in `advance`.
        ending: when an answer is over before its last block, as in `status`.
        never: tokens that no position becomes, as the mask: DELETE and SPLIT of a model where no rule knows what they mean.
        seed: how the first token of a block is decoded that only the forward before the block's own predicts, as in `sown`;
            None: as all others.
        blocks: how many blocks are decoded at once, and when they open.
        alternatives: how many of the most probable tokens are noted beside each one that is written.
        hole_ends: the ids that end a hole, where the rows have some (decode/holes.py); the first is the filler behind it.
    """

    rules: tuple[Rule, ...]
    score: Score = "confidence"
    one_per_run: bool = False
    precision: torch.dtype = torch.float32
    subset: bool = False
    ending: Ending = "never"
    never: tuple[int, ...] = ()
    seed: Seed | None = None
    blocks: MultiBlock = ONE
    alternatives: int = 0
    hole_ends: tuple[int, ...] = ()

    @property
    def edits(self) -> bool:
        """Whether a rule may rewrite committed tokens, so that a complete block is not yet final."""
        return any(rule.edits for rule in self.rules)

    @property
    def moves(self) -> bool:
        """Whether a rule may move tokens within their block."""
        return any(rule.moves for rule in self.rules)

    @property
    def reads_open(self) -> bool:
        """Whether only the evidence of masked positions decides: that of the others need not be made."""
        return all(rule.reads_open for rule in self.rules) and not (
            self.edits or self.moves or self.never or self.hole_ends or self.alternatives
        )

    @property
    def reads_hidden(self) -> bool:
        """Whether a rule reads the last hidden states."""
        return any(rule.reads_hidden for rule in self.rules)


class BlockFacts(NamedTuple):
    """What a decision must know of rows' blocks beside their tokens.

    Attributes:
        fixed_BL, step_B, suffix_B: as in `Proposal`; of several blocks `step_B` is [B, N].
        sampling: None takes the most probable token.
        kind_BL: what may be written at each position, as in decode/holes.py; None where the rows have no holes.
    """

    fixed_BL: Tensor
    step_B: Tensor
    suffix_B: Tensor
    sampling: Sampling | None
    kind_BL: Tensor | None = None

    def repeat(self, times: int) -> "BlockFacts":
        """Every row this many times in a row."""
        if times == 1:
            return self
        fixed_BL, step_B, suffix_B = (part.repeat_interleave(times, dim=0) for part in self[:3])
        kind_BL = None if self.kind_BL is None else self.kind_BL.repeat_interleave(times, dim=0)
        return BlockFacts(fixed_BL, step_B, suffix_B, self.sampling and self.sampling.repeat(times), kind_BL)


def decide(
    settings: StepSettings,
    logits_RV: Tensor,
    states_BKL: Tensor,
    facts: BlockFacts,
    memories: tuple[Memory, ...],
    *,
    mask_id: int,
    eos_E: Tensor,
    hidden_RC: Tensor | None = None,
    constraint: Held | None = None,
    shown_S: Tensor | None = None,
) -> tuple[Outcome, Tensor]:
    """What a forward over these states of rows' blocks leads to, and the `status` [B] of each row; of several blocks [B, N].

    A row any of whose logits are no distribution (NaN, +inf, or -inf for every token) is `BROKEN`: its outcome means nothing.
    `eos_E` are the ids that end an answer. The rows are held to the `constraint`. `shown_S`: which of the R tokens the
    logits [S, V] are of, all masked ones among them; None: all. Only where `settings.reads_open`, and no constraint.
    """
    rows, states, length = states_BKL.shape
    logits_BLV = logits_RV.view(rows * states, length, -1) if shown_S is None else logits_RV
    repeated = facts.repeat(states)
    if repeated.kind_BL is not None:
        logits_BLV = without_ends(logits_BLV, repeated.kind_BL, settings.hole_ends)
    proposal = propose(
        logits_BLV,
        states_BKL.flatten(0, 1),
        repeated,
        mask_id=mask_id,
        eos_E=eos_E,
        score=settings.score,
        precision=settings.precision,
        never=settings.never,
        shown_S=shown_S,
    )
    broken_B = proposal.confidence_BL.isnan().view(rows, -1).any(dim=1)
    proposal = proposal._replace(**more(settings, logits_BLV, mask_id))
    if hidden_RC is not None and settings.reads_hidden:
        proposal = proposal._replace(hidden_BLC=hidden_RC.view(rows * states, length, -1))
    if constraint is not None:
        sampling = facts.sampling and facts.sampling.repeat(states)
        proposal = constraint.narrow(logits_BLV, proposal, sampling, settings.score)
        proposal = proposal._replace(filler_BL=proposal.filler_BL | (proposal.candidate_BL[..., None] == eos_E).any(dim=-1))
    return conclude(
        settings, proposal, broken_B, states_BKL, facts, memories, mask_id=mask_id, eos_E=eos_E, constraint=constraint
    )


def more(settings: StepSettings, logits_BLV: Tensor, mask_id: int) -> dict[str, Tensor]:
    """What some methods read of the logits beside the proposal, by the names of its fields."""
    found = {}
    if settings.moves:
        found["logits_BLV"] = without(logits_BLV, (mask_id,))
    if settings.alternatives:
        precision = torch.promote_types(logits_BLV.dtype, torch.float32)
        sure_BLV = without(logits_BLV.log_softmax(dim=-1, dtype=precision), (mask_id,))
        found["top_BLA"], found["top_id_BLA"] = sure_BLV.topk(settings.alternatives)
    return found


def conclude(
    settings: StepSettings,
    proposal: Proposal,
    broken_B: Tensor,
    states_BKL: Tensor,
    facts: BlockFacts,
    memories: tuple[Memory, ...],
    *,
    mask_id: int,
    eos_E: Tensor,
    constraint: Held | None = None,
) -> tuple[Outcome, Tensor]:
    """The second half of `decide`: from the evidence, [B K, L], to the tokens. `broken_B`: whose logits are none."""
    if settings.seed is not None:
        proposal = sown(proposal, settings)
    ends_E = None if settings.ending in ("never", "whole block") else eos_E
    outcome = advance(
        settings.rules,
        proposal,
        states_BKL,
        memories,
        mask_id=mask_id,
        one_per_run=settings.one_per_run,
        subset=settings.subset,
        blocks=settings.blocks,
        ends_E=ends_E,
        close=None if facts.kind_BL is None else Close(facts.kind_BL, settings.hole_ends, mask_id),
        forced=None if constraint is None else constraint.forced,
    )
    count = settings.blocks.count
    left_R = status(
        split(outcome.window_BL, count),
        split(facts.fixed_BL, count),
        split(outcome.taken_BL, count),
        mask_id=mask_id,
        eos_E=eos_E,
        ending=settings.ending,
        final_B=None if outcome.final_BN is None else outcome.final_BN.flatten(),
    )
    if count > 1:
        return outcome, left_R.view(-1, count).masked_fill(broken_B[:, None], BROKEN)
    return outcome, left_R.masked_fill(broken_B, BROKEN)


def propose(
    logits_BLV: Tensor,
    token_BL: Tensor,
    facts: BlockFacts,
    *,
    mask_id: int,
    eos_E: Tensor,
    score: Score = "confidence",
    precision: torch.dtype = torch.float32,
    never: tuple[int, ...] = (),
    shown_S: Tensor | None = None,
) -> Proposal:
    """Candidate and confidence of every position, in `precision` or the logits' own if that is better.

    With `shown_S` the logits are [S, V], of these of the B L positions alone; the others are what they are, and sure.

    `eos_E` are the ids that end an answer. Without sampling the candidate is the most probable token (the lowest id among
    equals). The mask and the tokens of `never` are no candidates, though they have their share of the distribution.

    >>> logits, zero = torch.tensor([[[0.0, 0.0, 2.0, 0.0]]]), torch.zeros(1, dtype=torch.long)
    >>> facts = BlockFacts(torch.tensor([[False]]), zero, zero, None)
    >>> made = propose(logits, torch.tensor([[3]]), facts, mask_id=3, eos_E=zero)
    >>> made.candidate_BL.item(), round(made.confidence_BL.item(), 3)
    (2, 0.711)
    """
    if shown_S is None:
        found = candidates(logits_BLV, facts.sampling, mask_id=mask_id, score=score, precision=precision, never=never)
    else:
        assert facts.sampling is None, "noise is drawn for whole blocks"
        assert not never, "tokens that no position becomes are left out of whole blocks"
        logits_SV = logits_BLV.double() if precision == torch.float64 else logits_BLV
        found = _spread(evidence(logits_SV, mask_id, score), token_BL, shown_S, score)
    return proposed(*found, token_BL, facts, mask_id=mask_id, eos_E=eos_E)


def candidates(
    logits_BLV: Tensor,
    sampling: Sampling | None,
    *,
    mask_id: int,
    score: Score,
    precision: torch.dtype,
    never: tuple[int, ...],
) -> tuple[Tensor, Tensor, Tensor]:
    """Candidate, confidence and score of every position, [B, L]; as in `propose`."""
    if precision == torch.float64:
        logits_BLV = logits_BLV.double()
    if sampling is None and not never:
        # Logits of less than fp32 are read as they are, the numbers are fp32 all the same.
        candidate_BL, confidence_BL, _, score_BL = evidence(logits_BLV, mask_id, score)
        return candidate_BL, confidence_BL, score_BL
    candidate_BL, confidence_BL = draw(logits_BLV, sampling, (mask_id, *never))
    score_BL = confidence_BL if score == "confidence" else evidence(logits_BLV, mask_id, score).score_BL
    return candidate_BL, confidence_BL, score_BL


def proposed(
    candidate_BL: Tensor,
    confidence_BL: Tensor,
    score_BL: Tensor,
    token_BL: Tensor,
    facts: BlockFacts,
    *,
    mask_id: int,
    eos_E: Tensor,
) -> Proposal:
    """Candidates and what is known of their block beside them."""
    masked_BL = token_BL == mask_id
    return Proposal(
        candidate_BL=candidate_BL,
        confidence_BL=confidence_BL,
        score_BL=score_BL,
        masked_BL=masked_BL,
        open_BL=masked_BL,
        filler_BL=(candidate_BL[..., None] == eos_E).any(dim=-1),
        step_B=facts.step_B,
        suffix_B=facts.suffix_B,
        token_BL=token_BL,
        fixed_BL=facts.fixed_BL,
    )


def _spread(seen: Evidence, token_BL: Tensor, shown_S: Tensor, score: Score) -> tuple[Tensor, Tensor, Tensor]:
    """Candidates, confidences and scores [B, L] from those of some positions; the others keep their tokens, as if sure."""
    sure_R = torch.ones_like(token_BL, dtype=seen.confidence_BL.dtype).flatten()
    best_R = torch.zeros_like(sure_R) if score == "negative_entropy" else sure_R
    parts = ((token_BL.flatten(), seen.candidate_BL), (sure_R, seen.confidence_BL), (best_R, seen.score_BL))
    candidate_R, confidence_R, score_R = (whole.index_copy(0, shown_S, part) for whole, part in parts)
    shape = token_BL.shape
    return candidate_R.view(shape), confidence_R.view(shape), score_R.view(shape)


def sown(proposal: Proposal, settings: StepSettings) -> Proposal:
    """The evidence of a model whose row i - 1 predicts token i, of blocks whose queries begin with the block.

    Only the first step can know the block's first token: it takes that as sure, and if the seed is alone nothing else.
    Later steps know nothing of it.

    >>> zero, half = torch.zeros(2, 2, dtype=torch.long), torch.full((2, 2), 0.5)
    >>> masked = torch.tensor([[True, True], [False, True]])
    >>> made = Proposal(zero, half, half, masked, masked, zero > 0, torch.tensor([0, 1]), zero[:, 0], zero, zero > 0)
    >>> settings = StepSettings(rules=(), seed="alone")
    >>> sown(made, settings).open_BL.tolist(), sown(made, settings).confidence_BL[:, 0].tolist()
    ([[True, False], [False, True]], [1.0, 0.5])
    """
    begins_B1 = (proposal.step_B == 0)[:, None]
    first_L = torch.arange(proposal.open_BL.shape[1], device=proposal.open_BL.device) == 0
    seed_BL = proposal.open_BL & begins_B1 & first_L
    open_BL = proposal.open_BL
    if settings.seed == "alone":
        open_BL = torch.where(seed_BL.any(dim=1, keepdim=True), seed_BL, open_BL)
    return proposal._replace(
        open_BL=open_BL,
        confidence_BL=proposal.confidence_BL.masked_fill(seed_BL, 1.0),
        probability_BL=proposal.confidence_BL,
        score_BL=proposal.score_BL.masked_fill(seed_BL, 0.0 if settings.score == "negative_entropy" else 1.0),
        fixed_BL=proposal.fixed_BL | (~begins_B1 & first_L),
    )


def status(
    window_BL: Tensor,
    fixed_BL: Tensor,
    taken_BL: Tensor,
    *,
    mask_id: int,
    eos_E: Tensor,
    ending: Ending,
    final_B: Tensor | None = None,
) -> Tensor:
    """What the host must know of each row, int64 [B]: the masks left in its block, or `ENDED`, or `UNSETTLED`.

    A row ends with an EOS that has nothing masked before it ("first"), with a finished block that holds one ("block") or
    that holds nothing else ("whole block"), or only with its last block ("never"); or as "block", and as "first" where the
    step has written an EOS ("written", LLaDA2's early stop). `taken` is 0 where the step has written nothing. `eos_E` are
    the ids that count; where the block is fixed they do not. Where rules edit, `final_B` says which rows' blocks are
    complete and will not change: no answer ends before that, and a complete block that is not final is `UNSETTLED`.

    >>> fixed = torch.tensor([[False, False, False], [False, False, False], [False, True, False]])
    >>> window, eos = torch.tensor([[5, 1, 9], [5, 9, 9], [5, 1, 9]]), torch.tensor([1])
    >>> status(window, fixed, torch.zeros(3, 3), mask_id=9, eos_E=eos, ending="first")
    tensor([-1,  2,  1])
    """
    masked_BL = window_BL == mask_id
    left_B = masked_BL.sum(dim=1)
    if final_B is not None:
        left_B = torch.where(final_B, 0, left_B.where(left_B > 0, UNSETTLED))
    if ending == "never":
        return left_B
    is_eos_BL = (window_BL[..., None] == eos_E).any(dim=-1)
    written_BL = is_eos_BL.masked_fill(fixed_BL, False)
    if ending in ("first", "written"):
        over_B = (written_BL & (masked_BL.cumsum(dim=1) == 0)).any(dim=1)
        if ending == "written":
            whole_B = written_BL.any(dim=1) & (left_B == 0)
            over_B = (over_B & (written_BL & (taken_BL > 0)).any(dim=1)) | whole_B
    elif ending == "block":
        over_B = written_BL.any(dim=1) & (left_B == 0)
    else:
        over_B = (is_eos_BL | fixed_BL).all(dim=1) & written_BL.any(dim=1) & (left_B == 0)
    if final_B is not None:
        over_B = over_B & final_B
    return left_B.masked_fill(over_B, ENDED)
