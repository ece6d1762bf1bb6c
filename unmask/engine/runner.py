"""One step of any rows, in two halves: a shared forward and its decisions are launched; later the step is finished on the host.

    launch:  plan -> forward -> decide -> a copy of what the host must know
    finish:  wait for that copy -> commit

The network knows no methods, so rows of different methods, lengths, blocks and phases share its forward; decisions are made
in batches, the rows of equal structure, on their slice of the logits. No loop is here: the engine chooses the rows.
"""

import itertools
from collections.abc import Callable, Sequence, Set
from functools import partial
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from unmask.context.plan import ship
from unmask.context.pool import pages_for
from unmask.context.prefix_cache import PrefixCache
from unmask.decode.constraint import Constraint, Held, held
from unmask.decode.holes import FREE
from unmask.engine.block_steps import BlockStep, BlockSteps
from unmask.engine.completion import publishable
from unmask.engine.decision import DecisionBatch, DecisionKey, decide_all, reads_hidden
from unmask.engine.device_state import FACTS, DeviceState, row_facts
from unmask.engine.fallbacks import Fallbacks
from unmask.engine.forms import Form, forms, graphable
from unmask.engine.packed_forwards import PackedForwards
from unmask.engine.pending import PendingStep, Rows, idle
from unmask.engine.records import record_of
from unmask.engine.request import StepRecord
from unmask.engine.ring import Ring
from unmask.engine.state import RequestState
from unmask.kernels import choice
from unmask.methods.recipe import Structure
from unmask.models.denoiser import Denoiser
from unmask.models.follow import OutOfStep

Part = TypeVar("Part")
_Half = Callable[[list[RequestState]], tuple[list[Rows], list[Tensor]]]


class _Launch(NamedTuple, Generic[Part]):
    """What a packed forward's decisions need of the host: lists of whole numbers there, tensors once shipped."""

    opened: Part  # indices of the rows whose block begins; of each:
    facts: Part
    windows: Part  # its tokens, masks up to the longest window
    kinds: Part  # what may be written at each of them
    indices: Part  # indices of all rows, batch after batch
    shown: Part  # of all tokens to predict those that decide, batch after batch; none: all of them
    eos: Part  # what ends an answer, batch after batch


