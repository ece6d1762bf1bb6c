"""Methods over a task: the same items, stop strings and token count for all, one line of JSON an item and method.

Tokens are counted to the first EOS or stop, never filler or prompt; forwards include refreshes. Methods take turns batch
by batch, so a slow minute of the machine is everybody's. Every batch is on disk before the next one begins.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from unmask.engine.generate import encode, generate
from unmask.errors import ConfigError, PromptTooLong
from unmask.evals.task import Item, Task
from unmask.files import Journal
from unmask.methods.method import Method
from unmask.models.denoiser import Denoiser

BATCH = 16
# Verdicts that run programs wait for them, not for a core of ours.
SCORERS = 4


@dataclass(frozen=True, kw_only=True)
class Record:
    """One item answered by one method.

    Attributes:
        id, group, prompt: of the item.
        answer: up to the first EOS or stop string.
        verdicts: metric -> whether the answer passes.
        finish_reason: "stop", "length", or "too long" where prompt and answer exceed the model's context: not asked, wrong.
        tokens, forwards, query_tokens, commits: as in Completion.
        token_ids: the whole answer.
        seconds: the item's share of its batch's time.
        latency: from the start of the batch until the item was done.
    """

    id: str
    group: str | None
    prompt: str
    answer: str
    verdicts: Mapping[str, bool]
    finish_reason: str
    tokens: int
    forwards: int
    query_tokens: int
    commits: Mapping[str, int]
    token_ids: list[int]
    seconds: float
    latency: float

    @property
    def asked(self) -> bool:
        """Whether the model was asked at all."""
        return self.finish_reason != "too long"

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """Read a line of the file."""
        return cls(**row)

    @classmethod
    def too_long(cls, item: Item, metrics: Sequence[str]) -> Self:
        """What is kept of an item that does not fit."""
        return cls(
            id=item.id,
            group=item.group,
            prompt=item.prompt,
            answer="",
            verdicts=dict.fromkeys(metrics, False),
            finish_reason="too long",
            tokens=0,
            forwards=0,
            query_tokens=0,
            commits={},
            token_ids=[],
            seconds=0.0,
            latency=0.0,
        )


@dataclass(frozen=True, kw_only=True)
class Run:
    """A method's records, in the order of the task's items."""

    name: str
    method: Method
    metrics: tuple[str, ...]
    records: tuple[Record, ...]

    def right(self) -> list[bool]:
        """The verdict of the task's first metric on every item."""
        return [record.verdicts[self.metrics[0]] for record in self.records]


Report = Callable[[str, int, float], None]


