"""Collect a model's own answers and how redundant their decodes were: the data of redundancy-aware fine-tuning.

    unmask train collect --config configs/collect-tiny.yaml

For every prompt n candidates are sampled by the engine without R2-dLLM's rules, while a recorder counts what the rules
would have committed (train/trajectory.py). One line of JSON per prompt; the first line is the provenance:

    {"provenance": {"model": ..., "weights": ..., "method": ..., ...}}
    {"id": 0, "task": "chain", "prompt": "Compute 12 - 9.", "key": "3", "candidates": [
        {"text": ..., "token_ids": [...], "seed": 0, "right": true, "tokens": 18, "forwards": 5, "triggers": {...}}, ...]}

A stopped run resumes after the last complete line.
"""

import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from unmask.decode.settings import from_mapping, whole
from unmask.engine.generate import generate
from unmask.engine.request import Completion
from unmask.errors import ConfigError
from unmask.files import Journal
from unmask.methods import load as load_method
from unmask.methods.method import Method
from unmask.models import loading
from unmask.models.denoiser import Denoiser, ModelSpec
from unmask.tasks import problems
from unmask.tasks.problem import Problem
from unmask.train.trainer import check_number
from unmask.train.trajectory import Recorder
from unmask.train.verdict import verdicts


@dataclass(frozen=True, kw_only=True)
class CollectConfig:
    """The settings of a collection.

    Attributes:
        model: an embedded model, a checkpoint folder or a Hugging Face id.
        output: the JSONL file.
        mixture: task -> weight of generated training problems; None: `prompts` are used.
        prompts: a JSONL file with "prompt" and, if there is a key, "answer".
        limit: number of prompts.
        candidates: answers per prompt.
        method: a preset, or settings, without R2-dLLM's rules.
        rules: options of r2-dllm: the rules whose triggers are counted.
        batch: prompts decoded at once, each with all its candidates.
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

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> Self:
        """Raises ConfigError on a name that is no field, or where one is missing."""
        return from_mapping(cls, settings, "collect")

    def __post_init__(self) -> None:
        if (self.mixture is None) == (self.prompts is None):
            raise ConfigError("collect: give either a mixture of tasks or a file of prompts")
        for name in ("limit", "candidates", "batch"):
            whole(f"collect: {name}", getattr(self, name), 1, required=True)
        check_number("collect: temperature", self.temperature, 0.0)
        if self.temperature == 0:
            raise ConfigError("collect: a temperature of 0 makes all candidates of a prompt the same")


class Prompt(NamedTuple):
    """A question, its key if there is one, and its problem if it was generated."""

    text: str
    key: str | None
    problem: Problem | None


def sources(config: CollectConfig) -> Iterator[Prompt]:
    """The prompts: training problems of the mixture, all different, or the lines of the file."""
    if config.mixture is not None:
        seen = set()
        for problem in problems(config.mixture, "train", seed=config.seed):
            if problem.question not in seen:
                seen.add(problem.question)
                yield Prompt(problem.question, problem.key, problem)
        return
    path = Path(str(config.prompts))
    try:
        with path.open() as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    row = json.loads(line)
                    key, asked = row.get("answer"), row["prompt"]
                    if not asked.strip():
                        raise KeyError("prompt")
                except (json.JSONDecodeError, KeyError, AttributeError, TypeError):
                    raise ConfigError(f'{path}:{number}: expected {{"prompt": ..., "answer": ...}}') from None
                yield Prompt(asked, None if key is None else str(key), None)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None


def collect(config: CollectConfig, report: Callable[[int, float], None] | None = None) -> Path:
    """Collect, or resume collecting; returns the file.

    `report(prompts done, share of right answers in the batch)` is called after every batch.
    Raises ConfigError if the file was collected with other settings, or is being written by another process.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("collect runs as one process: give each its own `seed` and `output` instead")
    model = loading.load(config.model, device=config.device, dtype=config.dtype)
    method = load_method(config.method) if isinstance(config.method, str) else Method.from_dict(config.method)
    if method.confidence_cluster or method.token_cluster or method.temporal:
        raise ConfigError("collect: the method must not have R2-dLLM's rules: they would change the text that is judged")
    rules = load_method("r2-dllm", **(config.rules or {}))
    if not (rules.confidence_cluster and rules.token_cluster and rules.temporal):
        raise ConfigError("collect: rules must not turn a rule off, because the triggers of all three are counted")
    path = Path(config.output)
    provenance = {
        **{name: value for name, value in asdict(config).items() if name not in ("output", "limit", "batch", "device")},
        "method": method.to_dict(),
        "rules": rules.to_dict(),
        "weights": loading.fingerprint(loading.locate(config.model)),
    }
    with Journal(path, provenance, "collected") as journal:
        done = sum(1 for _ in journal)
        todo = itertools.islice(enumerate(sources(config)), done, config.limit)
        while chunk := list(itertools.islice(todo, config.batch)):
            rows = _answer(model, method, rules, config, chunk)
            journal.append(rows)
            done += len(rows)
            if report is not None:
                every = [candidate["right"] for row in rows for candidate in row["candidates"]]
                report(done, sum(every) / len(every))
    return path


def _answer(
    model: Denoiser, method: Method, rules: Method, config: CollectConfig, chunk: list[tuple[int, Prompt]]
) -> list[dict[str, Any]]:
    """The lines of some prompts, all their candidates decoded as one batch."""
    count = config.candidates
    texts = [prompt.text for _, prompt in chunk for _ in range(count)]
    seeds = [(config.seed * 1_000_003 + number) * count + choice for number, _ in chunk for choice in range(count)]
    ends = model.spec.eos_ids + model.spec.turn_ids
    recorder = Recorder(rules, prompts=len(texts), mask_id=model.spec.mask_id, ends=ends)
    answers = generate(
        model,
        texts,
        method=method,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        seed=seeds,
        observer=recorder,
    )
    rows = []
    for place, (number, prompt) in enumerate(chunk):
        part = slice(place * count, (place + 1) * count)
        said = [answer.text for answer in answers[part]]
        right = [prompt.problem.verify(text) for text in said] if prompt.problem else verdicts(said, prompt.key)
        rows.append(
            {
                "id": number,
                "task": prompt.problem.task if prompt.problem else None,
                "prompt": prompt.text,
                "key": prompt.key,
                "candidates": [
                    {
                        "text": answer.text,
                        "token_ids": _ended(answer, model.spec),
                        "seed": seed,
                        # An answer without an EOS would teach the model not to end.
                        "right": verdict and answer.finish_reason == "stop",
                        "tokens": answer.tokens,
                        "forwards": answer.forwards,
                        "triggers": triggers.to_dict(),
                    }
                    for answer, seed, verdict, triggers in zip(
                        answers[part], seeds[part], right, recorder.triggers[part], strict=True
                    )
                ],
            }
        )
    return rows


def _ended(answer: Completion, spec: ModelSpec) -> list[int]:
    """The ids that the model wrote before the EOS, with the end of the turn if it has one."""
    following = answer.token_ids[answer.tokens : answer.tokens + 1]
    return answer.token_ids[: answer.tokens] + [token for token in following if token in spec.turn_ids]
