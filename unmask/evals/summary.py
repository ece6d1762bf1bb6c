"""The summary of a run: one row of numbers per method, and every method against the first one, item by item."""

from collections.abc import Sequence
from typing import Any

from unmask.evals import statistics
from unmask.evals.run import Run
from unmask.evals.statistics import wilson


def summarise(run: Run) -> dict[str, Any]:
    """One method's row of `unmask eval --json`, its forwards, tokens and seconds over the items that fit into the model."""
    records = [record for record in run.records if record.asked]
    accuracy = wilson(sum(run.right()), len(run.records))
    forwards = statistics.mean([record.forwards for record in records])
    tokens, seconds = sum(record.tokens for record in records), sum(record.seconds for record in records)
    return {
        "method": run.name,
        "n": len(run.records),
        "accuracy": accuracy.value,
        "accuracy_low": accuracy.low,
        "accuracy_high": accuracy.high,
        "forwards_mean": forwards.value,
        "forwards_low": forwards.low,
        "forwards_high": forwards.high,
        "tokens_mean": tokens / len(records),
        "tokens_per_forward": tokens / sum(record.forwards for record in records),
        "query_tokens_mean": sum(record.query_tokens for record in records) / len(records),
        "seconds_per_item": seconds / len(records),
        "tokens_per_second": tokens / seconds,
        "metrics": {
            metric: sum(record.verdicts[metric] for record in run.records) / len(run.records) for metric in run.metrics
        },
        "accuracy_by_group": groups(run),
        "commits": {rule: sum(record.commits.get(rule, 0) for record in records) for rule in records[0].commits},
        "too_long": len(run.records) - len(records),
    }


def groups(run: Run) -> dict[str, float]:
    """Accuracy by the items' groups, in the groups' order."""
    verdicts: dict[str, list[bool]] = {}
    for record, right in zip(run.records, run.right(), strict=True):
        if record.group is not None:
            verdicts.setdefault(record.group, []).append(right)
    return {group: sum(every) / len(every) for group, every in sorted(verdicts.items())}


def against(run: Run, base: Run) -> dict[str, Any]:
    """A method against another on the same items: accuracy (McNemar's exact test) and forwards (bootstrap)."""
    pairs = [(record.forwards, other.forwards) for record, other in zip(run.records, base.records, strict=True) if record.asked]
    accuracy = statistics.difference(run.right(), base.right())
    test = statistics.mcnemar(base.right(), run.right())
    forwards = statistics.ratio([ours for ours, _ in pairs], [theirs for _, theirs in pairs])
    return {
        "base": base.name,
        "accuracy_change": accuracy.value,
        "accuracy_change_low": accuracy.low,
        "accuracy_change_high": accuracy.high,
        "gained": test.gained,
        "lost": test.lost,
        "mcnemar_p": test.p,
        "forwards_ratio": forwards.value,
        "forwards_ratio_low": forwards.low,
        "forwards_ratio_high": forwards.high,
    }


def table(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """All rows; each but the first also holds its comparison with the first."""
    first, *others = runs
    return [summarise(first), *(summarise(run) | {"against_first": against(run, first)} for run in others)]
