"""Whether a model fits into the memory that is free here, and the refusal of one that cannot, before it is fetched or loaded.

models/memory.py says what it needs. What is free on a machine is the least of what the kernel counts as available, what
the process's control groups leave it, and its own limits (`ulimit -v`, `ulimit -d`); on a GPU, what the driver says.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from unmask.errors import ModelError
from unmask.models import memory
from unmask.models.packed import packable
from unmask.models.shape import Shape
from unmask.models.shelf import shelf

ANY_SIZE = "UNMASK_ANY_SIZE"  # the environment variable that turns the refusal off
TYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SHORT = 512  # tokens of the row that must fit for a model to be loaded
_NONE = 2**60  # where a limit says that there is none


def free(device: torch.device, *, proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that this process may still take on a device; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    found = [*_available(proc), *_left_by_groups(proc, groups), *_left_by_limits(proc)]
    return max(0, min(found)) if found else None


def _available(proc: Path) -> Iterator[int]:
    """What may be taken without swapping; of a system without /proc, all that there is."""
    try:
        lines = dict(line.split(":") for line in (proc / "meminfo").read_text().splitlines())
        yield int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
            yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _left_by_groups(proc: Path, groups: Path) -> Iterator[int]:
    """What each control group around the process leaves it: version 2, or the memory controller of version 1."""
    try:
        lines = [line.split(":", 2) for line in (proc / "self" / "cgroup").read_text().splitlines()]
    except OSError:
        return
    for _, controllers, place in lines:
        if controllers in ("", "memory"):
            root, old = (groups, False) if controllers == "" else (groups / "memory", True)
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if old else ("memory.max", "memory.current")
            inside = root / place.lstrip("/")
            # A container may see its own group as the root, wherever the line says that it is.
            for group in {inside, *inside.parents, root}:
                if group == root or root in group.parents:
                    yield from _left_by(group, *names)


def _left_by(group: Path, limit: str, usage: str) -> Iterator[int]:
    """The limit less what is used; cached files are used too, but go where memory is wanted."""
    try:
        most, used = int((group / limit).read_text()), int((group / usage).read_text())
        lines = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # "max" is no number
        return
    if most < _NONE:
        yield most - used + int(lines.get("total_inactive_file", lines.get("inactive_file", 0)))


def _left_by_limits(proc: Path) -> Iterator[int]:
    try:
        import resource  # missing on Windows

        status = dict(line.split(":", 1) for line in (proc / "self" / "status").read_text().splitlines())
        for limit, size in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
            most = resource.getrlimit(limit)[0]
            if most != resource.RLIM_INFINITY:
                yield most - int(status[size].split()[0]) * 1024
    except (ImportError, OSError, KeyError):
        return


def laid_out(device: torch.device, kind: str) -> bool:
    """Whether plain weights of that type are packed there before the first decode."""
    return kind in TYPES and packable(device, TYPES[kind])


def require_room(
    shape: Shape, *, name: str, kind: str, device: torch.device, rest: str = "bf16", shares: int = 1, left: int | None = None
) -> None:
    """Raises ModelError, which says what would fit and how to go on all the same, where a model cannot be loaded and answer.

    Args:
        kind, rest: as of `memory.weights`.
        shares: processes that hold the model together.
        left: bytes that are free; None: as the system says.
    """
    left = free(device) if left is None else left
    if left is None or os.environ.get(ANY_SIZE):
        return
    packed = laid_out(device, kind)
    needed = memory.need(shape, kind=kind, rest=rest, tokens=SHORT, packed=packed).total // shares
    if needed <= left:
        return
    where = "GPU memory" if device.type == "cuda" else "memory"
    raise ModelError(
        f"{name} needs {gigabytes(needed)} of {where} as {kind} and {gigabytes(left)} are free here: "
        f"{_remedy(shape, kind, rest, left * shares)}; {ANY_SIZE}=1 in the environment loads it all the same"
    )


def _remedy(shape: Shape, kind: str, rest: str, left: int) -> str:
    """What fits: the same model in a smaller type, and the largest smaller one of the shelf in the same type."""
    sizes = {one: memory.need(shape, kind=one, rest=rest, tokens=SHORT).total for one in ("int8", "int4")}
    smaller = kind in memory.SIZES or kind == "fp8"
    fitting = next((one for one, size in sizes.items() if smaller and size <= left), None)
    shapes = {known.name: known.shape for known in shelf().values() if known.shape is not None}
    found = {name: memory.need(other, kind=kind, rest=rest, tokens=SHORT).total for name, other in shapes.items()}
    best = max((name for name in found if found[name] <= left), key=found.__getitem__, default=None)
    other = "unmask-tiny" if best is None else f"{best} ({gigabytes(found[best])})"
    same = f'weights="{fitting}" (--weights {fitting}) needs {gigabytes(sizes[fitting])}' if fitting else "no smaller type fits"
    return f"{same}, and of smaller models {other} fits"


def gigabytes(size: int) -> str:
    """A size in words.

    >>> gigabytes(17_400_000_000), gigabytes(42_000_000)
    ('17.4 GB', '42 MB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
