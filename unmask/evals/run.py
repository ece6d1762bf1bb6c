"""Run methods on a task: the same items, stop strings and token counts for all, one line of JSON per item and method.

Tokens are counted up to the first EOS or stop string, without prompt and filler; forwards include refreshes. Methods take
turns batch by batch, so a slow minute of the machine affects all of them. Every batch is on disk before the next begins.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from unmask.engine.generate import generate
from unmask.engine.own import completed
from unmask.engine.prompt import encode
from unmask.engine.request import Completion
from unmask.errors import ConfigError, LogitsError, PromptTooLong
from unmask.evals.task import Item, Task
from unmask.files import Journal
from unmask.methods.method import Method
from unmask.models.denoiser import Denoiser

BATCH = 16
# Threads that score answers: a verdict that runs a program waits for another process.
SCORERS = 4


@dataclass(frozen=True, kw_only=True)
class Record:
    """One item answered by one method.

    Attributes:
        id, group, prompt: of the item.
        answer: up to the first EOS or stop string.
        verdicts: metric -> whether the answer passes.
        finish_reason: "stop", "length", "too long" if prompt and answer exceed the context, or "error": both count as wrong.
        error: what has gone wrong with the item; "" where nothing has.
        tokens, forwards, query_tokens, commits: as in Completion.
        token_ids: the whole answer.
        seconds: the item's share of its batch's time.
    """

    id: str
    group: str | None
    prompt: str
    verdicts: Mapping[str, bool]
    finish_reason: str
    answer: str = ""
    tokens: int = 0
    forwards: int = 0
    query_tokens: int = 0
    commits: Mapping[str, int] = field(default_factory=dict)
    token_ids: list[int] = field(default_factory=list)
    seconds: float = 0.0
    error: str = ""

    @property
    def asked(self) -> bool:
        """Whether the model answered the item at all."""
        return self.finish_reason not in ("too long", "error")

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """Read a line of the file; files from before November 2026 also hold an unused `latency`."""
        return cls(**{name: value for name, value in row.items() if name != "latency"})

    @classmethod
    def of(cls, item: Item, completion: Completion, verdicts: Mapping[str, bool], seconds: float) -> Self:
        """The record of an item's answer."""
        return cls(
            id=item.id,
            group=item.group,
            prompt=item.prompt,
            verdicts=dict(verdicts),
            finish_reason=completion.finish_reason,
            answer=completion.text,
            tokens=completion.tokens,
            forwards=completion.forwards,
            query_tokens=completion.query_tokens,
            commits=dict(completion.commits),
            token_ids=completion.token_ids,
            seconds=seconds,
        )

    @classmethod
    def unanswered(cls, item: Item, metrics: Sequence[str], why: str, error: str = "") -> Self:
        """The record of an item without an answer: `why` is its finish_reason."""
        wrong = dict.fromkeys(metrics, False)
        return cls(id=item.id, group=item.group, prompt=item.prompt, verdicts=wrong, finish_reason=why, error=error)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A method's records, in the order of the task's items; `answered` of them were not on disk before.

    `method` holds the model's own values too; `end_id` is the model's end-of-text id, the filler behind an answer.
    """

    name: str
    method: Method
    metrics: tuple[str, ...]
    records: tuple[Record, ...]
    end_id: int
    answered: int = field(default=0, compare=False)

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
        methods: by the names that the results carry; the model's own values are filled in.
        folder: keeps one file per method; answers in it are not made again. None keeps nothing.
        weights: the fingerprint of the model's weights, so that files of another model are refused.
        batch: prompts decoded at once.
        max_new_tokens: length of an answer; None: the method's own, or the task's.
        report: called as report(method, items done, share of them right) after every batch.

    Raises:
        ConfigError: a file in `folder` was made with other settings, or is being written by another process.
        PromptTooLong: no item fits into the model.
        LogitsError: a method has answered no item, because the model's logits are no numbers.
    """
    methods = {name: _for_this(model, task, method, max_new_tokens) for name, method in methods.items()}
    files = _files(methods, folder)
    fits = _fitting(model, task, methods.values())
    with ExitStack() as stack:
        answers = {name: _Answers(model, task, method, fits) for name, method in methods.items()}
        for name, method in methods.items() if folder is not None else ():
            journal = Journal(files[name], provenance(model, task, method, weights, batch), "answered")
            answers[name].keep_in(stack.enter_context(journal))
        for start in range(0, len(task.items), batch):
            for name, mine in answers.items():
                mine.answer(task.items[start : start + batch])
                if report is not None:
                    done = task.items[: start + batch]
                    report(name, len(done), sum(mine.records[item.id].verdicts[task.metrics[0]] for item in done) / len(done))
    runs = [mine.run(name) for name, mine in answers.items()]
    for run in runs:
        if not any(record.asked for record in run.records):
            raise LogitsError(f"{run.name} has answered no item: {next(one.error for one in run.records if one.error)}")
    return runs


def _for_this(model: Denoiser, task: Task, method: Method, max_new_tokens: int | None) -> Method:
    """The method as it answers the task on this model: its own values filled in, and the length of answers."""
    method = completed(model, method)
    return method.change(max_new_tokens=max_new_tokens or method.max_new_tokens or task.max_new_tokens)


