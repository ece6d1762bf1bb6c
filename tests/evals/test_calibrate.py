"""Calibration: the search, the error rate of the certificates, and a whole calibration of the embedded model."""

import itertools
import math
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import unmask
from unmask.evals import load
from unmask.evals.calibrate import Calibration, Plan, calibrate, limit, split, validate
from unmask.evals.search import Standing, Trial, frontier, hopeless, new_study, search
from unmask.evals.space import numbers, searchable, space, tuned
from unmask.evals.statistics import loss_bound
from unmask.evals.task import Item, Source, Task
from unmask.methods import TABLE
from unmask.methods.method import Method


def items(count: int) -> list[Item]:
    return [Item(id=str(number), prompt=f"question {number}", reference="") for number in range(count)]


# --- the parts --------------------------------------------------------------------------------------------------------


@given(st.integers(10, 500), st.integers(0, 5))
def test_the_parts_are_disjoint_and_all_there_is(count: int, seed: int) -> None:
    parts = split(items(count), seed)
    assert sorted(item.id for part in parts for item in part) == sorted(item.id for item in items(count))
    assert [len(part) for part in parts] == pytest.approx([0.3 * count, 0.4 * count, 0.3 * count], abs=1)
    assert parts == split(items(count), seed)
    assert parts != split(items(count), seed + 1)


@given(st.integers(10, 5000))
def test_a_limit_makes_a_large_enough_validation_part(validation: int) -> None:
    count = limit(validation)
    assert validation <= round(0.7 * count) - round(0.3 * count) <= validation + 3


# --- the space --------------------------------------------------------------------------------------------------------


@given(st.sampled_from(sorted(TABLE)), st.data())
def test_numbers_go_into_a_method_and_come_back(name: str, data: st.DataObject) -> None:
    method = unmask.method(name)
    drawn = {
        key: data.draw(st.floats(low, high) if step is None else st.sampled_from(range(int(low), int(high) + 1, step)))
        for key, (low, high, step) in space(method, 128).items()
    }
    changed = tuned(method, drawn)
    assert numbers(changed, 128) == {key: round(value, 3) for key, value in drawn.items()}
    assert Method.from_dict(changed.to_dict()) == changed
    assert numbers(tuned(changed, numbers(method, 128)), 128) == numbers(method, 128)
    for kept in ("cache", "block_length", "draft", "stop_at_eos", "parity", "name"):
        assert getattr(changed, kept) == getattr(method, kept)


def test_every_number_belongs_to_some_preset_or_option() -> None:
    more = [{"factor": 1.0}, {"multi_block": 2}]
    methods = [*map(unmask.method, TABLE), *(unmask.method("fast-dllm", **one) for one in more)]
    assert {key for method in methods for key in space(method, 128)} == set(searchable())


def test_the_space_is_that_of_the_method() -> None:
    assert "temporal.steps" not in space(unmask.method("r2-dllm", temporal_steps=None), 128)
    assert "confidence_cluster.max_unmasked" not in space(unmask.method("r2-dllm", cluster_max_unmasked=None), 128)
    assert space(unmask.method("fast-dllm", threshold=0.2), 128)["commit.threshold"].low == 0.2
    assert space(unmask.method("vanilla"), 128)["commit.steps"] == (4, 128, 4)
    with pytest.raises(unmask.ConfigError, match="does not divide"):
        space(unmask.method("vanilla"), 100)


def test_on_a_grid_steps_are_those_of_a_block() -> None:
    """Whatever the length of the answer, which may end inside a block."""
    for name, key in (("vanilla", "commit.steps"), ("sdar", "commit.threshold"), ("llada2.1", "commit.threshold")):
        method = unmask.method(name)
        assert key in space(method, 100, block=8)
        assert space(method, 100, block=8).get("commit.steps", (1, 8, 1)) == (1, 8, 1)
    assert numbers(unmask.method("vanilla"), 100, block=8) == {"commit.steps": 8}
    half = tuned(unmask.method("vanilla"), {"commit.steps": 4})
    done = unmask.generate(unmask.load("unmask-tiny-block"), [[40, 41]], method=half, max_new_tokens=12)[0]
    assert done.forwards <= 8


# --- the bound --------------------------------------------------------------------------------------------------------


@given(st.integers(1, 400), st.data())
def test_the_bound_is_above_the_loss_and_grows_with_it(n: int, data: st.DataObject) -> None:
    lost = data.draw(st.integers(0, n))
    gained = data.draw(st.integers(0, n - lost))
    bound = loss_bound(lost, gained, n)
    assert (lost - gained) / n <= bound <= 1
    assert -loss_bound(gained, lost, n) <= (lost - gained) / n
    if lost + gained < n:
        assert loss_bound(lost + 1, gained, n) >= bound - 1e-9
        assert loss_bound(lost, gained + 1, n) <= bound + 1e-9
    assert loss_bound(4 * lost, 4 * gained, 4 * n) <= bound + 1e-9


def chance(n: int, lost: int, gained: int, loss: float, gain: float) -> float:
    """The probability of that many lost and gained items of n, at these rates."""
    same = n - lost - gained
    ways = math.comb(n, lost) * math.comb(n - lost, gained)
    return ways * (loss + gain) ** lost * gain**gained * (1 - loss - 2 * gain) ** same


