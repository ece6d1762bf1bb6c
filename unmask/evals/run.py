"""Run methods over the held-out problems of generated tasks and count what each cost.

Tokens are counted to the first EOS or stop, never filler or prompt; forwards include refreshes; accuracy comes with its
sample size and 95 % interval.
"""

import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from unmask.engine.generate import generate
from unmask.errors import ConfigError, unknown
from unmask.methods.method import Method
from unmask.models.denoiser import Denoiser
from unmask.tasks import EVERY, TASKS, problems
from unmask.tasks.problem import Problem

MIXTURE = "mixture"
BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What one method did on n problems; see `evaluate`."""

    method: str
    n: int
    right: int
    by_steps: dict[int, tuple[int, int]]  # steps of the problem -> (right, asked)
    forwards: int
    forwards_error: float  # standard error of their mean
    tokens: int
    query_tokens: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The row of the `--json` document."""
        low, high = wilson(self.right, self.n)
        return {
            "method": self.method,
            "accuracy": self.right / self.n,
            "accuracy_low": low,
            "accuracy_high": high,
            "forwards_mean": self.forwards / self.n,
            "forwards_low": self.forwards / self.n - 1.96 * self.forwards_error,
            "forwards_high": self.forwards / self.n + 1.96 * self.forwards_error,
            "tokens_mean": self.tokens / self.n,
            "tokens_per_forward": self.tokens / self.forwards,
            "query_tokens_mean": self.query_tokens / self.n,
            "seconds_per_item": self.seconds / self.n,
            "tokens_per_second": self.tokens / self.seconds,
            "accuracy_by_steps": {str(steps): right / asked for steps, (right, asked) in sorted(self.by_steps.items())},
        }


def wilson(right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a proportion, 95 % by default.

    >>> [round(bound, 3) for bound in wilson(90, 100)]
    [0.826, 0.945]
    """
    share = right / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n)


def held_out(task: str, limit: int, seed: int) -> list[Problem]:
    """`limit` different held-out problems of a task, or of all tasks evenly ("mixture").

    Raises ConfigError for an unknown task, or where a task has fewer different problems than that.
    """
    if task not in (*EVERY, MIXTURE):
        raise unknown("task", task, [*EVERY, MIXTURE])
    found: dict[str, Problem] = {}
    drawn = problems(dict.fromkeys(TASKS, 1.0) if task == MIXTURE else task, "test", seed=seed)
    for problem in itertools.islice(drawn, 20 * limit + 1000):
        found.setdefault(problem.question, problem)
        if len(found) == limit:
            return list(found.values())
    raise ConfigError(f"{task} has only about {len(found)} different held-out problems: ask for fewer than {limit}")


def evaluate(
    model: Denoiser,
    task: str,
    methods: Mapping[str, Method],
    *,
    limit: int,
    seed: int = 0,
    max_new_tokens: int = 160,
    report: Callable[[str, int], None] | None = None,
) -> list[Summary]:
    """Each method over the same `limit` held-out problems, in batches; `report(method, done)` after each batch.

    Raises ConfigError for an unknown task.
    """
    if limit < 1:
        raise ConfigError(f"limit must be at least 1, got {limit}")
    asked_for = held_out(task, limit, seed)
    summaries = []
    for name, method in methods.items():
        by_steps: dict[int, tuple[int, int]] = {}
        forwards: list[int] = []
        tokens = query_tokens = 0
        began = time.perf_counter()
        for start in range(0, limit, BATCH):
            chunk = asked_for[start : start + BATCH]
            done = generate(model, [problem.question for problem in chunk], method=method, max_new_tokens=max_new_tokens)
            for problem, completion in zip(chunk, done, strict=True):
                right, asked = by_steps.get(problem.steps, (0, 0))
                by_steps[problem.steps] = (right + problem.verify(completion.text), asked + 1)
                forwards.append(completion.forwards)
                tokens += completion.tokens
                query_tokens += completion.query_tokens
            if report is not None:
                report(name, start + len(chunk))
        summaries.append(
            Summary(
                method=name,
                n=limit,
                right=sum(right for right, _ in by_steps.values()),
                by_steps=by_steps,
                forwards=sum(forwards),
                forwards_error=statistics.stdev(forwards) / math.sqrt(limit) if limit > 1 else 0.0,
                tokens=tokens,
                query_tokens=query_tokens,
                seconds=time.perf_counter() - began,
            )
        )
    return summaries
