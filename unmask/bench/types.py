"""bfloat16 beside float32 on a processor that multiplies it: which is faster, and whether the answers stay what they were.

Weights keep their checkpoint's type unless `--dtype` says otherwise; this says whether it should.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch

from unmask import tasks
from unmask.bench.floors import name
from unmask.bench.measure import rounds
from unmask.bench.replays import engine_for, requests
from unmask.bench.workload import Load, Report
from unmask.engine.generate import make_request
from unmask.engine.request import Completion, Request
from unmask.models.denoiser import Denoiser
from unmask.models.loading import load as load_model

BATCH = 16
PAYS = 1.05  # times as fast, from which on another type is worth a flag
PROMPT, ANSWER = 128, 64  # tokens of a random prompt, where the model has no tokenizer, and of every answer


def native() -> bool:
    """Whether the processor itself multiplies bfloat16: by AVX-512 or AMX, or as ARM's do."""
    return any(there for what, there in torch.cpu.get_capabilities().items() if "bf16" in what)


def types(model: Denoiser, load: Load, report: Report) -> Iterator[dict[str, Any]]:
    """Two rows per batch size, float32 first; none where the model is not on a processor or that has no bfloat16."""
    if model.device.type != "cpu" or not native():
        return
    report(f"{model.name}: float32 and bfloat16 in turns")
    models = [load_model(model.name, device="cpu", dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    for rows in (1, BATCH):
        sides = [_Decoding(one, rows=rows, count=load.problems if rows == 1 else BATCH) for one in models]
        timings = rounds(sides, model.device, repeats=load.repeats, seconds=load.seconds)
        for side, timing in zip(sides, timings, strict=True):
            yield {
                "what": "type",
                "dtype": name(side.model.dtype),
                "rows": rows,
                "prompts": len(side.asked),
                "same": sum(a.token_ids == b.token_ids for a, b in zip(sides[0].done, side.done, strict=True)),
                "times": timings[0].seconds / timing.seconds,
                "tokens_per_second": sum(row.tokens for row in side.done) / timing.seconds,
            } | asdict(timing)


class _Decoding:
    """Answers with the model's own method, so many rows at a time; keeps those of the last call."""

    def __init__(self, model: Denoiser, *, rows: int, count: int) -> None:
        self.model, self.rows, self.asked = model, rows, _requests(model, count)
        self.engine = engine_for(model, self.asked, rows=rows)
        self.done: list[Completion] = []

    def __call__(self) -> None:
        starts = range(0, len(self.asked), self.rows)
        self.done = [row for at in starts for row in self.engine.generate(self.asked[at : at + self.rows])]


def _requests(model: Denoiser, count: int) -> list[Request]:
    if model.tokenizer is None:
        made = make_request(model, [0], max_new_tokens=ANSWER)
        return requests(model, made.method, batch=count, prompt=PROMPT, answer=ANSWER)
    problems = itertools.islice(tasks.problems("arithmetic", "test", seed=7), count)
    return [make_request(model, problem.question, max_new_tokens=ANSWER) for problem in problems]


def advice(rows: Sequence[dict[str, Any]]) -> str:
    """Which type to decode in, of the rows of one run.

    >>> fast = {"dtype": "bfloat16", "rows": 1, "prompts": 3, "same": 3, "times": 1.5}
    >>> advice([fast]), advice([fast | {"same": 2}])
    ('--dtype bfloat16: at least 1.5 times as fast, and every answer is the same', 'float32: bfloat16 changes 1 of 3 answers')
    >>> advice([fast, fast | {"times": 0.8}])
    'float32: bfloat16 is 0.8 times as fast at 1 rows'
    """
    short = [row for row in rows if row["dtype"] == "bfloat16"]
    slowest = min(short, key=lambda row: float(row["times"]))
    changed = sum(row["prompts"] - row["same"] for row in short)
    if changed:
        return f"float32: bfloat16 changes {changed} of {sum(row['prompts'] for row in short)} answers"
    if slowest["times"] < PAYS:
        return f"float32: bfloat16 is {slowest['times']:.1f} times as fast at {slowest['rows']} rows"
    return f"--dtype bfloat16: at least {slowest['times']:.1f} times as fast, and every answer is the same"
