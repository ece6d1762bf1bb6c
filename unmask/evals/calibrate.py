"""The settings of a method with the fewest forwards whose loss of accuracy stays within a budget, with 95 % confidence.

A task's items are split into three disjoint parts, so that no method is tested on the items that chose it:

    search      finds candidates (evals/search.py) and puts them in order, from the safest to the fastest.
    validation  tests them in that order at the 5 % level, up to the first that fails; the last that passed is the result.
                The order is fixed before, so a wrong one passes with a chance of at most 5 %, however many are tested
                (fixed sequence testing, Learn then Test, arXiv 2110.01052). That holds for one calibration: repeating it
                until the result is welcome would be a choice on the validation part.
    report      measures the result on items that the other two have not used.

Answers are kept in one file per candidate, and the search is a function of them: a calibration that was stopped repeats
its trials without decoding.
"""

import itertools
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from unmask.decode.settings import whole
from unmask.engine.own import completed
from unmask.errors import ConfigError
from unmask.evals.run import BATCH, Run, evaluate
from unmask.evals.search import Standing, Trial, frontier, new_study, search, standing
from unmask.evals.space import Range, numbers, space
from unmask.evals.statistics import loss_bound
from unmask.evals.task import Item, Task
from unmask.files import digest
from unmask.methods.method import Method
from unmask.models.denoiser import Denoiser

SEARCH, VALIDATION = 0.3, 0.4  # the rest is the report's
RUNGS = (0.25, 0.5, 1.0)  # shares of the search part after which a candidate may be dropped

Report = Callable[[str, float, int], None]


class Parts(NamedTuple):
    """The items of the three stages: disjoint, and together all items."""

    search: tuple[Item, ...]
    validation: tuple[Item, ...]
    report: tuple[Item, ...]


def split(items: Sequence[Item], seed: int) -> Parts:
    """Shuffle items and split them: 30, 40 and 30 %.

    >>> [len(part) for part in split([Item(id=str(n), prompt="", reference="") for n in range(10)], seed=0)]
    [3, 4, 3]
    """
    shuffled = tuple(random.Random(seed).sample(items, len(items)))
    first, second = round(SEARCH * len(items)), round((SEARCH + VALIDATION) * len(items))
    return Parts(shuffled[:first], shuffled[first:second], shuffled[second:])


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The settings of a calibration.

    Attributes:
        task: its items are split into the three parts.
        method: the method to tune.
        against: the method that the loss is measured against, often `method` as it is.
        budget: largest loss of accuracy, in points.
        trials: candidates of the search, `method` as it is among them.
        seed: of the split and the search.
        max_new_tokens: length of an answer; None: the method's own, or the task's.
        block: tokens per block of the model, where attention is block-causal; None: full attention.
    """

    task: Task
    method: Method
    against: Method
    budget: float
    trials: int = 50
    seed: int = 0
    max_new_tokens: int | None = None
    block: int | None = None

    def __post_init__(self) -> None:
        whole("trials", self.trials, 2, required=True)
        if not 0 < self.budget <= 100:
            raise ConfigError(f"budget must be a loss in points, above 0 and at most 100, got {self.budget:g}")
        items, have = len(self.task.items), len(self.parts.validation)
        if items < 10:
            raise ConfigError(f"{items} items are too few to search, validate and report: use 10 or more, better hundreds")
        if loss_bound(0, 0, have) > self.budget / 100:
            least = limit(Standing(lost=0, gained=0, n=100).enough(self.budget / 100))
            raise ConfigError(
                f"with {items} items a loss within {self.budget:g} points cannot be certified: use --limit {least} or "
                f"more, about {usual_limit(self.budget)} where a tenth of the answers differ, or "
                f"--budget {100 * loss_bound(0, 0, have) + 0.05:.1f}"
            )
        self.space()

    def space(self) -> dict[str, Range]:
        """The ranges that the search tries."""
        return space(self.method, self.answer_length, self.block)

    def numbers(self, method: Method) -> dict[str, float]:
        """The numbers of a candidate."""
        return numbers(method, self.answer_length, self.block)

    @property
    def parts(self) -> Parts:
        return split(self.task.items, self.seed)

    @property
    def answer_length(self) -> int:
        return self.max_new_tokens or self.method.max_new_tokens or self.task.max_new_tokens


def usual_limit(budget: float) -> int:
    """The number of items that certifies a budget, in points, where a tenth of the answers change, half of them for the better.

    >>> usual_limit(2.0), usual_limit(1.0)
    (1870, 7070)
    """
    return limit(Standing(lost=5, gained=5, n=100).enough(budget / 100))


def limit(validation: int) -> int:
    """The number of items that make a validation part of at least this size."""
    return max(10, math.ceil((validation + 1) / VALIDATION))


# --- validation -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Test:
    """A candidate's result on the validation part, and whether it passed."""

    __test__ = False  # not a test of pytest

    method: Method
    standing: Standing
    passed: bool