class Runner:
    """A model, what the device remembers of the requests, and the steps that they take."""

    def __init__(self, model: Denoiser, *, pages: int, rows: int, shared: bool = True) -> None:
        """`pages` of key/value memory for at most this many requests at once; `shared` by those that begin alike."""
        self.model = model
        self.pool = model.pool(pages)
        self.prefixes = PrefixCache(self.pool, shared=shared)
        self.fallbacks = Fallbacks()
        longest = max(1, min(pages, pages_for(model.spec.max_length)))  # rows that remember nothing look there all the same
        self._device_state = DeviceState(rows, pages=longest, scratch=self.pool.scratch, dtype=model.dtype, device=model.device)
        self._steps = BlockSteps(model, self.pool, self._device_state, self.fallbacks)
        self._forwards = PackedForwards(model, self.pool, self._device_state, self._steps.replays)
        self._ring = Ring(model.device)
        if model.device.type == "cuda":
            # It plans each length anew, on the host, and keeps every plan: a stall with each new prompt.
            torch.backends.cuda.enable_cudnn_sdp(False)

    def prepare(self, row: RequestState) -> None:
        """Say what a request will want of the memory; nothing is lent yet."""
        row.lease = self.prefixes.lease(
            pages_for(row.slots),
            row.request.prompt,
            block=row.shared_block,
            reusable=row.reusable,
            scope=row.request.cache_scope,
        )

    @torch.inference_mode()
    def allocate(self, row: RequestState) -> None:
        """Lend a prepared request what it needs; the caller knows that there are pages and an index."""
        self.prefixes.lend(row.lease)
        row.pages, row.kept = row.lease.pages, row.lease.cached
        row.index = self._device_state.take(row.structure, row.pages)
        if self.model.replayable:
            self._steps.reserve(row.structure)

    @torch.inference_mode()
    def warm_up(self, rows: Sequence[RequestState]) -> None:
        """Capture what steps of rows like these will replay, before there are any; nothing where nothing is replayed."""
        if not self.model.replayable:
            return
        for row in rows:
            self._device_state.give(self._device_state.take(row.structure))
            self._steps.reserve(row.structure)
        with torch.cuda.device_of(self.pool.keys[0]):  # type: ignore[no-untyped-call]
            self._steps.warm_up(rows, self._forwards.warm_up(rows))

    def publish(self, row: RequestState) -> None:
        """Let other requests find what has become final of one."""
        if row.lease.lacks(row.kept):
            self.prefixes.publish(row.lease, row.canvas.tokens, publishable(row))

    def free(self, row: RequestState) -> None:
        """Take it back. A pending step may still write there: it is finished before another request is let in."""
        if row.broken:
            self.pool.clear(row.pages)
        self.prefixes.give(row.lease)
        self._device_state.give(row.index)

    @torch.inference_mode()
    def launch(self, rows: Sequence[RequestState], watched: Sequence[bool]) -> PendingStep:
        """Put a step of these rows on its way: nothing here waits for the device.

        Raises what a forward raised, where none was launched.
        """
        stays = [graphable(row) for row in rows] if self.model.replayable else [False] * len(rows)
        replayed = [row for row, one in zip(rows, stays, strict=True) if one]
        packed = [row for row, one in zip(rows, stays, strict=True) if not one]
        with torch.cuda.device_of(self.pool.keys[0]):  # type: ignore[no-untyped-call]
            seen = {id(row) for row, one in zip(rows, watched, strict=True) if one}
            halves: list[tuple[_Half, list[RequestState]]] = [
                (partial(self._packed, tile, watched=seen), some) for tile, some in self._forwards.parts(packed)
            ]
            steps = list[BlockStep]()
            halves += [(partial(self._replayed, form, steps), some) for form, some in forms(replayed)]
            launched, taking, failed = list[tuple[list[Rows], list[Tensor]]](), set[int](), None
            for half, some in halves:
                try:
                    launched.append(self._safely(half, some))
                except Exception as error:
                    if not launched:
                        raise
                    failed = error
                    break
                taking |= {id(row) for row in some}
            numbers, arrived = self._ring.to_host([numbers for _, some in launched for numbers in some])
        again = None if packed or failed or not all(_repeats(row) for row in rows) else steps
        kept = [(row, seen) for row, seen in zip(rows, watched, strict=True) if id(row) in taking]
        parts = [part for some, _ in launched for part in some]
        return PendingStep([row for row, _ in kept], [seen for _, seen in kept], parts, numbers, arrived, failed, again)

    @torch.inference_mode()
    def again(self, step: PendingStep) -> PendingStep:
        """The same step once more, whether or not its results are known."""
        assert step.again is not None, "the rows' next forwards are others"
        with torch.cuda.device_of(self.pool.keys[0]):  # type: ignore[no-untyped-call]
            numbers, arrived = self._ring.to_host([numbers for one in step.again for numbers in one.launch()])
        return step._replace(numbers=numbers, arrived=arrived, ahead=True)

    def _safely(self, half: "_Half", rows: list[RequestState]) -> tuple[list[Rows], list[Tensor]]:
        """One forward and its decisions; where kernels run and something fails, once more without them."""
        try:
            return half(rows)
        except (torch.OutOfMemoryError, OutOfStep):
            raise
        except Exception as error:
            device, dtype = self.model.device, self.model.dtype
            if not self.model.accelerated:
                raise
            choice.give_up(device, dtype, f"{type(error).__name__}: {error}")
            self.fallbacks.note("kernels", error)
            return half(rows)

    def finish(self, step: PendingStep) -> list[StepRecord | None]:
        """Wait for a step and commit it to its rows; a record of each watched one, numbered by its own forwards."""
        if step.arrived is not None:
            step.arrived.synchronize()
        watched = {id(row) for row, watched in zip(step.rows, step.watched, strict=True) if watched}
        records: dict[int, StepRecord] = {}
        for row in step.rows:
            if row.turn().block is None:
                if id(row) in watched:
                    records[id(row)] = record_of(row, None, None)
                row.remember(row.turn().tokens)
        begin = 0
        for key, rows in step.parts:
            end = begin + key.rows * key.width
            numbers_BW = step.numbers[begin:end].view(key.rows, -1)[: len(rows)]  # what follows is padding
            begin = end
            for row, output, numbers_W in zip(rows, key.outputs(numbers_BW), numbers_BW, strict=True):
                if step.ahead and idle(row):
                    continue
                record = record_of(row, output, key.evidence(numbers_W)) if id(row) in watched else None
                row.remember(row.turn().tokens * row.tried(key.states))
                row.commit(output)
                if record is not None and not row.broken:
                    records[id(row)] = record
        return [records.get(id(row)) for row in step.rows]

    def _packed(self, tile: int | None, rows: list[RequestState], *, watched: Set[int]) -> tuple[list[Rows], list[Tensor]]:
        """Forwards of any length, packed behind each other: which rows decide together, and their decisions' numbers.

        `tile` as in `PackedForwards`. `watched` are the ids of the rows whose evidence is recorded, of every position.
        """
        if tile is not None and rows[0].constraint is None and (made := self._bucketed(tile, rows)) is not None:
            return made
        deciding = [row for row in rows if row.turn().block is not None]
        parts = _together(deciding)
        model, state = self.model, self._device_state
        shown = self._shown(parts, watched)
        numbers = self._shipped(parts, [row for row in deciding if not row.opened], shown)
        self._open(numbers)
        for row in deciding:
            row.opened = True
        batches = [
            DecisionBatch(
                key=key,
                indices=tuple(row.index for row in some),
                index_B=index_B,
                eos_E=eos_E,
                device_state=state,
                model=model,
                constraint=_held(some),
                shown_S=shown_S,
            )
            for (key, some), index_B, eos_E, shown_S in zip(
                parts,
                torch.split(numbers.indices, [key.rows for key, _ in parts]),
                torch.split(numbers.eos, [len(key.structure.eos_ids) for key, _ in parts]),
                _of_each(parts, numbers.shown, shown),
                strict=True,
            )
        ]
        asked = _asked(rows, parts)
        forward = self._forwards.replayed(tile, asked) or self._forwards.launched(asked)
        if not parts:
            forward.remember()
            return [], []
        states = [batch.states() for batch in batches]
        reads = torch.split(forward.read_R, [part.numel() for part in states])
        for states_BKL, read_R in zip(states, reads, strict=True):
            if states_BKL.shape[1] > 1:
                forward.tokens_N[read_R] = states_BKL.flatten()
        predicted = forward.predict(numbers.shown if shown else None, hidden=reads_hidden(batches))
        return parts, [decide_all(batches, states, *predicted)]

    def _bucketed(self, tile: int, rows: list[RequestState]) -> tuple[list[Rows], list[Tensor]] | None:
        """The same in a bucket, with the decisions of block steps; None: no bucket holds it."""
        deciding = [row for row in rows if row.turn().block is not None]
        parts = [(form, self._steps.parts(some)) for form, some in forms(deciding)]
        everyone = [part for _, some in parts for part in some]
        forward = self._forwards.replayed(tile, _asked(rows, everyone))
        if forward is None:
            return None
        self._open_new(deciding)
        sizes = [len(some) * key.states * key.structure.width for key, some in everyone]
        for (key, some), read_R in zip(everyone, torch.split(forward.read_R, sizes), strict=True):
            if key.states > 1:
                (index_B,) = ship([[row.index for row in some]], device=self.model.device)
                forward.tokens_N[read_R] = self._device_state.states(index_B, key.structure, key.states).flatten()
        forward.remember()
        steps = self._steps.behind(parts, forward.states_RC)
        for step in steps:
            step.forward()  # nothing is committed before all of these are done
        numbers = [part.clone() for step in steps for part in step.decide()]  # another half may make the same decisions
        return everyone, numbers

    def _shown(self, parts: Sequence[Rows], watched: Set[int]) -> list[list[int]]:
        """Of each part's tokens to predict the places of those that decide; empty: all are predicted.

        On a CPU alone, where a forward costs what it computes.
        """
        if self.model.device.type != "cpu":
            return []
        shown = [_deciding(key, some, watched) for key, some in parts]
        sizes = [key.states * key.structure.width * key.rows for key, _ in parts]
        return shown if sum(map(len, shown)) < sum(sizes) else []

    def _open_new(self, rows: Sequence[RequestState]) -> None:
        """Put down what the device must know of those of these rows whose block begins."""
        opening = [row for row in rows if not row.opened]
        if opening:
            self._open(self._shipped([], opening))
        for row in opening:
            row.opened = True

    def _open(self, numbers: _Launch[Tensor]) -> None:
        """Put down what the device must know of the rows whose block begins."""
        count, longest = len(numbers.opened), self._device_state.longest
        if count:
            self._device_state.open(
                numbers.opened,
                numbers.facts.view(-1, FACTS),
                numbers.windows.view(count, longest),
                numbers.kinds.view(count, longest),
            )

    def _shipped(
        self, parts: Sequence[Rows], opening: Sequence[RequestState], shown: Sequence[Sequence[int]] = ()
    ) -> _Launch[Tensor]:
        """What the decisions need of the host, on the device, in one copy."""
        longest = self._device_state.longest
        mask_id = self.model.spec.mask_id
        host = _Launch(
            opened=[row.index for row in opening],
            facts=[number for row in opening for number in row_facts(row)],
            windows=[token for row in opening for token in (*row.block(), *[mask_id] * (longest - row.recipe.width))],
            kinds=[kind for row in opening for kind in (*row.kinds(), *[FREE] * (longest - row.recipe.width))],
            indices=[row.index for _, some in parts for row in some],
            shown=[first + place for first, places in zip(_begins(parts), shown, strict=False) for place in places],
            eos=[token for key, _ in parts for token in key.structure.eos_ids],
        )
        return _Launch(*ship(host, device=self.model.device))

    def _replayed(self, form: Form, steps: list[BlockStep], rows: list[RequestState]) -> tuple[list[Rows], list[Tensor]]:
        """Block forwards over buffers that stay; likewise. The step goes to `steps`."""
        self._open_new(rows)
        behind = [row for row in rows if form.grid is not None and row.turn().clean is not None]
        if behind:
            self._open_behind(behind)
        step = self._steps(form, rows)
        numbers = step.launch()
        steps.append(step)
        return step.parts, numbers

    def _open_behind(self, rows: Sequence[RequestState]) -> None:
        """Put down the finished block before each row's own."""
        longest = self._device_state.longest
        blocks = []
        for row in rows:
            tokens = row.canvas.tokens[row.window.start - row.recipe.length : row.window.start]
            blocks += [*tokens, *[self.model.spec.mask_id] * (longest - len(tokens))]
        index_B, clean = ship([[row.index for row in rows], blocks], device=self.model.device)
        self._device_state.open_behind(index_B, clean.view(-1, longest))


