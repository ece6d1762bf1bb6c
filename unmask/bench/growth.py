"""How the time of a replayed decode grows with the batch, the prompt and the answer, one at a time."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch

from unmask.bench.replays import REPLAYED, decode, replay, schedules
from unmask.bench.shapes import release
from unmask.bench.workload import ANSWER, Load, Report, shaped


def growth(device: torch.device, load: Load, report: Report) -> Iterator[dict[str, Any]]:
    """A row for each value of each axis; the others stay where the load puts them.

    Forwards grow with the answer, in the published proportion.
    """
    shape = load.shapes[0]
    report(f"making {shape}")
    model = shaped(shape, device, load.dtype)
    published = next(schedule.forwards for schedule in schedules(model) if schedule.name == REPLAYED)
    for axis, values in load.growth.items():
        for value in values:
            sizes = {**load.start, axis: value}
            report(f"{shape}: " + ", ".join(f"{name} {size}" for name, size in sizes.items()))
            forwards = round(published * sizes["answer"] / ANSWER)
            row = {"what": axis, "model": shape, "forwards": forwards} | sizes
            try:
                timing = decode(model, replay(forwards, cache="dual"), load, **sizes)
            except torch.OutOfMemoryError:
                yield {**row, "what": "out of memory"}
                continue
            yield row | {"tokens_per_second": sizes["batch"] * sizes["answer"] / timing.seconds} | asdict(timing)
    del model
    release(device)
