"""Rows that decide together: what their forward tries, and what its evidence leads to. No number leaves the device here.

Shapes: B rows of a batch, padding included, L block length, K states of a block tried at once (1 unless drafting),
R = B K L tokens to predict, V vocabulary, C model width, W numbers per row that go to the host.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.decode.advance import Outcome
from unmask.decode.constraint import Held
from unmask.decode.holes import GIVEN
from unmask.decode.memory import Memory
from unmask.decode.numbers import of_rows
from unmask.decode.sampling import Sampling
from unmask.decode.step import BlockFacts, decide
from unmask.engine.device_state import DeviceState, Facts
from unmask.engine.request import Alternative, StepOutput
from unmask.engine.state import RequestState
from unmask.methods.recipe import Sampled, Structure
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
        most = 5 + self.states + 2 * structure.alternatives + structure.constrained
        return 2 * structure.blocks.count + most * structure.width

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
        count, length = self.structure.blocks.count, self.structure.width
        rest = numbers_W[2 * count + (3 + 2 * self.structure.alternatives) * length :]
        sizes = [length, length, self.states * length, self.structure.constrained * length]
        candidate_L, confidence_L, states, refused = torch.split(rest, sizes)
        return Evidence(
            states=states.view(self.states, length).tolist(),
            candidate=candidate_L.tolist(),
            confidence=confidence_L.view(torch.float64).tolist(),
            refused=refused.tolist(),
        )


class Known(NamedTuple):
    """What the device knows of rows that decide together: their settings, with each row's numbers, and their blocks."""

    settings: Structure
    facts: BlockFacts
    memories: tuple[Memory, ...]

    @classmethod
    def of(
        cls,
        structure: Structure,
        index_B: Tensor,
        device_state: DeviceState,
        *,
        indices: tuple[int, ...] | None = None,
        drawn: bool = True,
    ) -> "Known":
        """Of rows at these places, which the host knows as `indices`; `drawn`: tokens are still to be drawn, where they are."""
        facts, numbers_FB = device_state.known(index_B)
        if indices is None:
            settings = of_rows(structure, numbers_FB, device_state.precision(structure))
        else:
            settings = device_state.settings(structure, indices, numbers_FB)
        kind_BL = device_state.kind(index_B, structure.width)
        sampled = structure.sampled if drawn else None
        return cls(
            settings,
            BlockFacts(
                fixed_BL=kind_BL == GIVEN,
                step_B=device_state.step(index_B, structure),
                suffix_B=facts.suffix,
                sampling=None if sampled is None else drawing(facts, structure.width, sampled),
                kind_BL=kind_BL if structure.hole_ends else None,
            ),
            device_state.memories(index_B, structure),
        )


class Decided(NamedTuple):
    """What the evidence of a batch leads to: by which settings, and what the host is told, [B, W]."""

    settings: Structure
    outcome: Outcome
    numbers_BW: Tensor


def drawing(facts: Facts[Tensor], width: int, sampled: Sampled) -> Sampling:
    """How tokens of rows' windows are drawn; the rows' own numbers as columns [B, 1]."""

    def real(bits_B: Tensor) -> Tensor:
        return bits_B.view(torch.float64).to(torch.float32)[:, None]

    return Sampling(
        temperature_B1=real(facts.temperature),
        seed_B1=facts.seed[:, None],
        positions_BL=facts.offset[:, None] + torch.arange(width, device=facts.offset.device),
        top_p_B1=real(facts.top_p) if sampled.top_p else None,
        top_k_B1=facts.top_k[:, None] if sampled.top_k else None,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class DecisionBatch:
    """A key's rows: `indices` and `index_B` are their places in the device state, `eos_E` what ends an answer.

    `constraint` is what its rows are held to. `shown_S` are those of its R tokens that are predicted; None: all.
    """

    key: DecisionKey
    indices: tuple[int, ...]
    index_B: Tensor
    eos_E: Tensor
    device_state: DeviceState
    model: Denoiser
    constraint: Held | None = None
    shown_S: Tensor | None = None

    def states(self) -> Tensor:
        """The states of the block that the forward tries, [B, K, L]: the true one first."""
        states_BKL = self.device_state.states(self.index_B, self.key.structure, self.key.states)
        if self.constraint is None or self.key.states == 1:
            return states_BKL
        return self.constraint.forced(states_BKL.flatten(0, 1)).view_as(states_BKL)

    def decide(self, states_BKL: Tensor, logits_RV: Tensor, hidden_RC: Tensor | None) -> Decided:
        """What the evidence leads to. Nothing is committed yet."""
        known = Known.of(self.key.structure, self.index_B, self.device_state, indices=self.indices)
        outcome, left_B = decide(
            known.settings,
            logits_RV,
            states_BKL,
            known.facts,
            known.memories,
            mask_id=self.model.spec.mask_id,
            eos_E=self.eos_E,
            hidden_RC=hidden_RC,
            constraint=self.constraint,
            shown_S=self.shown_S,
        )
        refused = self.key.structure.constrained
        return Decided(known.settings, outcome, told(outcome, left_B, states_BKL, refused=refused))

    def commit(self, decided: Decided) -> None:
        """What was decided becomes what the next forward starts from."""
        settings, mask_id = decided.settings, self.model.spec.mask_id
        self.device_state.keep(self.index_B, decided.outcome, settings, mask_id)


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
    for batch, one in zip(batches, decided, strict=True):
        batch.commit(one)
    numbers = [one.numbers_BW.flatten() for one in decided]
    return numbers[0] if len(numbers) == 1 else torch.cat(numbers)


def reads_hidden(batches: Sequence[DecisionBatch]) -> bool:
    """Whether a rule of a batch reads the last hidden states, so that the forward must give them."""
    return any(batch.key.structure.reads_hidden for batch in batches)


def _alternatives(ids_N: Tensor, sure_N: Tensor, most: int) -> list[list[Alternative]]:
    """The `most` tokens of each place of a row, most probable first; of no place where none were asked for."""
    if not most:
        return []
    places = zip(ids_N.view(-1, most).tolist(), sure_N.view(-1, most).tolist(), strict=True)
    return [[Alternative(*one) for one in zip(*place, strict=True)] for place in places]


def told(outcome: Outcome, left_B: Tensor, states_BKL: Tensor, *, refused: bool = False, out: Tensor | None = None) -> Tensor:
    """What the host is told of each row, as `DecisionKey` reads it: int64 [B, W]; `refused` candidates too, if asked for."""

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
    return torch.cat((*output, *said, *evidence), dim=1, out=out)
