"""Steps of block forwards whose numbers all lie on the device: the host only says which rows take part, when that changes.

    forward     one graph per form and number of queries: whatever the rows' methods, lengths and numbers
    decisions   one graph per structure of a method, over all places for rows: whatever the rows' numbers, and how many rows

So a few graphs serve any mix of clients. A row's block, each of its drafts and the finished block before it are queries of
their own. Every other forward (refreshes, forwards that query a suffix too, prompts) is packed (packed_forwards.py); where that
was replayed the same decisions stand behind it:

    windows     one graph per form and number of windows: from the states that the forward has left to the tables

Shapes: N queries, padding included, B rows of a decision, K states of a row's block, Q tokens of a query, L of them predicted.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.context.blocks import Blocks, assemble_blocks
from unmask.context.plan import ForwardPlan, ship, stage
from unmask.context.pool import PAGE, KVPool
from unmask.decode.proposal import Score
from unmask.decode.step import conclude, proposed
from unmask.engine.decision import DecisionKey, Known, told
from unmask.engine.device_state import CLEAN, WINDOW, DeviceState, Facts
from unmask.engine.evidence import EvidenceTables
from unmask.engine.fallbacks import Fallbacks
from unmask.engine.forms import Form, form_of, forms, padded
from unmask.engine.graphs import OFTEN, Replay, Replays
from unmask.engine.scoring import Scoring, Shared
from unmask.engine.state import RequestState
from unmask.methods.recipe import Structure
from unmask.models.denoiser import Denoiser

NONE = -1  # in place of a place in a forward


class _Taking:
    """Whole numbers on the device that say which rows take part; copied only when they change."""

    def __init__(self, numbers: Sequence[int], device: torch.device) -> None:
        self._numbers = list(numbers)
        (self.tensor,) = ship([self._numbers], device=device)

    def set(self, numbers: list[int]) -> None:
        """Other ones, as many."""
        if numbers != self._numbers:
            self.tensor.copy_(stage(numbers, self.tensor.device), non_blocking=True)
            self._numbers = numbers


class _Queries(NamedTuple):
    """What the host says of a forward's queries, lists of one number each.

    Attributes:
        place: of its tokens among the versions of all windows (`DeviceState.version`).
        row: of which row.
        shift, draft: of a draft how far its copy lies behind the first possible place of one, and 1; else 0.
        clean: 1 if it is the finished block before the row's, else 0.
        before: the place in the forward of the token before its first one; its first one's where there is none.
    """

    place: list[int]
    row: list[int]
    shift: list[int]
    draft: list[int]
    clean: list[int]
    before: list[int]

    def add(self, place: int, row: int, version: int, before: int, query: int) -> None:
        """One more, of `query` tokens."""
        draft = max(0, version - CLEAN)
        numbers = (place, row, draft * query, int(draft > 0), int(version == CLEAN), before)
        for whole, number in zip(self, numbers, strict=True):
            whole.append(number)


class _Forward:
    """A block forward of any rows of one form, up to a number of queries; what it says goes into the tables."""

    def __init__(self, scoring: Scoring, size: int, pool: KVPool) -> None:
        """`size` is the number of queries."""
        self._scoring, self._pool, self._state = scoring, pool, scoring.shared.state
        self._form = form = scoring.form
        self._size, padding = size, self._state.padding
        place, query = self._state.version(padding, WINDOW), form.before + form.width
        firsts = range(0, self._size * query, query)
        self._padding = [[one] * self._size for one in (place, padding, 0, 0, 0)] + [list(firsts)]
        self._taking = _Taking([number for numbers in self._padding for number in numbers], scoring.model.device)

    def take(self, queries: _Queries) -> None:
        """These queries, and padding behind them."""
        count = len(queries.row)
        self._taking.set([one for some, rest in zip(queries, self._padding, strict=True) for one in (*some, *rest[count:])])

    def __call__(self) -> None:
        place_N, index_N, *where = self._taking.tensor.view(6, -1).unbind()
        facts, form = self._state.facts(index_N), self._form
        token_NL = self._state.versions(place_N, form.width)
        tokens_N, plan = self._plan(token_NL, facts, self._state.pages(index_N), *where)
        model, hidden = self._scoring.model, self._scoring.like.reads_hidden
        self._scoring(*model.predict(tokens_N, plan, self._pool, hidden=hidden), index_N, facts)

    def _plan(
        self,
        token_NL: Tensor,
        facts: Facts[Tensor],
        pages_NP: Tensor,
        shift_N: Tensor,
        draft_N: Tensor,
        clean_N: Tensor,
        before_N: Tensor,
    ) -> tuple[Tensor, ForwardPlan]:
        """The forward's tokens and plan: a draft keeps a copy of its query, the block before stands a block before."""
        form, begin_N, seen_N, length_N = self._form, facts.begin, facts.seen, None
        shift_N = torch.addcmul(shift_N, facts.apart, draft_N)
        if form.grid is not None:
            begin_N, seen_N = begin_N - clean_N * form.length, torch.where(clean_N > 0, begin_N, seen_N)
            length_N = form.width - clean_N * (form.width - form.length) if form.blocks > 1 else None
        if form.before:
            token_NL = torch.cat((facts.before[:, None], token_NL), dim=1)
        return assemble_blocks(
            Blocks(
                tokens_BQ=token_NL,
                before=form.before,
                begin_B=begin_N,
                seen_B=seen_N,
                shift_B=shift_N,
                pages_BP=pages_NP,
                block=form.grid if form.blocks > 1 else None,
                length_B=length_N,
                before_B=None if form.grid is None else before_N,
                scratch=self._pool.scratch * PAGE,
            )
        )


