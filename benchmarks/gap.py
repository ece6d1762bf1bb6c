"""The host's time between two launches: what a GPU would wait for, measured on a CPU with steps that do nothing.

    python -m benchmarks.gap            # 1, 16 and 64 rows that take a step together, and as many that do not

Captures are stubs: a replay returns at once and leaves every number as it was, so that what is timed is the host's work alone,
from the moment when a step's results are there to the launch of the next one. Together: all rows go on in their blocks.
"""

import statistics
import time
from typing import Any

import torch

from unmask.bench.replays import replay
from unmask.engine import graphs
from unmask.engine.engine import Engine, Limits
from unmask.engine.request import Request
from unmask.models.denoiser import Denoiser
from unmask.models.toy import toy

ANSWER, BLOCK = 64, 32
STEPS = 200


def gaps(rows: int) -> tuple[float, float]:
    """Median seconds from results to launch of rows that go on, launched again, and of the same launched from their states."""
    engine = Engine(toy("llada", seed=5), Limits(rows=rows, tokens=100 * rows), ahead=True)
    method = replay(2 * BLOCK, cache="dual")  # one token per step: the last results stay true for long
    for number in range(rows):
        engine.submit(Request(prompt=(1, 2, 3), method=method, max_new_tokens=ANSWER, seed=number))
    for _ in range(6):  # refreshes, and captures
        engine.step()
    entries, step = engine._pending  # type: ignore[misc]
    runner = engine._runner
    states, watched = [entry.state for entry in entries], [False] * rows
    again = _median(lambda: step.goes_on and runner.again(step))  # type: ignore[union-attr]
    return again, _median(lambda: runner.launch(states, watched))


def _median(call: Any) -> float:
    readings = []
    for _ in range(STEPS):
        began = time.perf_counter()
        call()
        readings.append(time.perf_counter() - began)
    return statistics.median(readings)


def main() -> None:
    """The command line."""
    torch.set_num_threads(1)
    Denoiser.replayable = property(lambda self: True)  # type: ignore[method-assign,assignment]
    graphs.capturing = lambda device: lambda compute: lambda: None
    for rows in (1, 16, 64):
        again, anew = gaps(rows)
        print(f"{rows:3} rows: {1e3 * again:.3f} ms where they go on, {1e3 * anew:.3f} ms from their states", flush=True)


if __name__ == "__main__":
    main()
