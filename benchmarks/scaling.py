"""How much batching gains on this machine: bare block forwards of a network, many rows against one.

    python benchmarks/scaling.py --model unmask-tiny

Without engine and rules, so that the result is what processor and memory allow. `load.py` measures it beside the server.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

import unmask
from unmask.bench.replays import queries, replay
from unmask.bench.shapes import mid_answer
from unmask.context.plan import assemble
from unmask.models.denoiser import Denoiser

ROWS = (1, 8, 16, 32, 64)
PROMPT, ANSWER = 64, 96  # tokens of a row; the second of its three blocks is decoded, with dual cache


class Forwards:
    """One block forward at every batch size; each `measure` adds readings, the sizes taking turns."""

    def __init__(self, model: Denoiser) -> None:
        self.model = model
        self.seconds: dict[int, list[float]] = {rows: [] for rows in ROWS}
        method = replay(ANSWER // 4, cache="dual")
        rows, self._pool = mid_answer(model, method, batch=max(ROWS), prompt=PROMPT, answer=ANSWER)
        later = [queries(row, 1)[0] for row in rows]  # the second forward of a block: the first has filled the cache
        self._plans = {number: assemble(later[:number], device=model.device) for number in ROWS}

    @torch.inference_mode()
    def measure(self, seconds: float) -> None:
        """Time forwards for about this many seconds."""
        for plan in self._plans.values():
            self.model.forward(*plan, self._pool)  # warm
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for rows, plan in self._plans.items():
                began = time.perf_counter()
                self.model.forward(*plan, self._pool)[0, 0].item()  # waits for a GPU
                self.seconds[rows].append(time.perf_counter() - began)

    def summary(self) -> list[dict[str, Any]]:
        """The median seconds per forward, and rows per second as a multiple of those of one row (`times`)."""
        medians = {rows: statistics.median(readings) for rows, readings in self.seconds.items() if readings}
        return [
            {"rows": rows, "seconds": median, "times": rows * medians[1] / median, "readings": len(self.seconds[rows])}
            for rows, median in medians.items()
        ]


def in_words(readings: Sequence[dict[str, Any]]) -> str:
    """The readings in one line."""
    return ", ".join(f"{batch['rows']} rows {batch['times']:.2f}" for batch in readings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="unmask-tiny")
    parser.add_argument("--seconds", type=float, default=10)
    given = parser.parse_args()
    forwards = Forwards(unmask.load(given.model))
    forwards.measure(given.seconds)
    print(f"rows per second of bare block forwards, as a multiple of one row's: {in_words(forwards.summary())}")


if __name__ == "__main__":
    main()