class _Behind:
    """What a packed forward says of windows of one form, up to a number of them; it goes into the tables too."""

    def __init__(self, scoring: Scoring, size: int, states_RC: Tensor) -> None:
        """`states` is where forwards leave the states of what they read."""
        self._scoring, self._size, self._states_RC = scoring, size, states_RC
        self._padding = 0, scoring.shared.state.padding, scoring.shared.tables.padding
        self._taking = _Taking([one for one in self._padding for _ in range(size)], scoring.model.device)

    def take(self, places: Sequence[int], indices: Sequence[int], queries: Sequence[int]) -> None:
        """The windows whose states begin at these places, of these rows, and their numbers among the step's queries."""
        rest = self._size - len(places)
        lists = zip((places, indices, queries), self._padding, strict=True)
        self._taking.set([number for some, one in lists for number in (*some, *[one] * rest)])

    def __call__(self) -> None:
        place_N, index_N, query_N = self._taking.tensor.view(3, -1).unbind()
        state_NL = place_N[:, None] + torch.arange(self._scoring.form.width, device=place_N.device)
        states_RC = self._states_RC.index_select(0, state_NL.flatten())
        hidden_RC, facts = states_RC if self._scoring.like.reads_hidden else None, self._scoring.shared.state.facts(index_N)
        self._scoring(self._scoring.model.project(states_RC), hidden_RC, index_N, facts, query_N)


