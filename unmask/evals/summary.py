"""The summary of a run: one row of numbers per method, every method against the first one, item by item, and its curves."""

from collections.abc import Mapping, Sequence
from typing import Any

from unmask.evals import statistics
from unmask.evals.aup import Measured, curves
from unmask.evals.run import Record, Run
from unmask.evals.statistics import wilson


def summarise(run: Run) -> dict[str, Any]:
    """One method's row of `unmask eval --json`, its forwards, tokens and seconds over the items that fit into the model."""
    records = [record for record in run.records if record.asked]
    accuracy = wilson(sum(run.right()), len(run.records))
    forwards = statistics.mean([record.forwards for record in records])
    tokens, seconds = sum(record.tokens for record in records), sum(record.seconds for record in records)
    spent = sum(record.forwards for record in records)
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
        "tokens_per_forward": tokens / spent,
        "tpf_all": sum(whole_answer(record, run.end_id) for record in records) / spent,
        "query_tokens_mean": sum(record.query_tokens for record in records) / len(records),
        "seconds_per_item": seconds / len(records),
        "tokens_per_second": tokens / seconds,
        "metrics": {
            metric: sum(record.verdicts[metric] for record in run.records) / len(run.records) for metric in run.metrics
        },
        "accuracy_by_group": groups(run),
        "commits": {rule: sum(record.commits.get(rule, 0) for record in records) for rule in records[0].commits},
        "too_long": sum(record.finish_reason == "too long" for record in run.records),
        "settings": run.method.to_dict(),
    }


def whole_answer(record: Record, end_id: int) -> int:
    """The ids of an answer as d3LLM counts them: of all its tokens those that are not the end-of-text id.

    Nothing is cut at an end-of-turn id or a stop string, so what stands behind one counts too.
    """
    return sum(token != end_id for token in record.token_ids)


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


def swept(rows: Sequence[Mapping[str, Any]], best: float) -> list[dict[str, Any]]:
    """The curves of some rows (evals/aup.py), in tokens per forward as d3LLM counts them; `best` is in percent."""
    measured = [Measured(row["method"], row["settings"]["cache"], (row["tpf_all"], 100 * row["accuracy"])) for row in rows]
    return [curve.to_dict() for curve in curves(measured, best)]


def best(rows: Sequence[Mapping[str, Any]]) -> float:
    """The best accuracy of some rows, in percent: what AUP calls the best of any compared system."""
    return 100 * max(float(row["accuracy"]) for row in rows)