def _asked(rows: Sequence[RequestState], parts: Sequence[Rows]) -> list[tuple[RequestState, int]]:
    """The rows of a packed forward in the order of their queries, and how many states of its block each tries."""
    asked = [(row, key.states) for key, some in parts for row in some]
    return asked + [(row, 1) for row in rows if row.turn().block is None]


def _together(rows: Sequence[RequestState]) -> list[Rows]:
    """Which of these rows decide together: with constraints those of one type."""
    found: dict[tuple[Structure, bool, type[Constraint | None]], list[RequestState]] = {}
    for row in rows:
        found.setdefault((row.structure, row.drafts, type(row.constraint)), []).append(row)
    for some in found.values():
        some.sort(key=lambda row: 0 if row.constraint is None else row.constraint.alike)
    return [(DecisionKey.of(some), some) for some in found.values()]


def _held(rows: Sequence[RequestState]) -> Held | None:
    """What rows that decide together are held to."""
    placed = [row.placed for row in rows if row.placed is not None]
    return held(placed) if placed else None


def _deciding(key: DecisionKey, rows: Sequence[RequestState], watched: Set[int]) -> list[int]:
    """The places of the masked positions among all R tokens that a batch has to predict, where nothing else decides; or all."""
    structure, width = key.structure, key.structure.width
    whole = not structure.reads_open or structure.sampled is not None or rows[0].constraint is not None
    if whole or any(id(row) in watched for row in rows):
        return list(range(key.rows * key.states * width))
    mask_id = rows[0].canvas.mask_id
    places = []
    for number, row in enumerate(rows):
        # A guessed state has no mask that the true one has not; and a forward predicts something.
        masked = [place for place, token in enumerate(row.block()) if token == mask_id] or [0]
        for state in range(key.states):
            begin = (number * key.states + state) * width
            places += [begin + place for place in masked]
    return places


def _begins(parts: Sequence[Rows]) -> list[int]:
    """Where each part's tokens to predict begin, and where the last one's end."""
    return [0, *itertools.accumulate(key.rows * key.states * key.structure.width for key, _ in parts)]


def _of_each(parts: Sequence[Rows], shown_S: Tensor, shown: Sequence[Sequence[int]]) -> list[Tensor | None]:
    """Each part's own of the shown places, counted from where its tokens begin; None: all."""
    if not shown:
        return [None] * len(parts)
    split = torch.split(shown_S, [len(places) for places in shown])
    whole = [key.rows * key.states * key.structure.width for key, _ in parts]
    return [
        None if len(mine) == size else mine - begin for mine, size, begin in zip(split, whole, _begins(parts), strict=False)
    ]


def _repeats(row: RequestState) -> bool:
    """Whether a row that goes on in its block takes the same forward again."""
    return row.structure.leaves and (row.structure.block is None or row.turn().clean is None)