class _Decision:
    """The decision of rows of one structure, of all places for rows, by what the tables say of their queries."""

    def __init__(self, key: DecisionKey, model: Denoiser, shared: Shared) -> None:
        self._key, self._model = key, model
        self._state, self._tables = shared
        padding = [self._state.padding] * key.rows + [self._tables.padding] * (key.rows * key.states)
        self._taking = _Taking(padding, model.device)
        (self._eos_E,) = ship([key.structure.eos_ids], device=model.device)
        self.numbers_BW = torch.zeros((key.rows, key.width), dtype=torch.int64, device=model.device)

    def take(self, indices: Sequence[int], queries: Sequence[int]) -> None:
        """The rows at these places, and the numbers of their queries."""
        key = self._key
        rows = [*indices, *[self._state.padding] * (key.rows - len(indices))]
        asked = [*queries, *[self._tables.padding] * (key.rows * key.states - len(queries))]
        self._taking.set([*rows, *asked])

    def __call__(self) -> None:
        key, structure, mask_id = self._key, self._key.structure, self._model.spec.mask_id
        index_B, query_N = self._taking.tensor[: key.rows], self._taking.tensor[key.rows :]
        known = Known.of(structure, index_B, self._state, drawn=False)
        states_BKL = self._state.states(index_B, structure, key.states)
        candidate_NL, confidence_NL, score_NL = self._tables.seen(structure, query_N)
        proposal = proposed(
            candidate_NL,
            confidence_NL,
            score_NL,
            states_BKL.flatten(0, 1),
            known.facts.repeat(key.states),
            mask_id=mask_id,
            eos_E=self._eos_E,
        )
        proposal = proposal._replace(**self._tables.beside(structure, query_N))
        broken_B = proposal.confidence_BL.isnan().view(key.rows, -1).any(dim=1)
        outcome, left_B = conclude(
            known.settings, proposal, broken_B, states_BKL, known.facts, known.memories, mask_id=mask_id, eos_E=self._eos_E
        )
        self._state.keep(index_B, outcome, known.settings, mask_id)
        told(outcome, left_B, states_BKL, out=self.numbers_BW)


@dataclass(frozen=True)
class Behind:
    """What the graphs of windows behind packed forwards are told apart by; no other graph's key equals one."""

    form: Form
    scores: tuple[Score, ...]
    windows: int


Part = tuple[DecisionKey, list[RequestState]]


class BlockStep(NamedTuple):
    """A step that can be launched, and again as long as its rows go on: the parts of it that decide together."""

    parts: list[Part]
    forward: Replay[_Forward] | Replay[_Behind]
    decisions: list[Replay[_Decision]]

    def launch(self) -> list[Tensor]:
        """The numbers of its decisions, flat, one behind the other."""
        self.forward()
        return self.decide()

    def decide(self) -> list[Tensor]:
        """The same where the forward is launched."""
        for decision in self.decisions:
            decision()
        return [decision.compute.numbers_BW.flatten() for decision in self.decisions]


def _queries_of(structure: Structure) -> int:
    """Most queries of a row in one step: its states, and of a block-causal model the block before."""
    return structure.branches + (structure.block is not None)


