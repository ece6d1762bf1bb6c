"""A dataset answered offline on Ray: one line of output for each line of input, and a kill loses only what was running.

    unmask batch IN.jsonl OUT.jsonl --model GSAI-ML/LLaDA-8B-Instruct

Ray Data streams the positions of the lines that have no answer yet to a pool of workers. Each worker reads its
lines, has one model and one engine, and lets several blocks of lines share the engine's forwards, so that the last
lines of a block do not run alone. Answers are on disk (ledger.py) as soon as their block is done. All machines
must see the input and the model under the same path.
"""

import asyncio
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from unmask.engine.aio import AsyncEngine
from unmask.engine.engine import Engine, Limits
from unmask.errors import ConfigError, UnmaskError, require
from unmask.models import quantise
from unmask.models.loading import described, folders, identity, load, shards, tokenizer
from unmask.serve.cluster import cluster
from unmask.serve.ledger import Ledger, Totals
from unmask.serve.lines import Job, Source, answer, label, parse, refusal, request, scan

BATCH = 32
# Blocks of a worker that are answered at once: one fills the rows that the other leaves as it ends.
_OVERLAP = 2
_TOKENS = 8192  # query tokens of a forward


class Share(NamedTuple):
    """The workers, and what each of them gets."""

    workers: int
    cpus: int
    gpus: int


Report = Callable[[int, int], None]


def run(
    job: Job,
    source: Path,
    output: Path,
    *,
    device: str = "auto",
    workers: int | None = None,
    batch: int = BATCH,
    address: str = "local",
    report: Report = lambda done, lines: None,
) -> Totals:
    """Answer every line of `source`, or go on where an earlier run was stopped; returns what `output` holds.

    Args:
        job: how to answer, and with what.
        device: "auto" (GPUs if the cluster has any), "cpu" or "cuda".
        workers: models that answer side by side; None: one per GPU, or one.
        batch: lines that a worker decodes at once.
        address: of a Ray cluster; "local" starts one on this machine, for this run.
        report: called as report(lines with an answer, all lines) at the start and whenever some are done.

    Raises:
        ConfigError: a file or an option is wrong, or `output` is from other settings. Lines that cannot be answered raise
            nothing: the error stands in their place.
    """
    require("a batch", "ray", "scale")
    quantise.check(job.weights)
    folder, _ = folders(job.model, job.adapter)
    model = described(job.model)
    job.check(model)  # mistakes are found before Ray starts
    replace(model, tokenizer=tokenizer(folder, model.network.tokenizers)).asked(add_bos=job.add_bos)
    shards(folder)
    lines = scan(source, job.keep)
    head = model.head and model.head.digest
    provenance = {
        "input": lines.digest,
        "weights": identity(job.model, job.adapter, job.weights),
        "head": head,
        **job.to_dict(),
    }
    if chosen := model.own.provenance():  # a line may name any preset
        provenance["own"] = chosen
    with Ledger(output, provenance, len(lines)) as ledger:
        missing = ledger.missing
        done = len(lines) - len(missing)
        report(done, len(lines))
        if missing:
            with _ray(address) as ray:
                share = _share(ray.cluster_resources(), device, workers, local=address == "local")
                for answers in _answers(ray, job, lines, missing, share, batch):
                    ledger.append(answers)
                    done += len(answers)
                    report(done, len(lines))
        return ledger.finish()


