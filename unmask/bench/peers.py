"""Ours beside peers (bench/peer.py) in one run: all take turns, tokens are compared, and each turn is a ratio.

Without a command of the user's the peer is the plain loop (bench/plain.py), one prompt after the other and as a padded batch.
"""

import asyncio
import itertools
import math
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unmask import tasks
from unmask.bench.measure import Timing
from unmask.bench.peer import Command, Line, Peer, PeerError, Turn
from unmask.bench.replays import requests
from unmask.bench.workload import Load, Report
from unmask.engine.generate import make_request
from unmask.engine.own import completed
from unmask.errors import ConfigError
from unmask.methods import load as load_method
from unmask.methods.method import Method
from unmask.models.denoiser import Denoiser
from unmask.models.loading import locate

OURS = "unmask"
PLAIN = (sys.executable, "-m", "unmask.bench.plain", "{model}")
USUAL = (Command("plain loop", PLAIN), Command("plain loop, padded", (*PLAIN, "--padded")))
ANSWER = 64
BATCH = 16
LIMIT = 600.0  # seconds of one turn
PROMPT = 128  # tokens of a random prompt, where the model has no tokenizer


@dataclass(frozen=True, kw_only=True)
class Peers:
    """Which peers are measured and how: the method of all, and the seconds that one turn may take, loading included."""

    commands: Sequence[Command] = USUAL
    method: Method | None = None
    limit: float = LIMIT

    def __post_init__(self) -> None:
        names = [OURS, *(command.name for command in self.commands)]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ConfigError(f"two peers are called {twice!r}: name them NAME=COMMAND")
        if not self.limit > 0:
            raise ConfigError(f"--time-limit {self.limit:g} must be more than 0 seconds")


def peers(model: Denoiser, load: Load, report: Report, asked: Peers) -> Iterator[dict[str, Any]]:
    """One row per batch size and peer, ours first: the same prompts, tokens and method."""
    method = completed(model, asked.method or load_method("fast-dllm-official"))
    ours = Command(OURS, (sys.executable, "-m", "unmask.bench.ours", model.name, "--device", str(model.device)))
    folder = locate(model.name)
    everyone = [Peer(command, folder, limit=asked.limit) for command in (ours, *asked.commands)]
    points = [point(model, method, rows=1, count=load.problems), point(model, method, rows=BATCH, count=BATCH)]
    yield from compare(everyone, points, report, rounds=load.repeats, seconds=load.turns)


def point(model: Denoiser, method: Method, *, rows: int, count: int) -> "Point":
    """Problems of the embedded models' task, or random prompts where the model has no tokenizer."""
    if model.tokenizer is None:
        asked = requests(model, method, batch=count, prompt=PROMPT, answer=ANSWER)
    else:
        made = itertools.islice(tasks.problems("arithmetic", "test", seed=7), count)
        asked = [make_request(model, problem.question, method=method, max_new_tokens=ANSWER) for problem in made]
    return Point(
        rows=rows,
        prompts=[request.prompt for request in asked],
        new_tokens=ANSWER,
        method=method.to_dict(),
        mask_id=model.spec.mask_id,
        eos_ids=model.spec.eos_ids,
    )


@dataclass(frozen=True, kw_only=True)
class Point:
    """What is compared: prompts, of which `rows` are asked in one line."""

    rows: int
    prompts: Sequence[Sequence[int]]
    new_tokens: int
    method: Mapping[str, Any]
    mask_id: int
    eos_ids: Sequence[int]

    def lines(self) -> list[Line]:
        """The lines of one turn."""
        rest = {"max_new_tokens": self.new_tokens, "method": dict(self.method)}
        rest |= {"mask_id": self.mask_id, "eos_ids": list(self.eos_ids)}
        starts = range(0, len(self.prompts), self.rows)
        return [{"prompts": [list(ids) for ids in self.prompts[at : at + self.rows]], **rest} for at in starts]


