"""Which rule committed how many tokens, how sure the model was of them, and how often they were wrong.

A commit is wrong if vanilla decoding, one surest token at a time, came to another token at that position. That is strict (an
answer that says the same in other words is wrong from there on) and the same for every rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unmask.engine.generate import encode, generate
from unmask.engine.request import StepRecord
from unmask.errors import ConfigError
from unmask.evals.run import Run
from unmask.evals.task import Task
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


def ablate(model: Denoiser, task: Task, run: Run, vanilla: Run, *, batch: int) -> list[RuleCommits]:
    """Decode the items of `run` again with an observer; commits behind the end of an answer are left out.

    Raises ConfigError for a method with drafts: one forward then stands for several steps, whose confidences are not kept.
    """
    if run.method.draft is not None:
        raise ConfigError(f"{run.name} drafts, so a commit has no single confidence: leave it out of --ablation")
    found: dict[str, RuleCommits] = {}
    pairs = [(ours, theirs) for ours, theirs in zip(run.records, vanilla.records, strict=True) if ours.asked]
    for start in range(0, len(pairs), batch):
        chunk = pairs[start : start + batch]
        asked = [ours.prompt for ours, _ in chunk]
        offsets = [len(encode(model, prompt)) for prompt in asked]
        truth = [theirs.token_ids for _, theirs in chunk]
        ends = [ours.tokens for ours, _ in chunk]

        def observe(
            record: StepRecord, offsets: Sequence[int] = offsets, truth: list[list[int]] = truth, ends: list[int] = ends
        ) -> None:
            for place, row in enumerate(record.rows):
                for position, token, rule in zip(
                    record.committed[place], record.tokens[place], record.rule[place], strict=True
                ):
                    where = position - offsets[row]
                    if where >= ends[row]:
                        continue
                    confidence = record.confidence[place][position - record.start[place]]
                    counted = found.setdefault(rule, RuleCommits(rule=rule, counts=[0] * BINS, wrong=[0] * BINS))
                    slot = min(int(confidence * BINS), BINS - 1)
                    counted.counts[slot] += 1
                    counted.wrong[slot] += token != truth[row][where]

        generate(model, asked, method=run.method, stop=task.stop, observer=observe)
    return [found[rule] for rule in run.records[0].commits if rule in found]
