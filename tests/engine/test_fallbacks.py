"""What fails on a device drops to its plain form: a capture, a kernel, memory. Nothing is lost, and answers stay the same."""

import dataclasses
import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import unmask
from tests.reference import alone, as_alone, timeless
from unmask.engine import graphs
from unmask.engine.engine import Engine, Limits
from unmask.engine.request import Completion, Request
from unmask.engine.runner import Runner
from unmask.kernels import choice
from unmask.models.denoiser import Denoiser
from unmask.models.toy import EOS, toy

Capture = Callable[[graphs.Compute], graphs.Compute | None]


def model() -> Denoiser:
    return toy("llada", seed=5, sharpness=3, dtype=torch.float64)


def requests(count: int, *, seed: int = 0, lengths: tuple[int, ...] = (1, 9, 30), **options: Any) -> list[Request]:
    """Of four methods in turn, some sampled and some with drafts."""
    rng = random.Random(seed)
    methods = [
        unmask.method("fast-dllm", block_length=8, **options),
        unmask.method("r2-dllm", block_length=8, **options),
        unmask.method("vanilla", block_length=8, cache="dual", **options),
        unmask.method("freedave", block_length=8, **options),
    ]
    return [
        Request(
            prompt=tuple(rng.randrange(EOS) for _ in range(rng.choice(lengths))),
            method=methods[number % len(methods)],
            max_new_tokens=rng.choice([16, 24]),
            temperature=float(number % 3 == 2),
            seed=number,
        )
        for number in range(count)
    ]


@pytest.fixture
def _replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Block forwards stay whatever the device."""
    monkeypatch.setattr(Denoiser, "replayable", True)


def capturing_with(monkeypatch: pytest.MonkeyPatch, capture: Capture) -> None:
    monkeypatch.setattr(graphs, "capturing", lambda device: capture)


@pytest.mark.usefixtures("_replayed")
def test_a_failed_capture_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other one fails: one warning, a count, and all answers."""
    tried = [0, 0]

    def capture(compute: graphs.Compute) -> graphs.Compute:
        tried[0] += 1
        if tried[0] % 2:
            tried[1] += 1
            raise torch.OutOfMemoryError("no room for a graph")
        return lambda: compute()

    capturing_with(monkeypatch, capture)
    engine = Engine(model(), Limits(rows=6))
    with pytest.warns(UserWarning, match="could not be captured.*no room for a graph") as said:
        as_alone(engine, requests(24), monkeypatch)
    assert len(said) == 1
    assert engine.load.fallbacks["graph"] == tried[1] > 0


@pytest.mark.usefixtures("_replayed")
def test_evictions_and_growing_prompts_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captures obey PyTorch's rule: memory whose last graph is gone takes no other. No longer prompt throws a graph away."""
    used: set[tuple[int, int]] = set()
    memory = graphs.SharedMemory(lambda: (0, len(used)))

    def capture(compute: graphs.Compute) -> graphs.Compute:
        handle, living = memory.handle(), len(memory.users)
        assert handle not in used or living, "memory that has lost its last graph"
        used.add(handle)

        def replay() -> torch.Tensor:
            return compute()

        memory.users.add(replay)
        return replay

    capturing_with(monkeypatch, capture)
    monkeypatch.setattr(graphs, "KEPT", 2)
    engine = Engine(model(), Limits(rows=5))
    shape = engine._runner._device_state.shape
    as_alone(engine, requests(16, lengths=(1, 2)), monkeypatch)
    as_alone(engine, requests(16, seed=1, lengths=(30, 60)), monkeypatch)
    assert engine._runner._device_state.shape[0] == shape[0]
    assert engine.load.fallbacks["graph"] == 0


