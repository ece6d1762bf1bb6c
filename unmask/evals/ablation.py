"""How many tokens each rule committed, with which confidence, and how many of them were wrong.

A commit is wrong if vanilla decoding, one token per forward, ended with another token at that position. That is strict (an
answer that says the same in other words is wrong from there on) and the same for every rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unmask.engine.generate import generate
from unmask.engine.prompt import encode
from unmask.engine.request import StepRecord
from unmask.errors import ConfigError
from unmask.evals.run import Record, Run
from unmask.evals.task import Task
from unmask.files import Journal
from unmask.models.denoiser import Denoiser

BINS = 10


@dataclass(frozen=True, kw_only=True)
class RuleCommits:
    """One rule's commits by confidence: bin b holds confidences from b / 10 up to (b + 1) / 10."""

    rule: str
    counts: list[int]
    wrong: list[int]

    def to_dict(self) -> dict[str, Any]:
        """A row of the report."""
        count, wrong = sum(self.counts), sum(self.wrong)
        share = wrong / count if count else None
        return {
            "rule": self.rule,
            "commits": count,
            "wrong": wrong,
            "wrong_share": share,
            "by_confidence": self.counts,
            "wrong_by_confidence": self.wrong,
        }


# For one answer: rule -> its commits by confidence, and the wrong ones among them.
_Counts = dict[str, tuple[list[int], list[int]]]


def ablate(
    model: Denoiser, task: Task, run: Run, vanilla: Run, *, batch: int, journal: Journal | None = None
) -> list[RuleCommits]:
    """Decode the items of `run` again with an observer; commits after the end of an answer are left out.

    Answers whose counts are in `journal` are not decoded again.

    Raises ConfigError for a method with drafts: its forwards stand for several steps, whose confidences are not kept.
    """
    if run.method.draft is not None:
        raise ConfigError(f"{run.name} drafts, so a commit has no single confidence: leave it out of --ablation")
    found: dict[str, _Counts] = {row["id"]: row["rules"] for _, row in journal or ()}
    pairs = [(ours, theirs) for ours, theirs in zip(run.records, vanilla.records, strict=True) if ours.asked]
    missing = [pair for pair in pairs if pair[0].id not in found]
    for start in range(0, len(missing), batch):
        chunk = missing[start : start + batch]
        counts = _count(model, task, run, chunk)
        if journal is not None:
            journal.append({"id": ours.id, "rules": rules} for (ours, _), rules in zip(chunk, counts, strict=True))
        found |= {ours.id: rules for (ours, _), rules in zip(chunk, counts, strict=True)}
    counted = [found[ours.id] for ours, _ in pairs]
    names = [rule for rule in pairs[0][0].commits if any(rule in rules for rules in counted)]
    return [_total(name, [rules[name] for rules in counted if name in rules]) for name in names]


def _total(rule: str, parts: Sequence[tuple[list[int], list[int]]]) -> RuleCommits:
    counts, wrong = ([sum(slot) for slot in zip(*column, strict=True)] for column in zip(*parts, strict=True))
    return RuleCommits(rule=rule, counts=counts, wrong=wrong)


def _count(model: Denoiser, task: Task, run: Run, pairs: Sequence[tuple[Record, Record]]) -> list[_Counts]:
    """The commits of each answer, decoded again as one batch; the second record of a pair is vanilla's."""
    asked = [ours.prompt for ours, _ in pairs]
    offsets = [len(encode(model, prompt)) for prompt in asked]
    found: list[_Counts] = [{} for _ in pairs]

    def observe(record: StepRecord) -> None:
        for place, row in enumerate(record.rows):
            ours, theirs = pairs[row]
            for position, token, rule in zip(record.committed[place], record.tokens[place], record.rule[place], strict=True):
                where = position - offsets[row]
                if where < ours.tokens:
                    confidence = record.confidence[place][position - record.start[place]]
                    counts, wrong = found[row].setdefault(rule, ([0] * BINS, [0] * BINS))
                    slot = min(int(confidence * BINS), BINS - 1)
                    counts[slot] += 1
                    wrong[slot] += token != theirs.token_ids[where]

    generate(model, asked, method=run.method, stop=task.stop, observer=observe)
    return found
