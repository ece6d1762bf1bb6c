"""A few graphs serve any mix of clients: how many kinds come up, and how many steps none replays, with stub captures."""

import random
from collections.abc import Callable

import pytest

import unmask
from tests.together import attend_together
from unmask.context.buckets import SIZES, Bucket
from unmask.engine import graphs
from unmask.engine.block_steps import Behind
from unmask.engine.engine import Engine, Limits
from unmask.engine.request import Request
from unmask.models.denoiser import Denoiser
from unmask.models.toy import toy

CLIENTS, ROWS = 150, 16
MOST = 12

Client = Callable[[int, random.Random], unmask.Method]


def preset(name: str, **options: object) -> unmask.Method:
    return unmask.method(name, block_length=16, **options)


def own_threshold(number: int, rng: random.Random) -> unmask.Method:
    return preset("fast-dllm", threshold=round(rng.uniform(0.6, 0.99), 4))


def four_methods(number: int, rng: random.Random) -> unmask.Method:
    return (
        preset("fast-dllm"),
        preset("r2-dllm"),
        preset("streaming-dllm"),
        preset("vanilla", cache="dual"),
    )[number % 4]


def four_methods_with_own_numbers(number: int, rng: random.Random) -> unmask.Method:
    threshold = round(rng.uniform(0.6, 0.99), 4)
    return (
        preset("fast-dllm", threshold=threshold),
        preset("r2-dllm", threshold=threshold, temporal={"steps": rng.choice([2, 3, 4]), "threshold": threshold}),
        preset("streaming-dllm", threshold=threshold, suffix_window=rng.choice([8, 16])),
        preset("vanilla", cache="dual", steps=None),
    )[number % 4]


def drafts_beside_others(number: int, rng: random.Random) -> unmask.Method:
    return (preset("freedave"), preset("fast-dllm"), preset("r2-dllm"), preset("vanilla", cache="dual"))[number % 4]


class Counted:
    """What was captured, and how many calls of steps were replayed or launched kernel by kernel."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kinds, self.replayed, self.plain = 0, 0, 0
        monkeypatch.setattr(Denoiser, "replayable", True)
        monkeypatch.setattr(graphs, "capturing", lambda device: self._capture)
        call = graphs.Replay.__call__

        def counted(step: graphs.Replay[graphs.Compute]) -> object:
            made = call(step)
            self.replayed += step.captured is not None
            self.plain += step.captured is None
            return made

        monkeypatch.setattr(graphs.Replay, "__call__", counted)

    def _capture(self, compute: graphs.Compute) -> graphs.Compute:
        self.kinds += 1
        return lambda: compute()


@pytest.mark.parametrize(
    ("client", "together"),
    [
        (own_threshold, False),
        (four_methods, True),
        (four_methods_with_own_numbers, False),
        (drafts_beside_others, False),
    ],
)
def test_a_handful_of_graphs_serves_them_all(together: bool, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a warm-up with one request of each method no step is launched kernel by kernel."""
    if together:
        attend_together(monkeypatch)
    counted, rng, arrivals = Counted(monkeypatch), random.Random(0), random.Random(1)
    todo = [
        Request(
            prompt=(1,) * rng.choice([3, 20, 60, 150]),
            method=client(number, rng),
            max_new_tokens=rng.choice([32, 48]),
            seed=number,
        )
        for number in range(CLIENTS)
    ]
    engine = Engine(toy("llada", seed=5, sharpness=1), Limits(rows=ROWS, tokens=8192))
    engine.warm_up(todo[:4])
    counted.plain = counted.replayed = 0
    while todo or engine.busy:
        while todo and arrivals.random() < 0.5 and engine.load.running + engine.load.waiting < ROWS:
            engine.submit(todo.pop())
        engine.step()
    kinds = engine._runner._steps.replays.kinds
    packed = sum(isinstance(kind, Bucket | Behind) for kind in kinds)
    # Four states per row are four times the queries: up to 64, so that there are more sizes.
    assert len(kinds) - packed <= MOST + (client is drafts_beside_others)
    assert counted.kinds == len(kinds)
    assert packed <= 3 * len(SIZES)  # whole sequences, rows that see what they remember, and what is made of their windows
    assert counted.plain == 0
    assert counted.replayed > 200
