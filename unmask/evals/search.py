"""The search of a calibration: which settings of a method are worth a test. The caller runs and scores the candidates.

optuna's TPE proposes numbers. A candidate is scored on a growing share of the items and dropped once it is hopeless, so
that most of the work goes into promising ones. There are two objectives: the forwards, and the upper bound of the loss that
the validation part would show at the rates seen so far; a bound within the budget counts as feasible.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unmask.errors import require
from unmask.evals.run import Run
from unmask.evals.space import Range, tuned
from unmask.evals.statistics import loss_bound, mcnemar
from unmask.methods.method import Method

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution

RIVALS = 2  # a candidate is dropped if this many others are faster and more accurate: a single one may be luck
BOLDNESS = (1.1, 1.25, 1.5, 2.0)  # the first trials after the method itself: its thresholds lowered together
STRIDE = 0.02  # each next candidate must save this share of the forwards to be worth a test


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A method against another one on the same items.

    Attributes:
        lost: items that only the other method got right.
        gained: items that only this method got right.
        n: all items.
        forwards: its forwards as a share of the other's.
    """

    lost: int
    gained: int
    n: int
    forwards: float = 1.0

    @property
    def loss(self) -> float:
        return (self.lost - self.gained) / self.n

    def bound(self, n: int | None = None) -> float:
        """Upper 95 % bound of the loss; with `n`, what that many items would show at the same rates."""
        scale = 1.0 if n is None else n / self.n
        return loss_bound(self.lost * scale, self.gained * scale, self.n * scale)

    def exceeds(self, budget: float) -> bool:
        """Whether the loss is over the budget with 95 % confidence."""
        return -loss_bound(self.gained, self.lost, self.n) > budget

    def enough(self, budget: float) -> int:
        """The number of items that would certify a budget above the loss, at these rates.

        >>> Standing(lost=0, gained=0, n=1).enough(0.02), Standing(lost=3, gained=2, n=100).enough(0.02)
        (180, 1537)
        """
        assert self.loss < budget, "no number of items certifies a budget below the loss"
        most = 1
        while self.bound(most) > budget:
            most *= 2
        return bisect_left(range(most), True, lo=most // 2 + 1, key=lambda n: self.bound(n) <= budget)


def standing(run: Run, base: Run) -> Standing:
    """Compare two runs over the same items; forwards over those that fit into the model."""
    test = mcnemar(base.right(), run.right())
    ours, theirs = (sum(record.forwards for record in one.records) for one in (run, base))
    return Standing(lost=test.lost, gained=test.gained, n=len(run.records), forwards=ours / theirs)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A candidate and its result on the search part, or on the items until it was dropped (not `finished`)."""

    method: Method
    standing: Standing
    finished: bool


def new_study(seed: int) -> "Study":
    """A study that minimises two numbers by TPE; equal answers give equal proposals. Raises ConfigError without optuna."""
    require("calibrating", "optuna", "eval")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(directions=["minimize", "minimize"], sampler=optuna.samplers.TPESampler(seed=seed))


def search(
    study: "Study",
    method: Method,
    ranges: Mapping[str, Range],
    judge: Callable[[Method, int], Standing],
    *,
    start: Mapping[str, float],
    rungs: Sequence[int],
    validation: int,
    budget: float,
) -> Iterator[Trial]:
    """Try numbers of a method, endlessly; equal studies and results give equal trials.

    Args:
        study: from `new_study`.
        judge: (candidate, n) -> its result on the first n items of the search part.
        start: the numbers of the first trial; bolder ones follow, then optuna's.
        rungs: growing numbers of items after which a candidate may be dropped.
        validation: the number of items that will test the result.
        budget: largest loss, as a share.
    """
    from optuna.distributions import FloatDistribution, IntDistribution

    distributions: dict[str, BaseDistribution] = {
        key: FloatDistribution(low, high) if step is None else IntDistribution(int(low), int(high), step=step)
        for key, (low, high, step) in ranges.items()
    }
    study.enqueue_trial(dict(start))
    for scale in BOLDNESS:
        if (bold := bolder(start, ranges, scale)) != start:
            study.enqueue_trial(bold)
    heats: list[list[Standing]] = [[] for _ in rungs]
    while True:
        trial = study.ask(distributions)
        candidate = tuned(method, trial.params)
        for rung, heat in zip(rungs, heats, strict=True):
            now = judge(candidate, rung)
            stopped = hopeless(now, heat, budget)
            if stopped:
                break
            heat.append(now)
        expected = now.bound(validation)
        trial.set_constraint("loss", expected - budget)
        study.tell(trial, [now.forwards, expected])
        yield Trial(method=candidate, standing=now, finished=not stopped)


def bolder(start: Mapping[str, float], ranges: Mapping[str, Range], scale: float) -> dict[str, float]:
    """All thresholds moved away from 1 by one factor, within their ranges: the first thing to try by hand.

    >>> bolder({"commit.threshold": 0.9, "temporal.steps": 3}, {"commit.threshold": Range(0.5, 1.0)}, 2.0)
    {'commit.threshold': 0.8, 'temporal.steps': 3}
    """
    return {
        key: max(ranges[key].low, round(1 - scale * (1 - value), 3)) if key.endswith(".threshold") else value
        for key, value in start.items()
    }


def hopeless(now: Standing, others: Iterable[Standing], budget: float) -> bool:
    """Whether to drop a candidate: no faster, over the budget with 95 % confidence, or worse than several others."""
    rivals = sum(other.forwards <= now.forwards and other.loss < now.loss for other in others)
    return now.forwards >= 1 or now.exceeds(budget) or rivals >= RIVALS


def frontier(trials: Iterable[Trial], validation: int) -> list[Trial]:
    """The finished trials that no other beats in both forwards and expected bound, the safest first, in worthwhile steps."""
    finished = [trial for trial in trials if trial.finished]
    chosen: list[Trial] = []
    least = 1.0
    for trial in sorted(finished, key=lambda trial: (trial.standing.bound(validation), trial.standing.forwards)):
        if trial.standing.forwards <= least * (1 - STRIDE):
            chosen.append(trial)
            least = trial.standing.forwards
    return chosen
