"""A step is launched before the one before it is read, or at least before it is committed; answers stay the reference's."""

import random
from typing import Any

import pytest

import unmask
from tests.reference import alone, timeless
from unmask.engine.engine import Engine, Limits
from unmask.engine.pending import PendingStep
from unmask.engine.request import Completion, Request
from unmask.engine.runner import Runner
from unmask.models.denoiser import Denoiser
from unmask.models.toy import EOS, toy


def requests(count: int, **options: Any) -> list[Request]:
    rng = random.Random(3)
    presets = ("fast-dllm", "r2-dllm", "vanilla", "freedave", "streaming-dllm")
    return [
        Request(
            prompt=tuple(rng.randrange(EOS) for _ in range(rng.choice([1, 9, 30]))),
            method=unmask.method(presets[number % len(presets)], block_length=8, cache="dual", **options),
            max_new_tokens=rng.choice([16, 24]),
            temperature=float(number % 3 == 2),
            seed=number,
        )
        for number in range(count)
    ]


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens to steps, in order: each launched ("launch", or "again" of the same rows), read and committed."""
    told: list[str] = []
    for name, what in (("launch", "launch"), ("again", "again"), ("finish", "commit")):
        call = getattr(Runner, name)

        def noted(*given: Any, _call: Any = call, _what: str = what) -> Any:
            told.append(_what)
            return _call(*given)

        monkeypatch.setattr(Runner, name, noted)
    read = PendingStep.goes_on.fget
    assert read is not None
    monkeypatch.setattr(PendingStep, "goes_on", property(lambda step: (told.append("read"), read(step))[1]))
    monkeypatch.setattr(Denoiser, "replayable", True)
    return told


def test_the_next_step_is_launched_before_anything_is_read(events: list[str]) -> None:
    """Eight steps per block: the first four leave most of it masked; then a step is read before it is committed."""
    method = unmask.method("vanilla-official", block_length=8, cache="dual")
    asked = [Request(prompt=(1, 2), method=method, max_new_tokens=8) for _ in range(3)]
    Engine(toy("llada", seed=5), Limits(rows=3), ahead=True).generate(asked)
    # The refresh; the first block forward, launched when it is known that it comes.
    assert events[:3] == ["launch", "commit", "launch"]
    # Launched while nothing of the one before is read, and committed later.
    assert events[3:9] == ["again", "commit"] * 3
    # Half of the block is written: what has arrived says that the rows go on, which is all that is read before the launch.
    assert events[9:12] == ["read", "again", "commit"]
    assert events[-2:] == ["read", "commit"]
    assert events.count("commit") == 8


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("always", [False, True])
def test_answers_are_those_of_the_reference(
    always: bool, rows: int, events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where steps are launched ahead whatever is left, so that rows are done in them: those change nothing."""
    if always:
        monkeypatch.setattr(PendingStep, "likely", True)
    denoiser, asked = toy("llada", seed=5, sharpness=3), requests(15)
    made = Engine(denoiser, Limits(rows=rows), ahead=True).generate(asked)
    assert events.count("again") > len(asked)
    monkeypatch.setattr(Denoiser, "replayable", False)
    for request, done in zip(asked, made, strict=True):
        assert timeless(done) == alone(denoiser, request)


def test_rows_that_end_or_leave_are_not_told_of_what_was_launched_ahead(
    events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PendingStep, "likely", True)
    denoiser, asked = toy("llada", seed=5, sharpness=3), requests(8)
    engine = Engine(denoiser, Limits(rows=4), ahead=True)
    numbers = {engine.submit(request): request for request in asked}
    gone, done = list(numbers)[1], dict[int, Completion]()
    for step in range(10_000):
        if not engine.busy:
            break
        if step == 5:
            engine.abort(gone)
        for progress in engine.step():
            assert progress.number not in done
            if progress.completion is not None:
                done[progress.number] = progress.completion
    assert sorted(done) == sorted(set(numbers) - {gone})
    assert engine.load.pages == 0
    monkeypatch.setattr(Denoiser, "replayable", False)
    assert all(timeless(made) == alone(denoiser, numbers[number]) for number, made in done.items())


def test_what_fails_when_it_is_launched_again_is_launched_as_usual(events: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*given: Any) -> Any:
        raise RuntimeError("not now")

    monkeypatch.setattr(Runner, "again", failing)
    denoiser, asked = toy("llada", seed=5, sharpness=3), requests(4)
    made = Engine(denoiser, Limits(rows=4), ahead=True).generate(asked)
    monkeypatch.setattr(Denoiser, "replayable", False)
    assert [timeless(done) for done in made] == [alone(denoiser, request) for request in asked]
