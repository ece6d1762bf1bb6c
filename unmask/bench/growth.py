"""How the time of a replayed decode grows with the batch, the prompt and the answer, one at a time."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch

from unmask.bench.replays import decode, proportional
from unmask.bench.shapes import release
from unmask.bench.workload import Load, Report, shaped


def growth(device: torch.device, load: Load, report: Report) -> Iterator[dict[str, Any]]:
    """One row per value of each axis; the other two sizes stay at the load's start."""
    shape = load.shapes[0]
    report(f"making {shape}")
    model = shaped(shape, device, load.dtype)
    for axis, values in load.growth.items():
        for value in values:
            sizes = {**load.start, axis: value}
            report(f"{shape}: " + ", ".join(f"{name} {size}" for name, size in sizes.items()))
            method = proportional(model, sizes["answer"])
            row = {"what": axis, "model": shape, "forwards": method.forwards} | sizes
            try:
                timing = decode(model, method, load, **sizes)
            except torch.OutOfMemoryError:
                yield {**row, "what": "out of memory"}
                continue
            yield row | {"tokens_per_second": sizes["batch"] * sizes["answer"] / timing.seconds} | asdict(timing)
    del model
    release(device)
