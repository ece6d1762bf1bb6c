"""Refreshes of one row by length, replayed in buckets and launched kernel by kernel: milliseconds, and whether they agree.

    python -m benchmarks.buckets LLaDA-8B             # on a card, in under a minute; also SDAR-8B, LLaDA2-mini
    python -m benchmarks.buckets LLaDA-30M --dry      # on a CPU, where nothing is replayed

A refresh is timed from its launch to its results. The two forms compute the same on other shapes: what they say of a window
is compared by the share of equal tokens and the largest difference of a confidence, which 16 bits leave some of.
"""

import argparse
import dataclasses
import statistics
import time

import torch

from unmask.bench.measure import wait
from unmask.bench.workload import ANSWER, shaped
from unmask.context.pool import pages_for
from unmask.engine.graphs import OFTEN
from unmask.engine.request import Request
from unmask.engine.runner import Runner
from unmask.engine.state import RequestState
from unmask.methods import load
from unmask.models.denoiser import Denoiser

LENGTHS = (40, 250, 500, 1000, 1250)  # tokens of a prompt
REPEATS = 5


def refreshed(model: Denoiser, prompt: int) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Median milliseconds of a refresh, and the window's candidates and confidences."""
    method = load("fast-dllm")
    generator = torch.Generator().manual_seed(prompt)
    tokens = torch.randint(1000, (prompt,), generator=generator).tolist()
    row = RequestState.start(Request(prompt=tuple(tokens), method=method, max_new_tokens=ANSWER), model)
    runner = Runner(model, pages=pages_for(row.slots), rows=1)
    runner.prepare(row)
    runner.allocate(row)
    times = []
    for number in range(OFTEN + 1 + REPEATS):
        row.opened = False
        wait(model.device)
        began = time.perf_counter()
        step = runner.launch([row], [True])
        wait(model.device)
        times.append(1e3 * (time.perf_counter() - began))
        if number <= OFTEN:
            times.clear()  # compiled, and captured
    (key, _), *_ = step.parts
    evidence = key.evidence(step.numbers.view(key.rows, -1)[0])
    return statistics.median(times), torch.tensor(evidence.candidate), torch.tensor(evidence.confidence)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape")
    parser.add_argument("--dry", action="store_true")
    given = parser.parse_args()
    device, dtype = (torch.device("cpu"), torch.float32) if given.dry else (torch.device("cuda", 0), torch.bfloat16)
    model = shaped(given.shape, device, dtype)
    for prompt in LENGTHS:
        replayed = refreshed(model, prompt)
        launched = refreshed(dataclasses.replace(model, graphs=False), prompt)
        equal = (replayed[1] == launched[1]).float().mean().item()
        apart = (replayed[2] - launched[2]).abs().max().item()
        print(
            f"{given.shape}, prompt {prompt:5}: {replayed[0]:7.2f} ms replayed, {launched[0]:7.2f} ms launched; "
            f"{equal:.0%} of tokens equal, confidences within {apart:.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