def validate(candidates: Iterable[Method], judge: Callable[[Method], Standing], budget: float) -> list[Test]:
    """Test candidates in their order up to the first that fails: all but the last are certified, the last may be.

    A wrong one passes with a chance of at most 5 %, however many are tested: the first wrong one would have to pass.
    """
    tests: list[Test] = []
    for candidate in candidates:
        now = judge(candidate)
        tests.append(Test(method=candidate, standing=now, passed=now.bound() <= budget))
        if not tests[-1].passed:
            break
    return tests


# --- the three stages -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The result of a calibration.

    Attributes:
        certified: the fastest candidate that passed; None if none did, and the method stays as it was.
        trials, tests: of the search and of the validation, in their order.
        runs: over the report part: "against" unless that is the default, "default", and "calibrated" if one was certified.
    """

    certified: Test | None
    trials: tuple[Trial, ...]
    tests: tuple[Test, ...]
    runs: tuple[Run, ...]


def calibrate(
    model: Denoiser,
    plan: Plan,
    *,
    folder: Path | None = None,
    weights: str = "",
    batch: int = BATCH,
    report: Report | None = None,
) -> Calibration:
    """Search, validate and report.

    Args:
        folder: keeps the answers, one file per candidate; answers in it are not made again.
        weights, batch: as in `evaluate`.
        report: called as report(stage, steps done, largest number of steps), with fractions of a step.

    Raises:
        ConfigError: optuna is not installed, or the method's blocks do not divide the answer.
        PromptTooLong: no item fits into the model.
    """
    study, parts, budget = new_study(plan.seed), plan.parts, plan.budget / 100

    def ask(method: Method, items: tuple[Item, ...], stage: str, step: int, steps: int, first: int | None = None) -> Run:
        def note(name: str, done: int, right: float) -> None:
            if report is not None:
                report(stage, step + done / len(items), steps)

        return evaluate(
            model,
            replace(plan.task, items=items[:first]),
            {digest(completed(model, method).to_dict()): method},
            folder=folder,
            weights=weights,
            batch=batch,
            max_new_tokens=plan.max_new_tokens,
            report=note,
        )[0]

    trials: list[Trial] = []
    baseline = ask(plan.against, parts.search, "search", 0, 1 + plan.trials)

    def preview(method: Method, first: int) -> Standing:
        run = ask(method, parts.search, "search", 1 + len(trials), 1 + plan.trials, first)
        return standing(run, replace(baseline, records=baseline.records[:first]))

    proposals = search(
        study,
        plan.method,
        plan.space(),
        preview,
        start=plan.numbers(plan.method),
        rungs=sorted({math.ceil(share * len(parts.search)) for share in RUNGS}),
        validation=len(parts.validation),
        budget=budget,
    )
    for trial in itertools.islice(proposals, plan.trials):
        trials.append(trial)

    candidates = [trial.method for trial in frontier(trials, len(parts.validation))]
    base = ask(plan.against, parts.validation, "validation", 0, 1 + len(candidates))

    def judge(method: Method) -> Standing:
        step = 1 + candidates.index(method)
        return standing(ask(method, parts.validation, "validation", step, 1 + len(candidates)), base)

    tests = validate(candidates, judge, budget)
    certified = next((test for test in reversed(tests) if test.passed), None)

    named = {} if plan.against == plan.method else {"against": plan.against}
    named |= {"default": plan.method} | ({"calibrated": certified.method} if certified else {})
    runs = [
        replace(ask(method, parts.report, "report", step, len(named)), name=name)
        for step, (name, method) in enumerate(named.items())
    ]
    return Calibration(certified=certified, trials=tuple(trials), tests=tuple(tests), runs=tuple(runs))