@pytest.mark.parametrize("stays", [True, False])
def test_a_forward_that_finds_no_memory_is_made_of_fewer_rows(stays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Denoiser, "replayable", stays)
    states = Denoiser.states

    def small(self: Denoiser, tokens_N: torch.Tensor, *rest: Any) -> torch.Tensor:
        if len(tokens_N) > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return states(self, tokens_N, *rest)

    engine = Engine(model(), Limits(rows=8))
    asked = requests(16)
    monkeypatch.setattr(Denoiser, "states", small)
    with pytest.warns(UserWarning, match="did not fit into the device's memory") as said:
        made = engine.generate(asked)
    assert len(said) == 1
    assert engine.load.fallbacks["memory"] > 0
    monkeypatch.setattr(Denoiser, "states", states)
    monkeypatch.setattr(Denoiser, "replayable", False)
    for request, done in zip(asked, made, strict=True):
        assert timeless(done) == alone(engine.model, request)


def test_a_row_that_fits_into_no_memory_is_lost_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    states = Denoiser.states

    def small(self: Denoiser, tokens_N: torch.Tensor, *rest: Any) -> torch.Tensor:
        if len(tokens_N) > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return states(self, tokens_N, *rest)

    monkeypatch.setattr(Denoiser, "states", small)
    engine = Engine(model(), Limits(rows=8))
    long = dataclasses.replace(requests(1)[0], prompt=(1,) * 120)
    numbers = [engine.submit(request) for request in (*requests(4), long)]
    done, lost = [], 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while engine.busy:
            try:
                done += [made.number for made in engine.step() if made.completion]
            except torch.OutOfMemoryError:
                lost += 1
    assert sorted(done) == numbers[:-1]
    assert lost == 1


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A device whose kernels fail until they are given up; why they were."""
    given_up: list[str] = []
    states = Denoiser.states

    def failing(self: Denoiser, *given: Any) -> torch.Tensor:
        made = states(self, *given)
        if not given_up:
            raise RuntimeError("device kernel image is invalid")
        return made

    monkeypatch.setattr(Denoiser, "states", failing)
    monkeypatch.setattr(Denoiser, "accelerated", property(lambda self: not given_up))
    monkeypatch.setattr(choice, "give_up", lambda device, dtype, why: given_up.append(why))
    return given_up


@pytest.mark.parametrize("stays", [True, False])
def test_a_kernel_that_fails_is_replaced_and_the_step_made_again(
    stays: bool, kernels: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Denoiser, "replayable", stays)
    engine = Engine(model(), Limits(rows=8))
    with pytest.warns(UserWarning, match="a kernel failed"):
        as_alone(engine, requests(12), monkeypatch)
    assert kernels == ["RuntimeError: device kernel image is invalid"]
    assert engine.load.fallbacks["kernels"] == 1


@pytest.mark.usefixtures("_replayed")
def test_what_fails_beside_a_forward_that_went_well_is_raised_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refreshes run, then the block forwards fail: their requests get the error, the others their answers."""
    replayed = Runner._replayed
    calls = [0]

    def failing(*given: Any) -> Any:
        calls[0] += 1
        if calls[0] == 3:
            raise RuntimeError("something of this half")
        return replayed(*given)

    monkeypatch.setattr(Runner, "_replayed", failing)
    engine = Engine(model(), Limits(rows=4))
    asked = requests(8)
    numbers = {engine.submit(request): request for request in asked[:2]}
    done: dict[int, Completion] = {}
    raised: list[str] = []
    while engine.busy:
        if len(numbers) < len(asked):
            numbers[engine.submit(asked[len(numbers)])] = asked[len(numbers)]
        try:
            done |= {made.number: made.completion for made in engine.step() if made.completion}
        except RuntimeError as error:
            raised.append(str(error))
    assert raised == ["something of this half"]
    assert 0 < len(done) < len(asked)
    monkeypatch.setattr(Denoiser, "replayable", False)
    assert all(timeless(made) == alone(engine.model, numbers[number]) for number, made in done.items())


def test_nothing_is_replayed_where_kernels_do_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain form copies what a row may see at most, and a graph's row may see the longest."""
    model = toy("llada")
    monkeypatch.setattr(Denoiser, "device", property(lambda self: torch.device("cuda", 0)))
    for runs in (True, False):
        monkeypatch.setattr(Denoiser, "accelerated", property(lambda self, runs=runs: runs))
        assert model.replayable is runs
