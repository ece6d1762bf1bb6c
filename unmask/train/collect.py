"""Collect a model's own answers and how redundant their decodes were: the data of redundancy-aware fine-tuning.

    unmask train collect --config configs/collect-tiny.yaml

For every prompt n candidates are sampled by the engine without R2-dLLM's rules, while a recorder counts what the rules
would have committed (train/trajectory.py). One line of JSON per prompt; the first line is the provenance:

    {"provenance": {"model": ..., "weights": ..., "method": ..., ...}}
    {"id": 0, "task": "chain", "prompt": "Compute 12 - 9.", "key": "3", "candidates": [
        {"text": ..., "token_ids": [...], "steps": [...], "seed": 0, "right": true, "tokens": 18, "forwards": 5,
         "triggers": {...}}, ...]}

`steps` has an entry per token of `token_ids`: the forward, counted from 1, that wrote it. A prompt that cannot be answered
has no candidates, and an "error" that says why. A stopped run resumes after the last complete line.
"""

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from unmask.data.layout import training
from unmask.data.records import records
from unmask.decode.settings import from_mapping, whole
from unmask.engine.generate import answer, make_request
from unmask.engine.request import Completion, Request
from unmask.engine.state import RequestState
from unmask.errors import ConfigError, RequestError
from unmask.files import Journal
from unmask.methods import load as load_method
from unmask.methods.method import Method
from unmask.models import loading
from unmask.models.denoiser import Denoiser, ModelSpec
from unmask.tasks import problems
from unmask.tasks.problem import Problem
from unmask.train.selection import COLLECTED
from unmask.train.trainer import check_number
from unmask.train.trajectory import Recorder
from unmask.train.verdict import verdicts

# Settings that change no answer, and those that the provenance has in another form.
_BESIDE = ("output", "limit", "batch", "device", "chat_template", "add_bos")


@dataclass(frozen=True, kw_only=True)
class CollectConfig:
    """The settings of a collection.

    Attributes:
        model: an embedded model, a checkpoint folder or a Hugging Face id.
        output: the JSONL file.
        mixture: task -> weight of generated training problems; None: `prompts` are used.
        prompts: a JSONL or parquet file, a folder of them or a data set on the hub, with "prompt" and, where there is a key,
            "answer".
        limit: number of prompts.
        candidates: answers per prompt; one if the temperature is 0.
        method: a preset, or settings, without R2-dLLM's rules.
        rules: options of r2-dllm: the rules whose triggers are counted.
        batch: prompts decoded at once, each with all its candidates.
        chat_template, add_bos: how prompts are asked, as `unmask.load` takes them; `sft` and `head` follow the file.
    """

    model: str
    output: str
    mixture: Mapping[str, float] | None = None
    prompts: str | None = None
    limit: int
    candidates: int = 4
    temperature: float = 0.7
    top_p: float | None = None
    max_new_tokens: int = 128
    method: str | Mapping[str, Any] = "fast-dllm"
    rules: Mapping[str, Any] | None = None
    batch: int = 8
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    chat_template: bool = True
    add_bos: bool = False

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> Self:
        """Raises ConfigError on a name that is no field, or where one is missing."""
        return from_mapping(cls, settings, "collect")

    def __post_init__(self) -> None:
        if (self.mixture is None) == (self.prompts is None):
            raise ConfigError("collect: give either a mixture of tasks or a file of prompts")
        for name in ("limit", "candidates", "batch"):
            whole(f"collect: {name}", getattr(self, name), 1, required=True)
        for name in ("chat_template", "add_bos"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"collect: {name} must be true or false, got {getattr(self, name)!r}")
        check_number("collect: temperature", self.temperature, 0.0)
        if self.temperature == 0 and self.candidates > 1:
            raise ConfigError(
                "collect: a temperature of 0 makes all candidates of a prompt the same: set candidates to 1, or a higher one"
            )


class Prompt(NamedTuple):
    """A question and where it comes from, its key if there is one, and its problem if it was generated.

    `error` says why a record of the file is no prompt.
    """

    text: str
    key: str | None
    problem: Problem | None
    where: str
    error: str | None = None


def sources(config: CollectConfig) -> Iterator[Prompt]:
    """The prompts: training problems of the mixture, all different, or the records of the files."""
    if config.mixture is not None:
        seen = set()
        for problem in problems(config.mixture, "train", seed=config.seed):
            if problem.question not in seen:
                seen.add(problem.question)
                yield Prompt(problem.question, problem.key, problem, f"training problem {len(seen)}")
        return
    for path in training(str(config.prompts)):
        for record in records(path):
            asked, key = record.values.get("prompt"), record.values.get("answer")
            error = record.error
            if error is None and not (isinstance(asked, str) and asked.strip()):
                error = 'expected {"prompt": ..., "answer": ...}'
            yield Prompt("" if error else str(asked), None if key is None else str(key), None, record.where, error)


