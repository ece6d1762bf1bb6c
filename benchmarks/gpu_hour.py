"""The first hour on a card: everything that no machine without one can say, part by part, each within ten minutes.

    make gpu-hour                                     # all parts; the document lies under benchmarks/results
    python -m benchmarks.gpu_hour steps batch         # some of them
    python -m benchmarks.gpu_hour --dry               # tiny shapes on a CPU, to see that all of it runs

Needs torch >= 2.11, transformers and triton, no network and no installation: it runs from the source tree. Every part is a
process of its own, so that one that fails or hangs costs no other; one that wants something that is not installed is skipped
by name. The document is written after each part.
"""

import argparse
import asyncio
import importlib.util
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch

from unmask.bench import counting
from unmask.bench.floors import floors, rates
from unmask.bench.measure import machine, wait
from unmask.bench.replays import aged, engine_for, queries, replay
from unmask.bench.workload import ANSWER, shaped, workload
from unmask.context.pool import pages_for
from unmask.engine.aio import AsyncEngine
from unmask.engine.engine import Engine, Limits
from unmask.engine.request import Request
from unmask.engine.runner import Runner
from unmask.engine.state import RequestState
from unmask.models.denoiser import Denoiser

HERE = Path(__file__).resolve().parents[1]
LIMIT = 600  # seconds of a part
METHOD = 64  # forwards of an answer of 256 tokens: what R2-dLLM takes, and a block-causal model that writes four per forward

