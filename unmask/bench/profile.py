"""Where the time of one replayed decode goes: the operations or kernels that take most of it."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiler

from unmask.bench.replays import engine_for, proportional, requests
from unmask.bench.workload import Load, Report, shaped

MOST = 25


def profile(device: torch.device, load: Load, report: Report) -> Iterator[dict[str, Any]]:
    """One row per operation, with its own time and share: the kernels' on a GPU, the processor's elsewhere."""
    model = shaped(load.shapes[0], device, load.dtype)
    asked = requests(model, proportional(model, load.start["answer"]), **load.start)
    engine = engine_for(model, asked, rows=1)
    report(f"profiling {model.name}")
    engine.generate(asked)
    on_gpu = device.type == "cuda"
    with profiler(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as found:
        engine.generate(asked)
    field = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    events = sorted(found.key_averages(), key=lambda event: -getattr(event, field))
    total = sum(getattr(event, field) for event in events)
    for event in events[:MOST]:
        seconds = getattr(event, field) / 1e6
        if seconds:
            yield {
                "what": "operation",
                "model": model.name,
                "name": event.key,
                "calls": event.count,
                "seconds": seconds,
                "share": 1e6 * seconds / total,
            }