class Answerer:
    """A worker: it takes positions of lines and returns their answers. It does not know Ray."""

    def __init__(self, job: Job, source: Path, device: str, rows: int) -> None:
        self._job, self._source = job, source
        self._model = load(
            job.model,
            device=device,
            dtype=job.dtype,
            weights=job.weights,
            adapter=job.adapter,
            chat_template=job.chat_template,
            add_bos=job.add_bos,
        )
        # Forwards may be long: no other client waits for them.
        self._engine = AsyncEngine(Engine(self._model, Limits(rows=rows, tokens=_TOKENS, refresh=_TOKENS)))

    async def __call__(self, block: Mapping[str, Any]) -> dict[str, Any]:
        """The block's answers: columns `line` and `answer`, one JSON object each."""
        places = zip(block["line"].tolist(), block["begin"].tolist(), block["end"].tolist(), strict=True)
        with self._source.open("rb") as file:
            lines = [(number, _read(file, begin, end)) for number, begin, end in places]
        answers = await asyncio.gather(*(self._answer(number, line) for number, line in lines))
        return {"line": block["line"], "answer": [json.dumps(answer) for answer in answers]}

    async def _answer(self, number: int, line: bytes) -> dict[str, Any]:
        row: dict[str, Any] = {}
        try:
            row = parse(line)
            # In a thread: a grammar may take seconds to compile, in which other lines go on.
            made = await asyncio.to_thread(request, self._model, row, self._job)
            said = answer(await self._engine.complete(made), steps=self._job.steps)
        except UnmaskError as error:
            said = refusal(error)
        return label(number, row, self._job.keep) | said


def _read(file: BinaryIO, begin: int, end: int) -> bytes:
    file.seek(begin)
    return file.read(end - begin)


# --- Ray ----------------------------------------------------------------------------------------------------------


def _answers(
    ray: Any, job: Job, source: Source, missing: Sequence[int], share: Share, batch: int
) -> Iterator[list[tuple[int, str]]]:
    """Numbers and answers of the missing lines, a block at a time, whichever is done first."""
    import numpy as np
    import pyarrow

    numbers, starts = np.asarray(missing), np.asarray(source.starts)
    size = min(batch, -(-len(numbers) // share.workers))
    parts = [numbers[at : at + size] for at in range(0, len(numbers), size)]
    places = [pyarrow.table({"line": part, "begin": starts[part], "end": starts[part + 1]}) for part in parts]
    answered = ray.data.from_arrow(places).map_batches(
        Answerer,
        batch_size=None,
        fn_constructor_args=(job, source.path.absolute(), "cuda" if share.gpus else "cpu", batch),
        compute=ray.data.ActorPoolStrategy(size=share.workers, max_concurrent_calls_per_actor=_OVERLAP),
        num_cpus=share.cpus,
        num_gpus=share.gpus,
    )
    for block in answered.iter_batches(batch_size=None):
        yield list(zip(block["line"].tolist(), block["answer"].tolist(), strict=True))


@contextmanager
def _ray(address: str) -> Iterator[Any]:
    """Ray Data, silent. Raises ConfigError where Ray is not available, RuntimeError where a worker fails."""
    with cluster(address) as ray:
        import ray.data as data

        context = data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # where Ray says that a worker has died
            try:
                yield ray
            except ray.exceptions.RayError as error:
                # A worker's traceback is the message of the error here, and ends with what was raised there.
                raise RuntimeError(f"a worker failed: {str(error).strip().splitlines()[-1]}") from error


def _share(resources: Mapping[str, float], device: str, workers: int | None, *, local: bool) -> Share:
    """How many workers there are and what each of them gets: a GPU, or cores.

    On this machine alone the workers share all cores; in a cluster, whose nodes may be small, each takes one.

    >>> _share({"CPU": 16, "GPU": 2}, "auto", None, local=True)
    Share(workers=2, cpus=1, gpus=1)
    >>> _share({"CPU": 16}, "auto", 3, local=True)
    Share(workers=3, cpus=5, gpus=0)
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device {device}: Ray gives each worker its GPU, so write auto, cpu or cuda")
    cores, cards = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    gpu = device == "cuda" or (device == "auto" and cards > 0)
    there, what = (cards, "GPU") if gpu else (cores, "core")
    workers = workers or (max(1, cards) if gpu else 1)
    if workers > there:
        raise ConfigError(f"--workers {workers} need a {what} each, and Ray has {there}: use fewer")
    return Share(workers, 1 if gpu or not local else cores // workers, int(gpu))