def provenance(model: Denoiser, task: Task, method: Method, weights: str, batch: int) -> dict[str, Any]:
    """Everything that an answer depends on besides its prompt: runs of one provenance may share a file."""
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
        **model.prompting.to_dict(),
        **kept(model),
        **({"head": model.head.digest} if model.head is not None and method.commit.reads_hidden else {}),
    }


def kept(model: Denoiser) -> dict[str, str]:
    """The type in which keys and values are kept, where it is not that of the weights."""
    return {} if model.kv is None else {"kv_dtype": str(model.kv).removeprefix("torch.")}


def file_name(method: str) -> str:
    """The file of a method's answers.

    >>> file_name("r2-dllm threshold=0.9")
    'r2-dllm-threshold=0.9.jsonl'
    """
    return "".join(letter if letter.isalnum() or letter in "-_.=" else "-" for letter in method).strip("-.") + ".jsonl"


def _files(methods: Iterable[str], folder: Path | None) -> dict[str, Path]:
    files = {name: (folder or Path()) / file_name(name) for name in methods}
    if len(set(files.values())) < len(files):
        raise ConfigError(f"two of the methods {', '.join(files)} would share a file: rename one of them")
    return files


def _fitting(model: Denoiser, task: Task, methods: Iterable[Method]) -> set[str]:
    """The ids of the items that fit into the model with the longest answer of all methods."""
    longest = max(method.max_new_tokens or 0 for method in methods)
    fits = {item.id for item in task.items if len(encode(model, item.prompt)) + longest <= model.spec.max_length}
    if not fits:
        raise PromptTooLong(
            f"none of the {len(task.items)} prompts of {task.name} fits with its answer into the model's "
            f"{model.spec.max_length} tokens: use fewer --shots or a shorter answer"
        )
    return fits


class _Answers:
    """One method's records by item: those in its journal, and new ones."""

    def __init__(self, model: Denoiser, task: Task, method: Method, fits: set[str]) -> None:
        self._model, self._task, self._method, self._fits = model, task, method, fits
        self._journal: Journal | None = None
        self._answered = 0
        self.records: dict[str, Record] = {}

    def keep_in(self, journal: Journal) -> None:
        """Read the records of a journal, and append new ones to it from here on."""
        self._journal = journal
        prompts = {item.id: item.prompt for item in self._task.items}
        for number, (_, row) in enumerate(journal, start=2):
            try:
                record = Record.from_dict(row)
            except TypeError as error:
                raise ConfigError(f"{journal.path}:{number}: not an answer ({error})") from None
            if prompts.get(record.id, record.prompt) != record.prompt:
                raise ConfigError(f"{journal.path} holds another prompt for item {record.id}: use another output")
            if not record.error:  # one that had no answer is asked again
                self.records[record.id] = record

    def answer(self, items: Sequence[Item]) -> None:
        """Answer the items that have no record; new records are on disk when this returns."""
        missing = [item for item in items if item.id not in self.records]
        if not missing:
            return
        if not self._answered:  # warm-up: the first forwards of a shape are slower than later ones
            first = next(item.prompt for item in self._task.items if item.id in self._fits)
            with suppress(LogitsError):  # the items themselves will say so
                generate(self._model, [first], method=self._method)
        records = self._ask(missing)
        if self._journal is not None:
            self._journal.append(asdict(record) for record in records)
        self.records |= {record.id: record for record in records}
        self._answered += len(records)

    def run(self, name: str) -> Run:
        records = tuple(self.records[item.id] for item in self._task.items)
        return Run(
            name=name,
            method=self._method,
            metrics=self._task.metrics,
            records=records,
            end_id=self._model.spec.eos_ids[0],
            answered=self._answered,
        )

    def _ask(self, items: Sequence[Item]) -> list[Record]:
        task, asked = self._task, [item for item in items if item.id in self._fits]
        began = time.perf_counter()
        prompts = [item.prompt for item in asked]
        answers, error = self._decode(prompts) if asked else ([], "")
        share = (time.perf_counter() - began) / max(1, len(asked))
        pairs = [(item, answer) for item, answer in zip(asked, answers, strict=True) if answer is not None]
        with ThreadPoolExecutor(SCORERS) as pool:
            verdicts = list(pool.map(lambda pair: task.score(pair[0], pair[1].text), pairs))
        records = {
            item.id: Record.of(item, answer, verdict, share) for (item, answer), verdict in zip(pairs, verdicts, strict=True)
        }
        records |= {item.id: Record.unanswered(item, task.metrics, "error", error) for item in asked if item.id not in records}
        return [records.get(item.id) or Record.unanswered(item, task.metrics, "too long") for item in items]

    def _decode(self, prompts: Sequence[str]) -> tuple[Sequence[Completion | None], str]:
        """The answers; None of one whose logits were no numbers, and what was said of it."""
        try:
            return generate(self._model, prompts, method=self._method, stop=self._task.stop), ""
        except LogitsError as error:
            return error.completions, str(error)