Rows = Iterator[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Size:
    """What differs between a card and a dry run."""

    device: torch.device
    dtype: torch.dtype
    shapes: tuple[str, ...]  # everything is measured of these,
    more: tuple[str, ...]  # and the steps of one row of these too
    prompt: int
    batches: tuple[int, ...]
    lengths: tuple[int, ...]
    sampled: int
    clients: int
    repeats: int


def size(*, dry: bool) -> Size:
    """The usual sizes, or tiny ones."""
    if dry:
        return Size(
            device=torch.device("cpu"),
            dtype=torch.float32,
            shapes=("LLaDA-30M",),
            more=("SDAR-30M",),
            prompt=24,
            batches=(1, 2),
            lengths=(8, 9),
            sampled=2,
            clients=2,
            repeats=1,
        )
    return Size(
        device=torch.device("cuda", 0),
        dtype=torch.bfloat16,
        shapes=("LLaDA-8B", "Dream-7B"),
        more=("SDAR-8B", "LLaDA2-mini"),
        prompt=1000,
        batches=(1, 2, 4, 8, 16, 32, 64),
        lengths=tuple(range(700, 1700, 50)),
        sampled=64,
        clients=64,
        repeats=10,
    )


# --- what is measured -------------------------------------------------------------------------------------------------


def steps(size: Size) -> Rows:
    """A refresh and a block step of one row, as the engine launches them, each against the least that it must move."""
    load = workload(size.device, quick=True)
    limits = rates(list(floors(size.device, load, lambda text: None)), size.dtype)
    for shape in (*size.shapes, *size.more):
        model = shaped(shape, size.device, size.dtype)
        for what, times, rows in _timed(model, size, rows=1):
            asked = [query for row in rows for query in queries(row, 0 if what == "refresh" else 1)]
            floor = limits.floor(counting.forward(model.network.shape, asked, model.dtype.itemsize))
            seconds = statistics.median(times)
            yield {"what": what, "model": shape, "seconds": seconds, "floor": floor, "ratio": seconds / floor}


def capture(size: Size) -> Rows:
    """Seconds of the very first step, which compiles, of one after it, and of capturing all sizes."""
    for shape in size.shapes:
        model = shaped(shape, size.device, size.dtype)
        request = _request(size)
        engine = engine_for(model, [request] * max(size.batches), rows=max(size.batches))
        for what in ("first answer", "second answer"):
            yield {"what": what, "model": shape, "seconds": _seconds(partial(engine.generate, [request]), size.device)}
        yield {"what": "warm-up", "model": shape, "seconds": _seconds(partial(engine.warm_up, [request]), size.device)}


def lengths(size: Size) -> Rows:
    """A refresh at twenty prompt lengths, twice: where the first takes much longer than the second, something is planned."""
    for shape in size.shapes:
        model = shaped(shape, size.device, size.dtype)
        for turn in ("first", "second"):
            for prompt in size.lengths:
                runner, rows = _prepared(model, [_request(size, prompt=prompt)])
                seconds = _seconds(partial(_step, runner, rows), size.device)
                yield {"what": f"{turn} refresh of a length", "model": shape, "prompt": prompt, "seconds": seconds}


def memory(size: Size) -> Rows:
    """Peak memory of steps of many sampled rows, beside weights, keys and values."""
    for shape in size.shapes:
        model = shaped(shape, size.device, size.dtype)
        asked = [_request(size, temperature=0.8, top_p=0.9, top_k=50, seed=seed) for seed in range(size.sampled)]
        before = _allocated(size.device)
        engine = engine_for(model, asked, rows=size.sampled)
        held = _allocated(size.device)
        seconds = _seconds(partial(engine.generate, asked), size.device)
        peak = torch.cuda.max_memory_allocated(size.device) if size.device.type == "cuda" else 0
        yield {
            "what": "sampled rows",
            "model": shape,
            "rows": size.sampled,
            "seconds": seconds,
            "weights_bytes": before,
            "pool_bytes": held - before,
            "peak_beside_bytes": peak - held,
        }


def batch(size: Size) -> Rows:
    """Block steps of 1 to 64 rows: seconds of one, and tokens per second where each writes four."""
    for shape in size.shapes:
        model = shaped(shape, size.device, size.dtype)
        for rows in size.batches:
            for what, times, _ in _timed(model, size, rows=rows):
                seconds = statistics.median(times)
                yield {"what": what, "model": shape, "rows": rows, "seconds": seconds, "per_second": rows / seconds}


def clients(size: Size) -> Rows:
    """Many clients of the asyncio engine, without HTTP: answers per second, and how long the first text takes."""
    for shape in size.shapes:
        model = shaped(shape, size.device, size.dtype)
        rng = random.Random(0)
        asked = [
            _request(size, prompt=rng.randrange(size.prompt // 2, size.prompt), seed=seed) for seed in range(2 * size.clients)
        ]
        engine = engine_for(model, asked, rows=size.clients)
        began = time.perf_counter()
        firsts = sorted(asyncio.run(_served(engine, asked)))
        seconds = time.perf_counter() - began
        yield {
            "what": "clients",
            "model": shape,
            "clients": size.clients,
            "answers": len(asked),
            "seconds": seconds,
            "answers_per_second": len(asked) / seconds,
            "first_text_median": statistics.median(firsts),
            "first_text_p99": firsts[int(0.99 * (len(firsts) - 1))],
            "fallbacks": dict(engine.load.fallbacks),
        }


async def _served(engine: Engine, asked: list[Request]) -> list[float]:
    """Seconds until the first progress of each request; half of them are sent when the others are under way."""
    async with AsyncEngine(engine) as served:

        async def first(request: Request) -> float:
            began, seen = time.perf_counter(), 0.0
            async for progress in served.stream(request):
                seen = seen or time.perf_counter() - began
                del progress
            return seen

        return list(await asyncio.gather(*map(first, asked)))


def _timed(model: Denoiser, size: Size, *, rows: int) -> Iterator[tuple[str, list[float], list[RequestState]]]:
    """Readings of a refresh and of a block step of so many rows, always the same ones: their tokens change, not their cost.

    Of many rows the refresh is left out where one forward of the engine does not hold it.
    """
    runner, states = _prepared(model, [_request(size, seed=seed, model=model) for seed in range(rows)])
    for age, what in enumerate(("refresh", "block step")):
        for row in states:
            aged(row, age)
        if sum(row.tokens for row in states) > Limits().budget(model):
            continue
        step = partial(_step, runner, states)
        for _ in range(3):  # compiles, then captures
            step()
        yield what, [_seconds(step, size.device) for _ in range(size.repeats)], states


def _step(runner: Runner, rows: list[RequestState]) -> None:
    runner.launch(rows, [False] * len(rows))


def _prepared(model: Denoiser, requests: list[Request]) -> tuple[Runner, list[RequestState]]:
    rows = [RequestState.start(request, model) for request in requests]
    runner = Runner(model, pages=sum(pages_for(row.slots) for row in rows), rows=len(rows))
    for row in rows:
        runner.prepare(row)
        runner.allocate(row)
    return runner, rows


def _request(size: Size, *, prompt: int | None = None, model: Denoiser | None = None, **options: Any) -> Request:
    """A replayed answer; `model` where it may be a block-causal one, which has one cache."""
    cache = {} if model is not None and model.spec.block is not None else {"cache": "dual"}
    return Request(prompt=(5,) * (prompt or size.prompt), method=replay(METHOD, **cache), max_new_tokens=ANSWER, **options)


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    wait(device)
    began = time.perf_counter()
    call()
    wait(device)
    return time.perf_counter() - began


def _allocated(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


MEASURED: dict[str, Callable[[Size], Rows]] = {
    "steps": steps,
    "capture": capture,
    "lengths": lengths,
    "memory": memory,
    "batch": batch,
    "clients": clients,
}

# --- what is run ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Run:
    """A part that is a command of its own.

    Attributes:
        command: its arguments; `python` stands for this one.
        modules, programs: what must be installed.
        dry: whether it is part of a dry run.
    """

    command: tuple[str, ...]
    modules: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    dry: bool = False


def _checked(tool: str) -> Run:
    test = ("python", "-m", "pytest", "-q", "tests/kernels", "-k", "cuda")
    return Run(
        command=("compute-sanitizer", "--tool", tool, "--error-exitcode", "1", *test),
        modules=("pytest",),
        programs=("compute-sanitizer",),
    )


def _benched(*parts: str) -> Run:
    return Run(command=("python", "-m", "unmask", "bench", *parts, "--device", "cuda", "--json"), modules=("typer", "rich"))


RUN: dict[str, Run] = {
    # Memory out of bounds, races, reads of what was never written: without the caching allocator, which hides the first.
    **{tool: _checked(tool) for tool in ("memcheck", "racecheck", "initcheck")},
    "kernels": Run(command=("python", "-m", "pytest", "-q", "tests/kernels", "-k", "cuda"), modules=("pytest", "hypothesis")),
    "engine": Run(command=("python", "-m", "pytest", "-q", "tests/engine", "-k", "cuda"), modules=("pytest", "hypothesis")),
    "bench floors": _benched("floors", "profile"),
    "bench shapes": _benched("floors", "shapes", "--quick"),
    "bench growth": _benched("floors", "growth", "--quick"),
    "bench decode": _benched("decode"),
}
SANITIZE, BENCH = ("memcheck", "racecheck", "initcheck"), tuple(name for name in RUN if name.startswith("bench "))


def missing(run: Run) -> list[str]:
    """What a part wants and this machine does not have.

    >>> missing(Run(command=(), modules=("json", "no_such_module")))
    ['no_such_module']
    """
    modules = [module for module in run.modules if importlib.util.find_spec(module) is None]
    return modules + [program for program in run.programs if shutil.which(program) is None]


def part(name: str, *, dry: bool) -> dict[str, Any]:
    """One part: its rows or the end of what it said, how long it took, or why it was skipped or has failed."""
    run = RUN.get(name)
    if run is None:
        command: tuple[str, ...] = ("python", "-m", "benchmarks.gpu_hour", "--part", name, *(["--dry"] if dry else []))
    elif dry and not run.dry:
        return {"part": name, "skipped": "a dry run leaves it out: it needs a card"}
    elif lacking := missing(run):
        return {"part": name, "skipped": f"not installed: {', '.join(lacking)}"}
    else:
        command = run.command
    command = tuple(sys.executable if word == "python" else word for word in command)
    environment = os.environ | {"PYTHONPATH": str(HERE), "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    if name not in SANITIZE:
        del environment["PYTORCH_NO_CUDA_MEMORY_CACHING"]
    began = time.perf_counter()
    try:
        done = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return {"part": name, "failed": f"not done after {LIMIT} s", "seconds": LIMIT}
    made: dict[str, Any] = {"part": name, "seconds": time.perf_counter() - began}
    if done.returncode:
        return made | {"failed": (done.stdout + done.stderr)[-4000:]}
    if run is not None and "--json" not in run.command:
        return made | {"said": done.stdout[-2000:]}
    return made | json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"default: all, {', '.join((*MEASURED, *RUN))}")
    parser.add_argument("--dry", action="store_true", help="tiny shapes on a CPU")
    parser.add_argument("--part", choices=MEASURED, help=argparse.SUPPRESS)  # this one alone, in this process
    parser.add_argument("-o", "--output", type=Path, help="default: benchmarks/results/DATE-gpu-hour.json; dry: nothing")
    given = parser.parse_args()
    if given.part is not None:
        print(json.dumps({"rows": list(MEASURED[given.part](size(dry=given.dry)))}))
        return
    names = [name for asked in given.parts for name in {"sanitize": SANITIZE, "bench": BENCH}.get(asked, (asked,))]
    if unknown := [name for name in names if name not in MEASURED and name not in RUN]:
        parser.error(f"there is no part {unknown[0]!r}: {', '.join((*MEASURED, *RUN))}, sanitize or bench")
    if not given.dry and not torch.cuda.is_available():
        parser.error("there is no GPU here: --dry runs the parts that need none")
    output = given.output or (None if given.dry else HERE / f"benchmarks/results/{date.today()}-gpu-hour.json")
    document: dict[str, Any] = {"benchmark": "gpu_hour", "date": str(date.today()), "note": "", "parts": []}
    document["machine"] = machine(size(dry=given.dry).device)
    for name in names or (*MEASURED, *RUN):
        made = part(name, dry=given.dry)
        document["parts"].append(made)
        print(_line(made), flush=True)
        if output is not None:
            output.write_text(json.dumps(document, indent=1) + "\n")
    if given.dry:
        print(json.dumps(document))
    sys.exit(any("failed" in made for made in document["parts"]))


def _line(made: dict[str, Any]) -> str:
    if "skipped" in made:
        return f"{made['part']}: skipped, {made['skipped']}"
    end = f"failed: {made['failed'].strip().splitlines()[-1]}" if "failed" in made else "done"
    return f"{made['part']}: {end} ({made['seconds']:.0f} s)"


if __name__ == "__main__":
    main()