def evaluate(
    model: Denoiser,
    task: Task,
    methods: Mapping[str, Method],
    *,
    folder: Path | None = None,
    weights: str = "",
    batch: int = BATCH,
    max_new_tokens: int | None = None,
    report: Report | None = None,
) -> list[Run]:
    """Answer every item with every method.

    Args:
        model, task: what answers, and what is asked.
        methods: by the names that the results carry.
        folder: keeps a file a method, and what is in it is not answered again; None keeps nothing.
        weights: the fingerprint of the model's weights, so that no file is taken for another model's.
        batch: prompts decoded at once.
        max_new_tokens: length of an answer; None: the method's own, or the task's.
        report: called as report(method, items done, share of them right) after every batch.

    Raises:
        ConfigError: a file in `folder` was made with other settings.
        PromptTooLong: no item at all fits into the model.
    """
    names = [_slug(name) for name in methods]
    if len(set(names)) < len(names):
        raise ConfigError(f"two of the methods {', '.join(methods)} would share a file: rename one")
    methods = {
        name: method.change(max_new_tokens=max_new_tokens or method.max_new_tokens or task.max_new_tokens)
        for name, method in methods.items()
    }
    kept: dict[str, dict[str, Record]] = {}
    journals: dict[str, Journal] = {}
    for name, method in methods.items():
        if folder is not None:
            origin = provenance(model, task, method, weights, batch)
            journals[name] = Journal(folder / f"{_slug(name)}.jsonl", origin, "answered")
        kept[name] = {row["id"]: Record.from_dict(row) for row in (journals[name].rows if folder else ())}
        for item in task.items:
            if item.id in kept[name] and kept[name][item.id].prompt != item.prompt:
                raise ConfigError(f"{journals[name].path} holds another prompt for item {item.id}: use another output")
    fits = {item.id: _fits(model, item, max(_length(method) for method in methods.values())) for item in task.items}
    if not any(fits.values()):
        raise PromptTooLong(
            f"none of the {len(task.items)} prompts of {task.name} fits with its answer into the model's "
            f"{model.spec.max_length} tokens: use fewer --shots or a shorter answer"
        )
    cold = set(methods)
    for start in range(0, len(task.items), batch):
        chunk = task.items[start : start + batch]
        for name, method in methods.items():
            missing = [item for item in chunk if item.id not in kept[name]]
            if missing:
                if name in cold:  # the first forwards of a shape pay for what later ones find ready
                    cold.remove(name)
                    generate(model, [next(item.prompt for item in task.items if fits[item.id])], method=method)
                records = _answer(model, task, method, missing, fits)
                if folder is not None:
                    journals[name].append(asdict(record) for record in records)
                kept[name] |= {record.id: record for record in records}
            if report is not None:
                done = [kept[name][item.id] for item in task.items[: start + len(chunk)]]
                report(name, len(done), sum(record.verdicts[task.metrics[0]] for record in done) / len(done))
    return [
        Run(name=name, method=method, metrics=task.metrics, records=tuple(kept[name][item.id] for item in task.items))
        for name, method in methods.items()
    ]


def provenance(model: Denoiser, task: Task, method: Method, weights: str, batch: int) -> dict[str, Any]:
    """All that an answer depends on besides its prompt: runs of one provenance may share a file, whatever their limits."""
    return {
        "model": model.name,
        "weights": weights,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "task": task.name,
        "shots": task.shots,
        "stop": list(task.stop),
        "batch": batch,
        "method": method.to_dict(),
    }


def finished(folder: Path, methods: Sequence[str], items: int) -> bool:
    """Whether a folder holds every item of every method."""

    def lines(path: Path) -> int:
        return path.read_bytes().count(b"\n") if path.exists() else 0

    return all(lines(folder / f"{_slug(name)}.jsonl") > items for name in methods)


def _slug(name: str) -> str:
    """A file name."""
    return "".join(letter if letter.isalnum() or letter in "-_.=" else "-" for letter in name).strip("-.")


def _length(method: Method) -> int:
    assert method.max_new_tokens is not None, "evaluate has filled it in"
    return method.max_new_tokens


def _fits(model: Denoiser, item: Item, new_tokens: int) -> bool:
    return len(encode(model, item.prompt)) + new_tokens <= model.spec.max_length


def _answer(model: Denoiser, task: Task, method: Method, items: Sequence[Item], fits: Mapping[str, bool]) -> list[Record]:
    asked = [item for item in items if fits[item.id]]
    began = time.perf_counter()
    answers = generate(model, [item.prompt for item in asked], method=method, stop=task.stop) if asked else []
    share = (time.perf_counter() - began) / max(1, len(asked))
    with ThreadPoolExecutor(SCORERS) as pool:
        verdicts = list(pool.map(task.score, asked, [answer.text for answer in answers]))
    records = {
        item.id: Record(
            id=item.id,
            group=item.group,
            prompt=item.prompt,
            answer=answer.text,
            verdicts=dict(verdict),
            finish_reason=answer.finish_reason,
            tokens=answer.tokens,
            forwards=answer.forwards,
            query_tokens=answer.query_tokens,
            commits=dict(answer.commits),
            token_ids=answer.token_ids,
            seconds=share,
            latency=answer.seconds,
        )
        for item, answer, verdict in zip(asked, answers, verdicts, strict=True)
    }
    return [records[item.id] if item.id in records else Record.too_long(item, task.metrics) for item in items]