@pytest.mark.parametrize(("n", "budget"), [(40, 0.12), (100, 0.04), (100, 0.06), (240, 0.02)])
def test_a_loss_of_the_budget_passes_in_at_most_five_percent(n: int, budget: float) -> None:
    """Summed over all outcomes, whatever the share of gained items; also close to the least budget that can pass."""
    likely = range(min(n, 45))
    passing = [
        (lost, gained)
        for lost, gained in itertools.product(likely, likely)
        if lost + gained <= n and loss_bound(lost, gained, n) <= budget
    ]
    assert (0, 0) in passing
    sizes = [sum(chance(n, *counts, budget, gain) for counts in passing) for gain in (0.0, 0.005, 0.01, 0.02, 0.04)]
    assert max(sizes) <= 0.05
    assert max(sizes) >= 0.01  # not by passing nothing


# --- the sequence -----------------------------------------------------------------------------------------------------


def drawn(rng: random.Random, loss: float, gain: float, n: int) -> Standing:
    outcomes = rng.choices(("lost", "gained", "same"), (loss + gain, gain, 1 - loss - 2 * gain), k=n)
    return Standing(lost=outcomes.count("lost"), gained=outcomes.count("gained"), n=n)


def test_the_sequence_is_rarely_wrong_however_many_are_tested() -> None:
    """Two candidates within the budget, six a hair over it: how often one of the six is certified."""
    rng, budget, wrong, right = random.Random(0), 0.05, 0, 0
    losses = {
        unmask.method("fast-dllm", threshold=0.9 - place / 100): loss for place, loss in enumerate([0, 0.01] + [0.0501] * 6)
    }
    for _ in range(1000):
        tests = validate(losses, lambda method: drawn(rng, losses[method], 0.01, 200), budget)
        passed = [losses[test.method] for test in tests if test.passed]
        wrong += any(loss > budget for loss in passed)
        right += bool(passed)
    assert wrong / 1000 <= 0.06
    assert right / 1000 >= 0.9


def test_the_sequence_stops_at_the_first_failure() -> None:
    methods = [unmask.method("fast-dllm", threshold=threshold) for threshold in (0.9, 0.8, 0.7, 0.6)]
    lost = dict(zip(methods, (0, 2, 60, 0), strict=True))
    tests = validate(methods, lambda method: Standing(lost=lost[method], gained=0, n=200), 0.05)
    assert [test.method for test in tests] == methods[:3]
    assert [test.passed for test in tests] == [True, True, False]


# --- the search -------------------------------------------------------------------------------------------------------


def judged(method: Method, n: int) -> Standing:
    """Forwards fall with the threshold; below 0.8 accuracy falls with it too."""
    threshold = method.to_dict()["commit"]["threshold"]
    return Standing(lost=round(n * max(0.0, 0.8 - threshold)), gained=0, n=n, forwards=threshold / 0.95)


def searched(trials: int, calls: list[int] | None = None, seed: int = 0) -> list[Trial]:
    method = unmask.method("fast-dllm", threshold=0.95)

    def judge(candidate: Method, n: int) -> Standing:
        if calls is not None:
            calls.append(n)
        return judged(candidate, n)

    proposals = search(
        new_study(seed),
        method,
        space(method, 128),
        judge,
        start=numbers(method, 128),
        rungs=(100, 200, 400),
        validation=400,
        budget=0.02,
    )
    return list(itertools.islice(proposals, trials))


def test_the_search_finds_the_edge_of_the_budget_and_drops_hopeless_candidates_early() -> None:
    calls: list[int] = []
    trials = searched(40, calls)
    assert trials[0].method == unmask.method("fast-dllm", threshold=0.95)
    edge = min(trial.standing.forwards for trial in frontier(trials, 400) if trial.standing.bound() <= 0.02)
    assert 0.78 <= edge * 0.95 <= 0.82
    assert {trial.standing.n for trial in trials if trial.standing.loss > 0.1} == {100}
    assert sum(calls) < 0.8 * 40 * 700
    assert searched(40) == trials
    assert searched(40, seed=1) != trials


def test_hopeless_candidates() -> None:
    fine = Standing(lost=2, gained=1, n=100, forwards=0.8)
    better = [Standing(lost=0, gained=0, n=100, forwards=0.7), Standing(lost=1, gained=1, n=100, forwards=0.8)]
    assert not hopeless(fine, better[:1], 0.02)
    assert hopeless(fine, better, 0.02)
    assert hopeless(replace(fine, forwards=1.0), [], 0.02)
    assert hopeless(replace(fine, lost=20), [], 0.02)
    assert not hopeless(replace(fine, lost=20), [], 0.2)


