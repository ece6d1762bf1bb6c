"""Launches of the kernels, noted instead of made: what a GPU would be given, on a machine that has none."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import triton


class Launch(NamedTuple):
    """One launch.

    Attributes:
        name: the kernel's, with its module's before it: "paged.attend".
        grid: programs.
        given: its arguments by their names.
        options: warps, stages and the like.
        kernel: the compiled or compilable function.
    """

    name: str
    grid: tuple[int, ...]
    given: dict[str, Any]
    options: dict[str, Any]
    kernel: Any

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """The arguments that are tensors."""
        return {name: value for name, value in self.given.items() if isinstance(value, torch.Tensor)}


@contextmanager
def noted(tell: Callable[[Launch], None]) -> Iterator[None]:
    """Within it every launch is told and none is made; what the launchers allocate stays as it is."""

    def run(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        given = dict(zip(kernel.arg_names, args, strict=False))
        given |= {name: options.pop(name) for name in kernel.arg_names if name in options}
        module = kernel.fn.__module__.rpartition(".")[2]
        tell(Launch(f"{module}.{kernel.fn.__name__.strip('_')}", tuple(grid), given, options, kernel))

    made, triton.JITFunction.run = triton.JITFunction.run, run
    try:
        yield
    finally:
        triton.JITFunction.run = made
