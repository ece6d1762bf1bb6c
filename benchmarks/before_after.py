"""Another tree and this one: block forwards and whole decodes in turns.

    git worktree add ../before b9a67f4
    python benchmarks/before_after.py ../before -o benchmarks/results/DATE-before-after-cpu.json

Every side, a tree and a type, is a process of its own that loads the same weights; the sides take turns, reading by reading,
and a ratio is made of every turn. Times are processor seconds: what else runs on the machine changes them little. The
networks are unmask-tiny and random ones of LLaDA's layout; the decodes write four tokens per forward with the dual cache,
so that every side takes equal forwards, and their tokens are compared with those of the first side.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import date
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from random_checkpoint import SIZES, write

import unmask
from unmask.models.loading import EMBEDDED, described

HERE = Path(__file__).resolve().parents[1]
PROMPT, ANSWER, BLOCK, PER_FORWARD = 128, 64, 32, 4  # tokens
USUAL = 1e11  # operations per second, to guess what takes long
LEAST = 0.05  # seconds of one reading; shorter calls are repeated

# --- one side, in its own process -------------------------------------------------------------------------------------


def block_forward(model: Any, rows: int) -> Callable[[], None]:
    """A forward of the middle block of so many rows, whose other keys and values are remembered."""
    from unmask.bench.replays import queries, replay
    from unmask.bench.shapes import mid_answer
    from unmask.context.plan import assemble

    method = replay(ANSWER // PER_FORWARD, cache="dual")
    states, pool = mid_answer(model, method, batch=rows, prompt=PROMPT, answer=ANSWER)
    plans = [assemble([query for row in states for query in queries(row, age)], device=model.device) for age in (0, 1)]
    model.forward(*plans[0], pool)
    return lambda: model.forward(*plans[1], pool)


def products(model: Any, rows: int) -> Callable[[], None]:
    """The matrices of a block forward alone, with what is fused into them: what lies between them is the rest."""
    from unmask.models.running import running

    block_forward(model, rows)  # makes the form that decodes
    form, width = running(model.network, model.steps), model.network.shape.width
    x = torch.randn(1, rows * BLOCK, width, dtype=model.dtype, generator=torch.Generator().manual_seed(0))

    def call() -> None:
        for layer in form.layers:
            layer.qkv(x)
            layer.o(x)
            layer.feed_forward(x)
        form.project(x)

    return call


def decode(model: Any, rows: int) -> Callable[[], list[list[int]]]:
    """Whole answers of so many rows, the engine's making included."""
    method = unmask.method("vanilla-official", cache="dual", steps=ANSWER // PER_FORWARD, block_length=BLOCK)
    plain = torch.randint(3, model.spec.vocab_size - 3, (rows, PROMPT), generator=torch.Generator().manual_seed(rows))
    prompts = plain.tolist()
    return lambda: [row.token_ids for row in unmask.generate(model, prompts, method=method, max_new_tokens=ANSWER)]


@torch.inference_mode()
def work(name: str, dtype: str) -> None:
    """Answer lines {"what", "rows"} with one reading each."""
    model = unmask.load(name, dtype=dtype)
    found: dict[tuple[str, int], tuple[Callable[[], Any], int]] = {}
    for line in sys.stdin:
        what, rows = json.loads(line)
        if (what, rows) not in found:
            found.clear()  # what an earlier one remembers is given back
            call = {"block forward": block_forward, "products": products, "decode": decode}[what](model, rows)
            call()
            began = time.perf_counter()
            call()
            found[what, rows] = call, max(1, math.ceil(LEAST / (time.perf_counter() - began)))
        call, calls = found[what, rows]
        began = time.process_time(), time.perf_counter()
        for _ in range(calls):
            made = call()
        row = {"cpu": (time.process_time() - began[0]) / calls, "wall": (time.perf_counter() - began[1]) / calls}
        print(json.dumps(row | {"tokens": made if what == "decode" else None}), flush=True)


# --- all of them ------------------------------------------------------------------------------------------------------


@contextmanager
def side(tree: Path, name: str, dtype: str, threads: int) -> Iterator[Callable[[str, int], dict[str, Any]]]:
    """Start a side; yields what asks it for a reading. Raises SystemExit where it ends instead of answering."""
    settings = os.environ | {
        "PYTHONPATH": f"{tree}:{HERE / 'benchmarks'}",
        "OMP_NUM_THREADS": str(threads),
        "PYTHONSAFEPATH": "1",
    }
    command = [sys.executable, str(Path(__file__).resolve()), str(tree), "--side", name, dtype]
    with subprocess.Popen(command, cwd=tree, env=settings, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask(what: str, rows: int) -> dict[str, Any]:
            print(json.dumps([what, rows]), file=process.stdin, flush=True)
            answer = process.stdout.readline()
            if not answer:
                raise SystemExit(f"{tree}, {name}, {dtype}: ended with exit status {process.wait()}")
            reading: dict[str, Any] = json.loads(answer)
            return reading

        try:
            yield ask
        finally:
            process.kill()


def operations(model: Any, what: str, rows: int) -> int:
    """Floating-point operations of the matrices alone, a multiplication and an addition being two."""
    from unmask.bench.counting import matrices

    shape, forwards = model.network.shape, ANSWER // PER_FORWARD
    blocks = ANSWER // BLOCK
    queried = BLOCK if what != "decode" else (forwards - blocks) * BLOCK + blocks * (PROMPT + ANSWER)
    predicted = BLOCK if what != "decode" else forwards * BLOCK
    return round(rows * 2 * (matrices(shape) * queried + shape.width * shape.vocab * predicted))


def measured(
    asks: Mapping[str, Callable[[str, int], dict[str, Any]]], what: str, rows: int, rounds: int, seconds: float
) -> dict[str, Any]:
    """The sides in turns: medians, and how many times as fast each is as the first, turn by turn."""
    readings: dict[str, list[dict[str, Any]]] = {name: [] for name in asks}
    for ask in asks.values():
        ask(what, rows)
    end = time.perf_counter() + seconds
    for number in range(rounds):
        for name, ask in asks.items():
            readings[name].append(ask(what, rows))
        if number >= 2 and time.perf_counter() > end:
            break
    first = next(iter(readings))
    made: dict[str, Any] = {"rounds": len(readings[first])}
    for name, mine in readings.items():
        times = sorted(base["cpu"] / one["cpu"] for base, one in zip(readings[first], mine, strict=True))
        made[name] = {
            "cpu_seconds": statistics.median(one["cpu"] for one in mine),
            "wall_seconds": statistics.median(one["wall"] for one in mine),
            "times": statistics.median(times),
            "times_least": times[0],
            "times_most": times[-1],
        }
        if what == "decode":
            pairs = zip(readings[first][-1]["tokens"], mine[-1]["tokens"], strict=True)
            made[name]["same"] = sum(a == b for a, b in pairs)
    return made


def compare(given: argparse.Namespace, save: Callable[[dict[str, Any]], None]) -> None:
    """Every network, number of threads, measurement and number of rows; `save` gets each row."""
    trees = {"before": given.before.resolve(), "after": HERE}
    kinds = {f"{tree} {dtype}": (path, dtype) for dtype, (tree, path) in product(given.dtypes, trees.items())}
    for name in given.models:
        with TemporaryDirectory() as place:
            folder = name if name in EMBEDDED else str(write(name, Path(place)))
            model = described(folder)
            for threads in given.threads:
                points = product(given.what, given.rows)
                asked = [(what, rows, operations(model, what, rows)) for what, rows in points]
                with ExitStack() as stack:
                    asks = {
                        kind: stack.enter_context(side(path, folder, dtype, threads)) for kind, (path, dtype) in kinds.items()
                    }
                    for what, rows, flops in asked:
                        if flops / USUAL <= given.longest:
                            row = {"network": name, "threads": threads, "what": what, "rows": rows, "flops": flops}
                            save(row | measured(asks, what, rows, given.rounds, given.seconds))


def show(row: Mapping[str, Any]) -> None:
    """One line per side."""
    for name, found in row.items():
        if isinstance(found, dict):
            times = f"{found['times']:.2f} ({found['times_least']:.2f} to {found['times_most']:.2f})"
            same = f", {found['same']} of {row['rows']} answers the same" if "same" in found else ""
            at = f"{row['network']}, {row['threads']} threads, {row['rows']} rows, {row['what']}"
            print(f"{at}: {name} {1e3 * found['cpu_seconds']:.1f} ms of processor, {times} times{same}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="the other tree: a checkout of the commit to compare with")
    parser.add_argument("--models", nargs="+", default=["unmask-tiny", *SIZES])
    parser.add_argument("--what", nargs="+", default=["block forward", "products", "decode"])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=20, help="after which no further round begins, three at least")
    parser.add_argument("--longest", type=float, default=20, help="leave out what takes longer at 100 GFLOP/s, in seconds")
    parser.add_argument("-o", "--output", type=Path, help="write the document to this file, after every measurement")
    parser.add_argument("--note", default="", help="what a reader should know, such as the commits and other programs that ran")
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        work(*given.side)
        return
    from unmask.bench.measure import machine
    from unmask.files import write_atomically

    rows: list[dict[str, Any]] = []
    about = {
        "benchmark": "before_after",
        "date": date.today().isoformat(),
        "note": given.note,
        "machine": machine(torch.device("cpu")),
        "load": os.getloadavg()[0],
        "rows": rows,
    }

    def save(row: dict[str, Any]) -> None:
        rows.append(row)
        show(row)
        if given.output:
            write_atomically(given.output, lambda place: place.write_text(json.dumps(about, indent=1) + "\n"))

    compare(given, save)


if __name__ == "__main__":
    main()
