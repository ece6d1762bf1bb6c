"""Where kernels run in tests: in Triton's interpreter, and on the GPU where there is one.

The interpreter is chosen when triton is imported, so it runs in a separate process.
"""

import copy
import functools
import importlib
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch

# The interpreter reads products in bf16 as integers and rounds to bf16 by cutting off; fp16 is as long.
HALF = {"interpreter": torch.float16, "cuda": torch.bfloat16}
DEVICES = ["interpreter", *(["cuda"] if torch.cuda.is_available() else [])]


def kernel(device: str, seam: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel of a seam on this device, as a function of CPU tensors that returns CPU tensors."""
    return functools.partial(_interpreted if device == "interpreter" else _on_gpu, seam)


def overwriting(device: str, seam: Callable[..., Any]) -> Callable[..., Any]:
    """The same of a seam that writes into its arguments: returns what it returns, and its arguments afterwards."""

    def run(*args: Any, **options: Any) -> Any:
        # Copies, because processes share the memory of tensors that they hand to each other.
        return kernel(device, seam)(*copy.deepcopy(args), afterwards=True, **options)

    return run


def _on_gpu(seam: Callable[..., Any], *args: Any, afterwards: bool = False, **options: Any) -> Any:
    given = [_moved(x, "cuda") for x in args]
    with torch.no_grad():
        found = seam(*given, **{name: _moved(x, "cuda") for name, x in options.items()})
    return _moved((found, given) if afterwards else found, "cpu")


def _moved(x: Any, device: str) -> Any:
    if isinstance(x, torch.Tensor):
        return x.to(device)
    if isinstance(x, tuple | list):
        parts = [_moved(part, device) for part in x]
        return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)
    return x


def _interpreted(seam: Callable[..., Any], *args: Any, afterwards: bool = False, **options: Any) -> Any:
    called = (seam.__module__.split(".")[-1], seam.__name__, args, options, afterwards)
    return _interpreter().submit(_call, *called).result()


@functools.cache
def _interpreter() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _interpret)


def _interpret() -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    torch.set_num_threads(1)


def _call(module: str, name: str, args: tuple[Any, ...], options: dict[str, Any], afterwards: bool) -> Any:
    found = getattr(importlib.import_module(f"unmask.kernels.gpu.{module}"), name)(*args, **options)
    return (found, list(args)) if afterwards else found