class BlockSteps:
    """The steps of all rows that come up."""

    def __init__(self, model: Denoiser, pool: KVPool, device_state: DeviceState, fallbacks: Fallbacks) -> None:
        self._model, self._pool = model, pool
        self._shared = Shared(device_state, EvidenceTables(model, device_state.precision))
        self.replays = Replays(model.device, fallbacks, self._shared.shapes)
        self._scores: dict[Form, set[Score]] = {}  # that any row of a form has ranked by: a forward makes all of them

    def reserve(self, structure: Structure) -> None:
        """Room for rows of this structure, which may come up."""
        self._shared.tables.reserve(padded(self._shared.state.padding * _queries_of(structure)), structure)
        self._scores.setdefault(form_of(structure), set()).add(structure.score)

    def __call__(self, form: Form, rows: Sequence[RequestState]) -> BlockStep:
        """A step of these rows, all of one form."""
        parts = self.parts(rows)
        queries, asked = self._queries(form, parts)
        forward = self._forward(form, rows[0].structure, padded(len(queries.row)))
        forward.compute.take(queries)
        return BlockStep(parts, forward, self._decisions(parts, asked))

    def behind(self, parts: Sequence[tuple[Form, list[Part]]], states_RC: Tensor) -> list[BlockStep]:
        """The decisions of rows behind a packed forward, by the states of their windows one behind the other."""
        steps, place, number = [], 0, 0
        for form, mine in parts:
            indices, asked = list[int](), list[list[int]]()
            for key, some in mine:
                indices += [row.index for row in some for _ in range(key.states)]
                asked.append(list(range(number, number := number + len(some) * key.states)))
            places = range(place, place := place + len(indices) * form.width, form.width)
            forward = self._behind(form, mine[0][0].structure, padded(len(indices)), states_RC)
            forward.compute.take(places, indices, range(number - len(indices), number))
            steps.append(BlockStep(mine, forward, self._decisions(mine, asked)))
        return steps

    def warm_up(self, rows: Sequence[RequestState], states_RC: Tensor) -> None:
        """Capture what steps of rows like these will replay: the largest first, whose memory the others then share.

        `states` as in `behind`; empty: no packed forward is replayed.
        """
        places = self._shared.state.padding
        most = places * max(_queries_of(row.structure) for row in rows)
        sizes = sorted({padded(queries) for queries in range(1, most + 1)}, reverse=True)
        warm: list[Callable[[], object]] = []
        for form, some in forms(rows):
            asked = [form._replace(sampled=sampled) for sampled in {False, form.sampled}]
            warm += [self._forward(one, some[0].structure, size) for one in asked for size in sizes]
            windows = sorted({padded(count) for count in range(1, min(places, len(states_RC) // form.width) + 1)}, reverse=True)
            warm += [self._behind(one, some[0].structure, size, states_RC) for one in asked for size in windows]
            # The first forward of a window drafts nothing yet.
            for drafts in (True, False) if form.grid is not None or windows else (True,):
                warm += [self._decision(key) for key, _ in self.parts(some, drafts)]
        for step in warm:
            for _ in range(OFTEN):
                step()

    def _forward(self, form: Form, like: Structure, size: int) -> Replay[_Forward]:
        scoring = self._scoring(form, like)
        return self.replays.get((form, scoring.scores, size), functools.partial(_Forward, scoring, size, self._pool))

    def _behind(self, form: Form, like: Structure, size: int, states_RC: Tensor) -> Replay[_Behind]:
        scoring = self._scoring(form, like)
        return self.replays.get(Behind(form, scoring.scores, size), functools.partial(_Behind, scoring, size, states_RC))

    def _scoring(self, form: Form, like: Structure) -> Scoring:
        return Scoring(form, tuple(sorted(self._scores[form_of(like)])), like, self._model, self._shared)

    def _decisions(self, parts: Sequence[Part], asked: Sequence[list[int]]) -> list[Replay[_Decision]]:
        """Of each part, by the numbers of its rows' queries."""
        decisions = []
        for (key, some), queries in zip(parts, asked, strict=True):
            decision = self._decision(key)
            decision.compute.take([row.index for row in some], queries)
            decisions.append(decision)
        return decisions

    def _decision(self, key: DecisionKey) -> Replay[_Decision]:
        return self.replays.get(key, functools.partial(_Decision, key, self._model, self._shared))

    def parts(self, rows: Sequence[RequestState], drafts: bool | None = None) -> list[Part]:
        """Which rows decide together: those of one structure that all draft, or all do not. None: as each is about to."""
        found: dict[tuple[Structure, bool], list[RequestState]] = {}
        for row in rows:
            drafting = row.drafts if drafts is None else drafts and row.structure.branches > 1
            found.setdefault((row.structure, drafting), []).append(row)
        places = self._shared.state.padding
        return [
            (DecisionKey(structure, structure.branches if drafts else 1, places), some)
            for (structure, drafts), some in found.items()
        ]

    def _queries(self, form: Form, parts: Sequence[Part]) -> tuple[_Queries, list[list[int]]]:
        """All queries of the rows, and of each part the numbers of those that it decides by."""
        state, query = self._shared.state, form.before + form.width
        queries, asked = _Queries([], [], [], [], [], []), []
        for key, some in parts:
            mine = []
            for row in some:
                last = NONE
                if form.grid is not None and row.turn().clean is not None:
                    number = len(queries.row)
                    queries.add(state.version(row.index, CLEAN), row.index, CLEAN, number * query, query)
                    last = number * query + form.length - 1
                for version in (WINDOW, *range(CLEAN + 1, CLEAN + key.states)):
                    number = len(queries.row)
                    before = number * query if last == NONE else last
                    queries.add(state.version(row.index, version), row.index, version, before, query)
                    mine.append(number)
            asked.append(mine)
        return queries, asked
