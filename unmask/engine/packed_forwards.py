"""Packed forwards of any rows: launched kernel by kernel, or their network replayed as a graph by buckets of tokens.

Launching costs the host as long as the kernels of a few hundred tokens take, or longer. In a bucket the shapes do not depend
on the rows (context/buckets.py), so one graph holds the network of any of them: from tokens and plan, which lie in a buffer
that stays and travel in one copy, to the states of the tokens that are read. What is made of those stands behind it
(block_steps.py), or with constraints is launched kernel by kernel.

Shapes: N query tokens, R tokens to predict, V vocabulary, C model width.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.context.buckets import SIZES, Bucket, Numbers, buckets
from unmask.context.plan import ForwardPlan, assemble, ship, stage
from unmask.context.pool import KVPool
from unmask.engine.device_state import DeviceState
from unmask.engine.forms import tile_of, tiles_of
from unmask.engine.graphs import OFTEN, Replay, Replays
from unmask.engine.state import RequestState
from unmask.kernels import varlen
from unmask.models.denoiser import Denoiser


class _Network:
    """The network of a forward in a bucket: from its numbers to the states of the tokens that it reads, in a table."""

    def __init__(self, bucket: Bucket, model: Denoiser, pool: KVPool, state: DeviceState, states_RC: Tensor) -> None:
        self._bucket, self._model, self._pool, self._state, self._states_RC = bucket, model, pool, state, states_RC
        nothing = Numbers.asked((), (), bucket.tile, state.padding)
        (self._buffer,) = ship([bucket.filled(nothing, state.padding)], device=model.device)

    def take(self, numbers: Numbers[list[int]]) -> tuple[Tensor, Tensor]:
        """Another forward's; its tokens [N], in which guesses may still be put, and the places [R] of those it reads."""
        self._buffer.copy_(stage(self._bucket.filled(numbers, self._state.padding), self._model.device), non_blocking=True)
        there = self._bucket.parts(self._buffer)
        return there.tokens, there.read[: len(numbers.read)]

    def __call__(self) -> None:
        tokens_N, plan = self._bucket.plan(self._buffer, self._state.page_table)
        self._states_RC[: self._bucket.reads].copy_(self._model.states(tokens_N, plan, self._pool))


class Launched(NamedTuple):
    """A packed forward that is launched kernel by kernel."""

    model: Denoiser
    pool: KVPool
    tokens_N: Tensor
    read_R: Tensor
    plan: ForwardPlan

    def remember(self) -> None:
        """Make the forward, of which nothing is read."""
        self.model.states(self.tokens_N, self.plan, self.pool)

    def predict(self, shown_S: Tensor | None, *, hidden: bool) -> tuple[Tensor, Tensor | None]:
        """Make it: as `Denoiser.predict`, of those of the tokens to predict that `shown` says; None: of all."""
        plan = self.plan
        if shown_S is not None:
            plan = plan._replace(read_R=plan.read_R[shown_S], before_R=plan.before_R[shown_S])
        return self.model.predict(self.tokens_N, plan, self.pool, hidden=hidden)


class Replayed(NamedTuple):
    """One in a bucket. Its tokens are in the buffer and its states in the table until the next one is made."""

    model: Denoiser
    network: Replay[_Network]
    tokens_N: Tensor
    read_R: Tensor
    states_RC: Tensor

    def remember(self) -> None:
        """As of `Launched`."""
        self.network()

    def predict(self, shown_S: Tensor | None, *, hidden: bool) -> tuple[Tensor, Tensor | None]:
        """Likewise."""
        self.network()
        states_RC = self.states_RC[: len(self.read_R)]
        if shown_S is not None:
            states_RC = states_RC[shown_S]
        return self.model.project(states_RC), states_RC if hidden else None


class PackedForwards:
    """The packed forwards of an engine."""

    def __init__(self, model: Denoiser, pool: KVPool, device_state: DeviceState, replays: Replays) -> None:
        self._model, self._pool, self._state, self._replays = model, pool, device_state, replays
        self._together, states = False, 0
        if model.replayable:
            self._together = varlen.together(torch.empty(0, dtype=model.dtype, device=model.device))
            states = SIZES[-1]
        # Graphs share memory for what they compute on: what one of them hands on must lie elsewhere.
        self.states_RC = torch.zeros((states, model.network.shape.width), dtype=model.dtype, device=model.device)

    def parts(self, rows: Sequence[RequestState]) -> list[tuple[int | None, list[RequestState]]]:
        """Which of these rows share a forward, and the tile of its bucket; None: it is launched kernel by kernel.

        Rows with a constraint, whose decisions no graph holds, go apart from the others.
        """
        found: dict[tuple[int | None, bool], list[RequestState]] = {}
        for row in rows:
            tile = tile_of(row, together=self._together) if self._model.replayable else None
            found.setdefault((tile, tile is not None and row.constraint is not None), []).append(row)
        plain = found.pop((None, False), [])
        for kind, some in list(found.items()):
            if sum(row.tokens for row in some) > SIZES[-1]:
                plain += found.pop(kind)
        return [*([(None, plain)] if plain else []), *((tile, some) for (tile, _), some in found.items())]

    def launched(self, asked: Sequence[tuple[RequestState, int]]) -> Launched:
        """A forward of rows, each with that many states of its block, launched kernel by kernel."""
        queries = [query for row, states in asked for query in row.queries(states)]
        tokens_N, plan = assemble(queries, device=self._model.device)
        return Launched(self._model, self._pool, tokens_N, plan.read_R, plan)

    def replayed(self, tile: int | None, asked: Sequence[tuple[RequestState, int]]) -> Replayed | None:
        """The same in the smallest bucket of this tile that holds it; None: none does, or there is no tile."""
        if tile is None:
            return None
        padding = self._state.padding
        queries = [(query, row) for row, states in asked for query in row.queries(states)]
        rows = [row.index if query.pages else padding for query, row in queries]
        numbers = Numbers.asked([query for query, _ in queries], rows, tile, padding)
        bucket = next((bucket for bucket in buckets(tile) if bucket.holds(numbers)), None)
        if bucket is None:
            return None
        network = self._network(bucket)
        return Replayed(self._model, network, *network.compute.take(numbers), self.states_RC)

    def warm_up(self, rows: Sequence[RequestState]) -> Tensor:
        """Capture what forwards of rows like these will replay: the largest first, whose memory the others then share.

        Where they leave states [R, C]; empty: they replay nothing.
        """
        tiles = dict.fromkeys(tile for row in rows for tile in tiles_of(row, together=self._together))
        for tile in tiles:
            few = {bucket.tokens: bucket for bucket in reversed(list(buckets(tile)))}
            for bucket in few.values():
                for _ in range(OFTEN):
                    self._network(bucket)()
        return self.states_RC if tiles else self.states_RC[:0]

    def _network(self, bucket: Bucket) -> Replay[_Network]:
        make = functools.partial(_Network, bucket, self._model, self._pool, self._state, self.states_RC)
        return self._replays.get(bucket, make)
