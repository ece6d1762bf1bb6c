"""One run of the benchmark: the chosen parts, row by row, in one document that is valid at any moment.

    {"benchmark": "unmask", "date", "note", "quick", "finished", "machine": {...}, "model", "parts": {PART: [{"what", ...}]}}

`what` says what a row measured; times are seconds, a median with its fastest and slowest reading and their number. `model`
is the real model of `decode`.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from unmask.bench.decode import decisions
from unmask.bench.floors import floors
from unmask.bench.grammars import constrained
from unmask.bench.growth import growth
from unmask.bench.measure import machine
from unmask.bench.peers import Peers, peers
from unmask.bench.presets import batching, memory, presets
from unmask.bench.profile import profile
from unmask.bench.shapes import shapes
from unmask.bench.types import types
from unmask.bench.workload import Load, Report, workload
from unmask.errors import ConfigError, UnmaskError, unknown
from unmask.models.denoiser import Denoiser

Document = dict[str, Any]
Rows = Iterator[dict[str, Any]]

PARTS = ("floors", "shapes", "decode", "types", "growth", "profile", "peers")
USUAL = PARTS[:5]


def start(
    parts: Sequence[str], device: torch.device, *, model: str, date: str, quick: bool = False, note: str = ""
) -> Document:
    """A document with nothing measured yet. Raises ConfigError for an unknown part."""
    for part in parts:
        if part not in PARTS:
            raise unknown("part", part, PARTS)
    # Shapes are compared with the floors of the same run.
    chosen = [*(["floors"] if "shapes" in parts else []), *(parts or USUAL)]
    return {
        "benchmark": "unmask",
        "date": date,
        "note": note,
        "quick": quick,
        "finished": False,
        "machine": machine(device),
        "model": model,
        "parts": {part: [] for part in chosen},
    }


def run(
    document: Document,
    device: torch.device,
    load_model: Callable[[], Denoiser],
    report: Report,
    asked: Peers | None = None,
) -> list[str]:
    """Measure the document's parts and add their rows to it; returns one line per failure.

    The other parts go on after a failure, because the time of a rented machine is expensive. `load_model` is called if a
    part needs a real model, `report` before every measurement; `asked` is the part "peers".
    """
    load = workload(device, quick=document["quick"])
    for part, rows in document["parts"].items():
        try:
            for row in _measure(part, device, load, load_model, report, document["parts"], asked or Peers()):
                rows.append(row)
        except UnmaskError:
            raise
        except Exception as error:
            line = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            rows.append({"what": "failed", "reason": line})
    parts = document["parts"]
    failures = [f"{part}: {row['reason']}" for part in parts for row in parts[part] if row["what"] == "failed"]
    document["finished"] = not failures
    return failures


def _measure(
    part: str,
    device: torch.device,
    load: Load,
    load_model: Callable[[], Denoiser],
    report: Report,
    so_far: dict[str, list[dict[str, Any]]],
    asked: Peers,
) -> Rows:
    """The rows of one part."""
    match part:
        case "floors":
            yield from floors(device, load, report)
        case "shapes":
            yield from shapes(device, load, report, so_far["floors"])
        case "decode":
            model = load_model()
            yield from decisions(device, load, report)
            yield from constrained(device, load, report)
            yield from presets(model, load, report)
            yield from batching(model, load, report)
            yield from memory(model, load, report)
        case "types":
            yield from types(load_model(), load, report)
        case "growth":
            yield from growth(device, load, report)
        case "profile":
            yield from profile(device, load, report)
        case "peers":
            yield from peers(load_model(), load, report, asked)


MADE = {
    "unmask": ("parts", "`unmask bench -o`"),
    "before_after": ("rows", "benchmarks/before_after.py"),
    "gpu_hour": ("parts", "`make gpu-hour`"),
}


def read(text: str, where: str, benchmark: str = "unmask") -> Document:
    """Parse a document of a benchmark; `where` names its file. Raises ConfigError if it is not one."""
    holds, made = MADE[benchmark]
    try:
        document: Document = json.loads(text)
        known = document["benchmark"] == benchmark and isinstance(document[holds], dict | list)
    except (json.JSONDecodeError, KeyError, TypeError):
        known = False
    if not known:
        raise ConfigError(f"{where}: not a document of {made}")
    return document