def compare(
    peers: Sequence[Peer], points: Sequence[Point], report: Report, *, rounds: int, seconds: float
) -> Iterator[dict[str, Any]]:
    """One row per point and peer, the first being ours: `rounds` turns of each, or as many as begin within `seconds`.

    A turn before those warms each up and is not counted. What a bad peer did is its only row's `reason`.
    """
    failed: dict[str, str] = {}
    with asyncio.Runner() as runner:
        try:
            for point in points:
                left = [peer for peer in peers if peer.name not in failed]
                report(f"{', '.join(peer.name for peer in left)} in turns, {point.rows} rows")
                turns = runner.run(_turns(left, point.lines(), rounds, seconds, failed))
                about = {"rows": point.rows, "prompts": len(point.prompts), "answer": point.new_tokens}
                for peer in left:
                    if peer.name in failed:
                        yield {"what": "failed", "peer": peer.name, **about, "reason": failed[peer.name]}
                    elif peers[0].name not in failed:
                        yield {"what": "peer", "peer": peer.name, **about, **_row(turns[peers[0].name], turns[peer.name])}
                if peers[0].name in failed:
                    return
        finally:
            for peer in peers:
                runner.run(peer.close())


async def _turns(
    peers: Sequence[Peer], lines: Sequence[Line], rounds: int, seconds: float, failed: dict[str, str]
) -> dict[str, list[Turn]]:
    """The turns of each peer, less those before its first round; a peer that fails is noted in `failed` and skipped."""
    turns: dict[str, list[Turn]] = {peer.name: [] for peer in peers}
    end = math.inf
    for number in range(rounds + 1):
        for peer in peers:
            if peer.name in failed:
                continue
            try:
                turns[peer.name].append(await peer.turn(lines))
            except PeerError as error:
                failed[peer.name] = str(error)
        if number == 0:
            end = time.perf_counter() + seconds
        elif time.perf_counter() >= end:
            break
    return {name: made[1:] for name, made in turns.items()}


def _row(ours: Sequence[Turn], theirs: Sequence[Turn]) -> dict[str, Any]:
    """A peer's times, its tokens and forwards beside ours, and how many times ours is as fast, turn by turn."""
    cpu = Timing.of([turn.cpu_seconds for turn in theirs])
    ratios = Timing.of([turn.cpu_seconds / mine.cpu_seconds for mine, turn in zip(ours, theirs, strict=True)])
    walls = [turn.seconds / mine.seconds for mine, turn in zip(ours, theirs, strict=True)]
    mine, last = ours[-1], theirs[-1]
    return {
        "cpu_seconds": cpu.seconds,
        "seconds": statistics.median(turn.seconds for turn in theirs),
        "forwards": statistics.fmean(last.forwards),
        "forwards_ratio": sum(last.forwards) / sum(mine.forwards),
        "times": ratios.seconds,
        "times_least": ratios.fastest,
        "times_most": ratios.slowest,
        "times_wall": statistics.median(walls),
        "repeats": ratios.repeats,
        "same": sum(a == b for a, b in zip(mine.tokens, last.tokens, strict=True)),
        "note": "; ".join(part for part in (difference(mine.tokens, last.tokens), last.note) if part),
    }


def difference(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> str:
    """Where the answers differ, in words; nothing where they are equal.

    >>> difference([[1, 2], [3, 4]], [[1, 2], [3, 5]])
    'other tokens in 1 of 2 answers, first in answer 1 at token 1: 5 instead of 4'
    """
    places = [
        (number, place)
        for number, pair in enumerate(zip(ours, theirs, strict=True))
        if (place := next((at for at, (a, b) in enumerate(zip(*pair, strict=True)) if a != b), None)) is not None
    ]
    if not places:
        return ""
    number, place = places[0]
    where = f"first in answer {number} at token {place}: {theirs[number][place]} instead of {ours[number][place]}"
    return f"other tokens in {len(places)} of {len(ours)} answers, {where}"
