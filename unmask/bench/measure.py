"""The clock: whole calls until the device is idle, several sides taking turns so that a busy moment hits all of them.

The same on a CPU and a GPU. Calls that are too short for a clock are repeated until one reading takes milliseconds.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Side = Callable[[], object]
_LEAST = 0.005  # seconds of one reading; a GPU's synchronisation takes some ten microseconds of it


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of one call: the median of `repeats` readings, the fastest and the slowest."""

    seconds: float
    fastest: float
    slowest: float
    repeats: int

    @classmethod
    def of(cls, readings: Sequence[float]) -> "Timing":
        """The median, fastest and slowest of some readings.

        >>> Timing.of([3.0, 1.0, 2.0])
        Timing(seconds=2.0, fastest=1.0, slowest=3.0, repeats=3)
        """
        median = statistics.median(readings)
        return cls(seconds=median, fastest=min(readings), slowest=max(readings), repeats=len(readings))


def rounds(sides: Sequence[Side], device: torch.device, *, repeats: int, seconds: float, warm: bool = False) -> list[Timing]:
    """Time every side once per round: `repeats` rounds, or as many as begin within `seconds`, at least one.

    Sides that are not `warm` are called once before, and short ones are repeated within a reading.
    """
    calls = [1 if warm else _warm(side, device, seconds) for side in sides]
    readings: list[list[float]] = [[] for _ in sides]
    began = time.perf_counter()
    for _ in range(repeats):
        for side, count, mine in zip(sides, calls, readings, strict=True):
            mine.append(_read(side, device, count))
        if time.perf_counter() - began > seconds:
            break
    return [Timing.of(mine) for mine in readings]


def _warm(side: Side, device: torch.device, seconds: float) -> int:
    """Call a side until it is warm; returns how many calls make one reading."""
    first = _read(side, device, 1)
    # The first call may have compiled or allocated; if it was long, one call is warm-up enough.
    usual = first if first > seconds / 4 else _read(side, device, 1)
    return max(1, min(1000, round(_LEAST / usual)))


def _read(side: Side, device: torch.device, calls: int) -> float:
    wait(device)
    began = time.perf_counter()
    for _ in range(calls):
        side()
    wait(device)
    return (time.perf_counter() - began) / calls


def wait(device: torch.device) -> None:
    """Block until the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine(device: torch.device) -> dict[str, Any]:
    """The machine that the figures belong to, as plain data."""
    is_gpu = device.type == "cuda"
    return {
        "device": device.type,
        "name": torch.cuda.get_device_name(device) if is_gpu else _cpu(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "tf32": torch.backends.cuda.matmul.allow_tf32 if is_gpu else None,
    }


def _cpu() -> str:
    """The processor's name, as far as the system gives it."""
    try:
        with open("/proc/cpuinfo") as file:
            named = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        named = []
    if named:
        return f"{named[0]}, {len(named)} cores"
    import platform

    return platform.processor() or platform.machine()
