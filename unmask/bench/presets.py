"""What the presets save on a real model, how much of the possible speed-up a batch reaches, and the cost of long answers.

Real decodes of the embedded model's own problems, on that model or any other.
"""

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from unmask import tasks
from unmask.bench.measure import Timing, rounds
from unmask.bench.replays import engine_for, replay, requests, variants
from unmask.bench.shapes import forwards
from unmask.bench.workload import BLOCK, Load, Report
from unmask.engine.generate import make_request
from unmask.engine.own import completed
from unmask.engine.request import Completion, Request
from unmask.methods import TABLE
from unmask.methods import load as load_method
from unmask.models.denoiser import Denoiser
from unmask.models.loading import load as load_model

BATCH = 16
TOKENS = 384  # of prompt and answer together while the number of blocks grows


def presets(model: Denoiser, load: Load, report: Report) -> Iterator[dict[str, Any]]:
    """Every preset over the same problems: one at a time, taking turns with vanilla, without its cache, as a batch of 16.

    Rates are tokens per second, counted to the end of each answer. The published twins, whose caches are the same, are only
    measured one at a time.
    """
    made = tasks.problems("arithmetic", "test", seed=7)
    prompts = [problem.question for problem in itertools.islice(made, load.problems)]
    vanilla = _Answering(model, [make_request(model, prompt, method=load_method("vanilla")) for prompt in prompts], rows=1)
    for name in load.methods or TABLE:
        report(f"{load.problems} problems with {name}")
        method = completed(model, load_method(name))
        asked = [make_request(model, prompt, method=method) for prompt in prompts]
        sides = {"alone": vanilla if name == "vanilla" else _Answering(model, asked, rows=1)}
        if name != "vanilla":
            sides["vanilla"] = vanilla
        if not method.official and (load.whole or name != "vanilla"):
            sides["batch"] = _Answering(model, [asked[place % len(asked)] for place in range(BATCH)], rows=BATCH)
            if method.cache != "none" and load.whole:
                bare = method.change(cache="none")
                sides["no cache"] = _Answering(model, [make_request(model, prompt, method=bare) for prompt in prompts], rows=1)
        timings = rounds(list(sides.values()), model.device, repeats=load.repeats, seconds=load.seconds, warm=True)
        rate = {side: work.tokens / timing.seconds for (side, work), timing in zip(sides.items(), timings, strict=True)}
        yield {
            "what": "preset",
            "method": name,
            "problems": load.problems,
            "forwards": sides["alone"].forwards,
            "refreshes": sides["alone"].refreshes,
            "tokens_per_second": rate["alone"],
            "tokens_per_second_batch": rate.get("batch"),
            "times_vanilla": rate["alone"] / rate.get("vanilla", rate["alone"]),
            "times_no_cache": rate["alone"] / rate["no cache"] if "no cache" in rate else None,
            "times_alone": rate["batch"] / rate["alone"] if "batch" in rate else None,
        } | asdict(timings[0])


class _Answering:
    """Answers requests, `rows` at a time, and keeps the counts of the last call."""

    def __init__(self, model: Denoiser, asked: Sequence[Request], *, rows: int) -> None:
        self.asked, self.rows, self.engine = asked, rows, engine_for(model, asked, rows=rows)
        self.on_grid = model.spec.block is not None
        self.tokens, self.forwards, self.refreshes = 0, 0.0, 0.0
        # One block of each request warms the engine up without decoding everything.
        short = [request.method.block_length or request.max_new_tokens for request in asked[:rows]]
        self.engine.generate([replace(request, max_new_tokens=length) for request, length in zip(asked, short, strict=False)])

    def __call__(self) -> None:
        done: list[Completion] = []
        for begin in range(0, len(self.asked), self.rows):
            done += self.engine.generate(self.asked[begin : begin + self.rows])
        self.tokens = sum(row.tokens for row in done)
        self.forwards = sum(row.forwards for row in done) / len(done)
        blocks = [begun(row, len(request.prompt) if self.on_grid else 0) for request, row in zip(self.asked, done, strict=True)]
        self.refreshes = sum(blocks) / len(blocks)


def begun(row: Completion, prompt: int) -> int:
    """Blocks that an answer has begun, each with a forward that recomputes what it sees: the one of its EOS is the last.

    `prompt` is the number of tokens before the answer on the grid of a block-causal model, whose first block holds the prompt's
    end; of other models it is 0.
    """
    length = row.method.block_length or len(row.token_ids)
    before = prompt % length
    return min(before + row.tokens, before + len(row.token_ids) - 1) // length + 1


def batching(model: Denoiser, load: Load, report: Report) -> Iterator[dict[str, Any]]:
    """The bare network at batch 1 and 16: its rows per second against batch 1, and the decision's share of the time."""
    single: dict[str, tuple[Any, Timing]] = {}
    for batch in (1, BATCH):
        report(f"{model.name}: the bare network at batch {batch}")
        found = forwards(model, load, next(iter(variants(model))), batch=batch, prompt=64, answer=4 * BLOCK)
        single = single or found
        block, decision = found["block forward"][1], found["decision"][1]
        yield {
            "what": "network",
            "batch": batch,
            "times_one": batch * single["block forward"][1].seconds / block.seconds,
            "times_one_refresh": batch * single["refresh"][1].seconds / found["refresh"][1].seconds,
            "refresh": asdict(found["refresh"][1]),
            "decision": asdict(decision),
            "decision_share": decision.seconds / (decision.seconds + block.seconds),
        } | asdict(block)


def memory(model: Denoiser, load: Load, report: Report) -> Iterator[dict[str, Any]]:
    """Peak memory of a decode above the loaded model, for the same number of tokens in more and more blocks."""
    for blocks in (1, 2, 4, 8) if load.whole else (1, 8):
        report(f"memory of {blocks} blocks")
        yield {"what": "memory", "blocks": blocks, "tokens": TOKENS, "peak_bytes": _peak(model, blocks)}


def _peak(model: Denoiser, blocks: int) -> int | None:
    if model.device.type == "cuda":
        before = torch.cuda.memory_allocated(model.device)
        torch.cuda.reset_peak_memory_stats(model.device)
        _answer(model, blocks)
        return torch.cuda.max_memory_allocated(model.device) - before
    if not _RESET.exists():
        return None  # only Linux reports a peak
    # A separate process, whose allocator returns freed memory at once: an allocator that keeps it hides the peak.
    code = f"from unmask.bench.presets import peak_here; print(peak_here({model.name!r}, {blocks}))"
    eager = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=eager)
    return int(made.stdout)


_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def peak_here(name: str, blocks: int) -> int:
    """Bytes by which this process grows at most while it decodes."""
    model = load_model(name, device="cpu")
    _answer(model, 1)  # loads what only a first decode loads
    _RESET.write_text("5")  # the peak from here on: proc(5)
    before = _status("VmRSS")
    _answer(model, blocks)
    return _status("VmHWM") - before


def _answer(model: Denoiser, blocks: int) -> None:
    method = replay(8 * blocks, cache="dual")
    asked = requests(model, method, batch=1, prompt=TOKENS - blocks * BLOCK, answer=blocks * BLOCK)
    engine_for(model, asked, rows=1).generate(asked)


def _status(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field + ":"))
    return 1024 * int(line.split()[1])
