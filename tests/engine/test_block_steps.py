"""Block forwards over buffers that stay decide as packed ones do, on the CPU as a plain call and on a GPU as graphs."""

import copy
import dataclasses
import gc
import random
import weakref
from typing import Any

import pytest
import torch

import unmask
from tests.reference import alone, timeless
from unmask.engine import block_steps, graphs
from unmask.engine.block_steps import BlockSteps
from unmask.engine.engine import Engine, Limits
from unmask.engine.forms import Form, graphable, padded
from unmask.engine.generate import answer
from unmask.engine.request import Request
from unmask.engine.state import RequestState
from unmask.methods import TABLE
from unmask.models.denoiser import Denoiser
from unmask.models.toy import EOS, toy

DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
FAMILIES = ("llada", "dream")


def model(family: str, device: str) -> Denoiser:
    """In float64, so that nothing hangs on how a sum is rounded."""
    made = toy(family, seed=5, sharpness=3, dtype=torch.float64)
    return dataclasses.replace(made, network=copy.deepcopy(made.network).to(device))


def requests(count: int, seed: int = 0, **options: object) -> list[Request]:
    """Every preset with a dual cache in turn, every other one sampled; short and long prompts and answers."""
    rng = random.Random(seed)
    asked = []
    for number in range(count):
        preset = number % len(TABLE)
        asked.append(
            Request(
                prompt=tuple(rng.randrange(EOS) for _ in range(rng.choice([1, 2, 9, 30, 70]))),
                method=unmask.method(list(TABLE)[preset], block_length=8, cache="dual", **options),
                max_new_tokens=rng.choice([16, 24]),
                temperature=float((preset + seed) % 2),
                top_p=(None, 0.9)[preset // 2 % 2],
                top_k=(None, 5)[preset // 4 % 2],
                seed=number,
            )
        )
    return asked


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Block forwards stay whatever the device; the rows of each step."""
    monkeypatch.setattr(Denoiser, "replayable", True)
    rows: list[int] = []
    call = BlockSteps.__call__

    def counted(self: BlockSteps, form: Form, some: list[RequestState]) -> Any:
        rows.append(len(some))
        return call(self, form, some)

    monkeypatch.setattr(BlockSteps, "__call__", counted)
    return rows


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("seed", "options"), [(0, {}), (1, {"draft_steps": 4}), (1, {"suffix_window": 5})])
def test_they_decide_as_packed_forwards_do(
    seed: int, options: dict[str, object], family: str, device: str, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All presets in one batch: every record but the last digits of a confidence, padding and drafts included."""
    denoiser, asked = model(family, device), requests(3 * len(TABLE), seed, **options)
    staying: list[unmask.StepRecord] = []
    answers = answer(denoiser, asked, staying.append)
    monkeypatch.setattr(Denoiser, "replayable", False)
    packed: list[unmask.StepRecord] = []
    assert [timeless(row) for row in answers] == [timeless(row) for row in answer(denoiser, asked, packed.append)]
    for one, other in zip(staying, packed, strict=True):
        assert dataclasses.replace(one, confidence=[]) == dataclasses.replace(other, confidence=[])
        for mine, theirs in zip(one.confidence, other.confidence, strict=True):
            assert mine == pytest.approx(theirs, abs=1e-9)
    assert len(steps) > 15
    assert min(steps) < max(steps)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("family", FAMILIES)
def test_they_decide_alike_in_the_precision_of_kernels(
    family: str, device: str, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """fp32, which our kernels take on a GPU: drafts of a single row, timesteps that count in the block, and many rows."""
    denoiser = toy(family, seed=5, sharpness=3)
    denoiser = dataclasses.replace(denoiser, network=copy.deepcopy(denoiser.network).to(device))
    timesteps = unmask.method("vanilla", schedule="timestep", block_length=8, cache="dual")
    single = [Request(prompt=(1, 2), method=timesteps, max_new_tokens=24), *requests(len(TABLE), draft_steps=4)]
    for asked in (*([request] for request in single), requests(len(TABLE))):
        monkeypatch.setattr(Denoiser, "replayable", True)
        answers = answer(denoiser, asked)
        monkeypatch.setattr(Denoiser, "replayable", False)
        assert [timeless(row) for row in answers] == [timeless(row) for row in answer(denoiser, asked)]
    assert len(steps) > 50


@pytest.mark.parametrize("device", DEVICES)
def test_an_engine_of_them_equals_the_reference_of_packed_ones(
    device: str, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows come, go and change places while refreshes run beside the steps; longer rows move the tables."""
    denoiser, asked = model("dream", device), requests(20, seed=1) + requests(10, seed=2, draft_steps=3)
    random.Random(0).shuffle(asked)
    answers = Engine(denoiser, Limits(memory=50 * denoiser.page_bytes, rows=5, tokens=500)).generate(asked)
    assert len(steps) > 80
    monkeypatch.setattr(Denoiser, "replayable", False)
    for request, done in zip(asked, answers, strict=True):
        assert timeless(done) == alone(denoiser, request)


def test_nothing_is_copied_while_the_same_rows_go_on(steps: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two copies of each kind of numbers for four blocks of seven block forwards: the first rows, and those left at the end."""
    copies: list[int] = []
    stage = block_steps.stage

    def counted(numbers: list[int], device: torch.device) -> torch.Tensor:
        copies.append(len(numbers))
        return stage(numbers, device)

    monkeypatch.setattr(block_steps, "stage", counted)
    method = unmask.method("vanilla-official", block_length=8, cache="dual")
    asked = [Request(prompt=(1, 2), method=method, max_new_tokens=tokens) for tokens in (32, 32, 16)]
    answer(model("llada", "cpu"), asked)
    assert len(steps) == 4 * 7
    queries, rows = 6 * padded(3), 3 + 3
    assert copies == [queries, rows, queries, rows]


def test_steps_that_do_not_come_again_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Denoiser, "replayable", True)
    monkeypatch.setattr(graphs, "KEPT", 3)
    asked = [
        Request(prompt=(1, 2), method=unmask.method(preset, block_length=8, cache="dual"), max_new_tokens=16)
        for preset in ("fast-dllm", "r2-dllm", "streaming-dllm", "eb-sampler", "localleap")
    ]
    engine = Engine(model("llada", "cpu"), Limits(rows=1))
    engine.generate(asked)
    replays = engine._runner._steps.replays
    assert len(replays) == 3
    # Tables that grow leave nothing behind that looks into the old ones: one forward and one decision are left.
    engine.generate([dataclasses.replace(asked[0], method=unmask.method("fast-dllm", block_length=16))])
    assert len(replays) == 2


def test_a_step_is_gone_with_its_last_user(steps: list[int]) -> None:
    """Without the garbage collector, which does not know how large a pool on a device is."""
    gc.disable()
    try:
        engine = Engine(model("llada", "cpu"))
        engine.generate(requests(4))
        pool = weakref.ref(engine._runner.pool)
        del engine
        assert pool() is None
    finally:
        gc.enable()


def test_only_forwards_of_one_shape_stay() -> None:
    denoiser = model("llada", "cpu")
    for cache, stays in (("none", False), ("prefix", False), ("dual", True)):
        request = Request(prompt=(1,), method=unmask.method("fast-dllm", block_length=8, cache=cache), max_new_tokens=16)
        row = RequestState.start(request, denoiser)
        assert not graphable(row)
        row.block_forwards = 1
        assert graphable(row) is stays