@given(st.lists(st.tuples(st.integers(0, 40), st.floats(0.2, 1.5), st.booleans()), max_size=20))
def test_the_frontier_goes_from_safe_to_fast(drawn: list[tuple[int, float, bool]]) -> None:
    method = unmask.method("fast-dllm")
    trials = [
        Trial(method=method, standing=Standing(lost=lost, gained=0, n=100, forwards=forwards), finished=finished)
        for lost, forwards, finished in drawn
    ]
    found = [trial.standing for trial in frontier(trials, 200)]
    for safe, bold in itertools.pairwise(found):
        assert bold.forwards <= 0.98 * safe.forwards
        assert bold.bound(200) >= safe.bound(200)
    for trial in trials:
        if trial.finished and trial.standing.forwards <= 0.98:
            assert any(one.loss <= trial.standing.loss and 0.98 * one.forwards <= trial.standing.forwards for one in found)


# --- a whole one ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> unmask.Denoiser:
    return unmask.load("unmask-tiny-base")


@pytest.fixture(scope="module")
def task() -> Task:
    return replace(load("chain", Source(limit=40)), max_new_tokens=64)


@pytest.fixture(scope="module")
def plan(task: Task) -> Plan:
    """A slow baseline, so that some candidate is faster, and a wide budget, so that it passes."""
    against = unmask.method("fast-dllm", threshold=0.999)
    return Plan(task=task, method=unmask.method("fast-dllm"), against=against, budget=80, trials=4)


@pytest.fixture(scope="module")
def whole(model: unmask.Denoiser, plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> tuple[Calibration, Path]:
    folder = tmp_path_factory.mktemp("answers")
    return calibrate(model, plan, folder=folder), folder


def plain(found: Calibration) -> tuple[object, ...]:
    """Everything but the clock."""
    answers = [[(record.id, record.token_ids) for record in run.records] for run in found.runs]
    return found.certified, found.trials, found.tests, answers


def test_a_whole_calibration(plan: Plan, whole: tuple[Calibration, Path]) -> None:
    found, _ = whole
    assert len(found.trials) == 4
    assert found.trials[0].method == plan.method
    assert found.certified is not None
    assert found.certified.standing.bound() <= 0.8
    assert found.certified.standing.n == len(plan.parts.validation) == 16
    assert [run.name for run in found.runs] == ["against", "default", "calibrated"]
    assert found.runs[2].method == found.certified.method.change(max_new_tokens=64)
    for run in found.runs:
        assert [record.id for record in run.records] == [item.id for item in plan.parts.report]


def test_a_stopped_calibration_resumes(
    model: unmask.Denoiser,
    plan: Plan,
    whole: tuple[Calibration, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[str, float]] = []

    def stop(stage: str, done: float, steps: int) -> None:
        seen.append((stage, done))
        if done > 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(model, plan, folder=tmp_path, report=stop)
    assert {stage for stage, _ in seen} == {"search"}
    kept = {path: path.read_text() for path in tmp_path.iterdir()}
    assert len(kept) >= 2
    assert plain(calibrate(model, plan, folder=tmp_path)) == plain(whole[0])
    assert all(path.read_text().startswith(text) for path, text in kept.items())
    monkeypatch.setattr("unmask.evals.run.generate", None)
    assert calibrate(model, plan, folder=whole[1]) == whole[0]


def test_nothing_certified(model: unmask.Denoiser, plan: Plan, whole: tuple[Calibration, Path]) -> None:
    """Against itself, with the smallest budget that the few items allow: no candidate is that safe."""
    tight = replace(plan, against=plan.method, budget=100 * loss_bound(0, 0, 16) + 0.1)
    found = calibrate(model, tight, folder=whole[1])
    assert found.certified is None
    assert [run.name for run in found.runs] == ["default"]


def test_progress_rises_to_the_end(model: unmask.Denoiser, plan: Plan, whole: tuple[Calibration, Path]) -> None:
    seen: dict[str, list[tuple[float, int]]] = {}
    calibrate(model, plan, folder=whole[1], report=lambda stage, done, steps: seen.setdefault(stage, []).append((done, steps)))
    assert list(seen) == ["search", "validation", "report"]
    for calls in seen.values():
        assert [done for done, _ in calls] == sorted(done for done, _ in calls)
        assert len({steps for _, steps in calls}) == 1
        assert calls[-1][0] <= calls[-1][1]
    assert seen["report"][-1] == (3, 3)  # the baseline, the method as it was and the calibrated one


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"budget": 0}, "above 0 and at most 100, got 0"),
        ({"budget": -1.5}, "got -1.5"),
        ({"budget": float("nan")}, "got nan"),
        (
            {"budget": 2},
            r"with 40 items a loss within 2 points cannot be certified: use --limit 453 or more, about 1870 .*--budget 19.4",
        ),
        ({"trials": 1}, "trials must be a whole number of at least 2"),
    ],
)
def test_bad_plans(plan: Plan, changes: dict[str, float], words: str) -> None:
    with pytest.raises(unmask.ConfigError, match=words):
        replace(plan, **changes)


def test_too_few_items(plan: Plan) -> None:
    with pytest.raises(unmask.ConfigError, match="9 items are too few"):
        replace(plan, task=replace(plan.task, items=plan.task.items[:9]), budget=100)


def test_without_optuna(model: unmask.Denoiser, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(unmask.ConfigError, match=r"needs optuna: .*pip install -e '.\[eval\]'"):
        calibrate(model, plan)
