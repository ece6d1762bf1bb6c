"""Rows that decide together: what their forward tries, and what its evidence leads to. No number leaves the device here.

Shapes: B rows of a batch, padding included, L block length, K states of a block tried at once (1 unless drafting),
R = B K L tokens to predict, V vocabulary, C model width, W numbers per row that go to the host.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.context.blocks import Blocks
from unmask.decode.advance import Outcome, drafts
from unmask.decode.constraint import Held
from unmask.decode.holes import GIVEN
from unmask.decode.numbers import of_rows
from unmask.decode.sampling import Sampling
from unmask.decode.step import BlockFacts, decide
from unmask.engine.device_state import DeviceState, Facts
from unmask.engine.request import Alternative, StepOutput
from unmask.engine.state import RequestState
from unmask.methods.recipe import Structure
from unmask.models.denoiser import Denoiser


class Evidence(NamedTuple):
    """What only records show of one row: the states tried, and what the last of them led to."""

    states: list[list[int]]
    candidate: list[int]
    confidence: list[float]
    refused: list[int]  # as in `Proposal`; empty of a row without a constraint


class DecisionKey(NamedTuple):
    """All that the decision of a batch depends on beside what is on the device."""

    structure: Structure
    states: int  # K
    rows: int  # B
    pages: int = 0  # of the row with most, where the device itself looks up what it remembers
    clean: bool = False  # whether the block before is queried too, where the device itself puts the forward together

    @classmethod
    def of(cls, rows: Sequence[RequestState]) -> "DecisionKey":
        """Of rows with one structure that all draft, or all do not."""
        structure, states = rows[0].structure, 1
        if rows[0].drafts:
            states = min(structure.branches, max(1, *(row.masks for row in rows)))
        return cls(structure, states, len(rows))

    @property
    def width(self) -> int:
        """W."""
        structure = self.structure
        each = 5 + self.states + 2 * structure.alternatives + structure.constrained
        return 2 * structure.blocks.count + each * structure.width

    def outputs(self, numbers_BW: Tensor) -> list[StepOutput]:
        """What came of each row, from a decision's numbers on the host."""
        count, width, most = self.structure.blocks.count, self.structure.width, self.structure.alternatives
        sizes = [count, count, width, width, width, most * width, most * width]
        *whole, confidence, ids, sure = torch.split(numbers_BW[:, : sum(sizes)], sizes, dim=1)
        parts = [*(part.tolist() for part in whole), confidence.view(torch.float64).tolist()]
        tops = [_alternatives(*row, most) for row in zip(ids, sure.view(torch.float64), strict=True)]
        return [
            StepOutput(left, step[0], block, taken, confidence, top)
            for left, step, block, taken, confidence, top in zip(*parts, tops, strict=True)
        ]

    def evidence(self, numbers_W: Tensor) -> Evidence:
        """Of one row, from its numbers on the host."""
        count, length, alternatives = self.structure.blocks.count, self.structure.width, self.structure.alternatives
        rest = numbers_W[2 * count + (3 + 2 * alternatives) * length :]
        sizes = [length, length, self.states * length, self.structure.constrained * length]
        candidate_L, confidence_L, states, refused = torch.split(rest, sizes)
        return Evidence(
            states=states.view(self.states, length).tolist(),
            candidate=candidate_L.tolist(),
            confidence=confidence_L.view(torch.float64).tolist(),
            refused=refused.tolist(),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class DecisionBatch:
    """A key's rows on the device: `index_B` are their places in the device state, `eos_E` what ends an answer.

    `constraint` is what its rows are held to. `shown_S` are those of its R tokens that are predicted; None: all.
    """

    key: DecisionKey
    index_B: Tensor
    eos_E: Tensor
    device_state: DeviceState
    model: Denoiser
    constraint: Held | None = None
    shown_S: Tensor | None = None

    def states(self) -> Tensor:
        """The states of the block that the forward tries, [B, K, L]: the true one first."""
        structure, states = self.key.structure, self.key.states
        window_BL = self.device_state.window(self.index_B, structure.width)
        if states == 1:
            return window_BL[:, None]
        guess = self.device_state.guess(self.index_B, structure.width)
        states_BKL = drafts(window_BL, *guess, states, self.model.spec.mask_id, structure.blocks)
        if self.constraint is None:
            return states_BKL
        return self.constraint.forced(states_BKL.flatten(0, 1)).view_as(states_BKL)

    def blocks(self, states_BKL: Tensor) -> Blocks:
        """The block forward that tries them."""
        structure = self.key.structure
        facts, before = self.device_state.facts(self.index_B), structure.lookbehind
        if before:
            before_BK1 = facts.before[:, None, None].expand(-1, self.key.states, before)
            states_BKL = torch.cat((before_BK1, states_BKL), dim=2)
        return Blocks(
            tokens_BKQ=states_BKL,
            before=before,
            begin_B=facts.begin,
            seen_B=facts.seen,
            copies_B=facts.copies,
            pages_BP=self.device_state.pages(self.index_B, self.key.pages),
            clean_BQ=self.device_state.clean(self.index_B, structure.length) if self.key.clean else None,
            block=structure.block if structure.blocks.count > 1 else None,
        )

    def decide(self, states_BKL: Tensor, logits_RV: Tensor, hidden_RC: Tensor | None) -> tuple[Outcome, Tensor]:
        """What the evidence leads to, and for the host, as `DecisionKey` reads it, int64 [B, W]. Nothing is committed yet."""
        structure, precision = self.key.structure, torch.promote_types(self.model.dtype, self.key.structure.precision)
        facts, numbers_FB = self.device_state.facts(self.index_B), self.device_state.numbers(self.index_B)
        kind_BL = self.device_state.kind(self.index_B, structure.width)
        outcome, left_B = decide(
            of_rows(structure, numbers_FB, precision),
            logits_RV,
            states_BKL,
            BlockFacts(
                fixed_BL=kind_BL == GIVEN,
                step_B=self.device_state.step(self.index_B, structure),
                suffix_B=facts.suffix,
                sampling=_sampling(structure, facts),
                kind_BL=kind_BL if structure.hole_ends else None,
            ),
            self.device_state.memories(self.index_B, structure, precision),
            mask_id=self.model.spec.mask_id,
            eos_E=self.eos_E,
            hidden_RC=hidden_RC,
            constraint=self.constraint,
            shown_S=self.shown_S,
        )
        return outcome, _numbers(outcome, left_B, states_BKL, refused=structure.constrained)

    def commit(self, outcome: Outcome) -> None:
        """What was decided becomes what the next forward starts from."""
        self.device_state.keep(self.index_B, outcome, self.key.structure)


def decide_all(
    batches: Sequence[DecisionBatch], states: Sequence[Tensor], logits_RV: Tensor, hidden_RC: Tensor | None
) -> Tensor:
    """Each batch on its own slice of a forward's logits; the numbers of all of them, one behind the other, flat.

    Nothing is committed before all is decided: a forward that fails has done nothing, and can be made again.
    """
    sizes = [
        states_BKL.numel() if batch.shown_S is None else len(batch.shown_S)
        for batch, states_BKL in zip(batches, states, strict=True)
    ]
    logits = torch.split(logits_RV, sizes)
    hidden = [None] * len(sizes) if hidden_RC is None else list(torch.split(hidden_RC, sizes))
    decided = [
        batch.decide(states_BKL, mine_RV, hidden_RC)
        for batch, states_BKL, mine_RV, hidden_RC in zip(batches, states, logits, hidden, strict=True)
    ]
    flat = [numbers_BW.flatten() for _, numbers_BW in decided]
    numbers = flat[0] if len(flat) == 1 else torch.cat(flat)
    for batch, (outcome, _) in zip(batches, decided, strict=True):
        batch.commit(outcome)
    return numbers


def reads_hidden(batches: Sequence[DecisionBatch]) -> bool:
    """Whether a rule of a batch reads the last hidden states, so that the forward must give them."""
    return any(batch.key.structure.reads_hidden for batch in batches)


def _alternatives(ids_N: Tensor, sure_N: Tensor, most: int) -> list[list[Alternative]]:
    """The `most` tokens of each place of a row, most probable first; of no place where none were asked for."""
    if not most:
        return []
    places = zip(ids_N.view(-1, most).tolist(), sure_N.view(-1, most).tolist(), strict=True)
    return [[Alternative(*one) for one in zip(*place, strict=True)] for place in places]


def _numbers(outcome: Outcome, left_B: Tensor, states_BKL: Tensor, *, refused: bool) -> Tensor:
    def bits(part: Tensor) -> Tensor:
        return part.to(torch.float64).view(torch.int64).flatten(1)

    confidence_BL, noted = bits(outcome.last.confidence_BL), outcome.noted
    rows = len(left_B)
    output = (left_B.view(rows, -1), outcome.step_B.view(rows, -1), outcome.window_BL, outcome.taken_BL)
    said = (bits(noted.confidence_BL),)
    if noted.top_id_BLA is not None and noted.top_BLA is not None:
        said += (noted.top_id_BLA.flatten(1), bits(noted.top_BLA))  # type: ignore[assignment]
    evidence = (outcome.last.candidate_BL, confidence_BL, states_BKL.flatten(1))
    if refused:
        refused_BL, none_BL = outcome.last.refused_BL, torch.full_like(outcome.window_BL, -1)
        evidence += (none_BL if refused_BL is None else refused_BL,)  # type: ignore[assignment]
    return torch.cat((*output, *said, *evidence), dim=1)


def _sampling(structure: Structure, facts: Facts[Tensor]) -> Sampling | None:
    """The rows' own numbers as columns [B, 1]; None where the most probable token is taken."""
    if structure.sampled is None:
        return None

    def real(bits_B: Tensor) -> Tensor:
        return bits_B.view(torch.float64).to(torch.float32)[:, None]

    return Sampling(
        temperature_B1=real(facts.temperature),
        seed_B1=facts.seed[:, None],
        positions_BL=facts.offset[:, None] + torch.arange(structure.width, device=facts.offset.device),
        top_p_B1=real(facts.top_p) if structure.sampled.top_p else None,
        top_k_B1=facts.top_k[:, None] if structure.sampled.top_k else None,
    )