def collect(
    config: CollectConfig,
    report: Callable[[int, float], None] | None = None,
    left_out: Callable[[str], None] | None = None,
) -> Path:
    """Collect, or resume collecting; returns the file.

    `report(prompts done, share of right answers in the batch)` is called after every batch, and `left_out` with the place of
    every prompt that cannot be answered and what is wrong with it.
    Raises ConfigError if the file was collected with other settings, or is being written by another process, or if no record
    of the prompts is a prompt.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("collect runs as one process: give each its own `seed` and `output` instead")
    _check_prompts(config)
    model = loading.load(
        config.model,
        device=config.device,
        dtype=config.dtype,
        chat_template=config.chat_template,
        add_bos=config.add_bos,
    )
    method = load_method(config.method) if isinstance(config.method, str) else Method.from_dict(config.method)
    if method.confidence_cluster or method.token_cluster or method.temporal:
        raise ConfigError("collect: the method must not have R2-dLLM's rules: they would change the text that is judged")
    rules = load_method("r2-dllm", **(config.rules or {}))
    if not (rules.confidence_cluster and rules.token_cluster and rules.temporal):
        raise ConfigError("collect: rules must not turn a rule off, because the triggers of all three are counted")
    path = Path(config.output)
    provenance = {
        **{name: value for name, value in asdict(config).items() if name not in _BESIDE},
        **model.prompting.to_dict(),
        "method": method.to_dict(),
        "rules": rules.to_dict(),
        "weights": loading.fingerprint(loading.locate(config.model)),
    }
    with Journal(path, provenance, "collected", fields=COLLECTED) as journal:
        done = sum(1 for _ in journal)
        todo = itertools.islice(enumerate(sources(config)), done, config.limit)
        while chunk := list(itertools.islice(todo, config.batch)):
            rows = _answer(model, method, rules, config, chunk)
            journal.append(rows)
            done += len(rows)
            if left_out is not None:
                for row in rows:
                    if "error" in row:
                        left_out(row["error"])
            if report is not None:
                every = [candidate["right"] for row in rows for candidate in row["candidates"]]
                report(done, sum(every) / max(1, len(every)))
    return path


def _check_prompts(config: CollectConfig) -> None:
    """Raises ConfigError where the whole file is another kind of file; it is read to its first prompt."""
    if config.prompts is not None:
        first = None
        for prompt in sources(config):
            if prompt.error is None:
                return
            first = first or f"{prompt.where}: {prompt.error}"
        raise ConfigError(f"no record is a prompt; {first or f'{config.prompts} is empty'}")


def _answer(
    model: Denoiser, method: Method, rules: Method, config: CollectConfig, chunk: list[tuple[int, Prompt]]
) -> list[dict[str, Any]]:
    """The lines of some prompts, all their candidates decoded as one batch."""
    asked: dict[int, list[Request]] = {}
    errors: dict[int, str] = {}
    for number, prompt in chunk:
        try:
            asked[number] = _requests(model, method, config, number, prompt)
        except RequestError as error:
            errors[number] = f"{prompt.where}: {error}"
    requests = [request for some in asked.values() for request in some]
    ends = model.spec.eos_ids + model.spec.turn_ids
    recorder = Recorder(rules, prompts=len(requests), mask_id=model.spec.mask_id, ends=ends)
    answers = answer(model, requests, recorder) if requests else []
    rows, place = [], 0
    for number, prompt in chunk:
        task = prompt.problem.task if prompt.problem else None
        row: dict[str, Any] = {"id": number, "task": task, "prompt": prompt.text, "key": prompt.key}
        if number in errors:
            rows.append(row | {"error": errors[number], "candidates": []})
            continue
        part = slice(place, place + config.candidates)
        place = part.stop
        rows.append(row | {"candidates": _candidates(model.spec, prompt, requests[part], answers[part], recorder, part)})
    return rows


def _requests(model: Denoiser, method: Method, config: CollectConfig, number: int, prompt: Prompt) -> list[Request]:
    """A prompt's requests, one per candidate. Raises RequestError where it cannot be answered."""
    if prompt.error is not None:
        raise RequestError(prompt.error)
    requests = [
        make_request(
            model,
            prompt.text,
            method=method,
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            top_p=config.top_p,
            seed=(config.seed * 1_000_003 + number) * config.candidates + choice,
        )
        for choice in range(config.candidates)
    ]
    RequestState.start(requests[0], model)
    return requests


def _candidates(
    spec: ModelSpec,
    prompt: Prompt,
    requests: Sequence[Request],
    answers: Sequence[Completion],
    recorder: Recorder,
    part: slice,
) -> list[dict[str, Any]]:
    """A prompt's answers, judged; `part` is where they stand in the batch."""
    texts = [completion.text for completion in answers]
    right = [prompt.problem.verify(text) for text in texts] if prompt.problem else verdicts(texts, prompt.key)
    found = []
    for index, (request, completion, verdict) in enumerate(zip(requests, answers, right, strict=True), start=part.start):
        token_ids = _ended(completion, spec)
        found.append(
            {
                "text": completion.text,
                "token_ids": token_ids,
                "steps": [recorder.steps[index][offset] for offset in range(len(token_ids))],
                "seed": request.seed,
                # An answer without an EOS would teach the model not to end.
                "right": verdict and completion.finish_reason == "stop",
                "tokens": completion.tokens,
                "forwards": completion.forwards,
                "triggers": recorder.triggers[index].to_dict(),
            }
        )
    return found


def _ended(answer: Completion, spec: ModelSpec) -> list[int]:
    """The ids that the model wrote before the EOS, with the end of the turn if it has one."""
    following = answer.token_ids[answer.tokens : answer.tokens + 1]
    return answer.token_ids[: answer.tokens] + [token for token in following if token in spec.turn_ids]
