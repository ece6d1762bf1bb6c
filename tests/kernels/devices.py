"""Where kernels run in tests: in Triton's interpreter, and on the GPU where there is one.

The interpreter is chosen when triton is imported, so it runs in a separate process.
"""

import functools
import importlib
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch

DEVICES = ["interpreter", *(["cuda"] if torch.cuda.is_available() else [])]


def kernel(device: str, seam: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel of a seam on this device, as a function of CPU tensors that returns CPU tensors."""
    return functools.partial(_interpreted if device == "interpreter" else _on_gpu, seam)


def _on_gpu(seam: Callable[..., Any], *args: Any, **options: Any) -> Any:
    found = seam(*(x.cuda() if isinstance(x, torch.Tensor) else x for x in args), **options)
    return found.cpu() if isinstance(found, torch.Tensor) else type(found)(*(x.cpu() for x in found))


def _interpreted(seam: Callable[..., Any], *args: Any, **options: Any) -> Any:
    return _interpreter().submit(_call, seam.__module__.split(".")[-1], seam.__name__, args, options).result()


@functools.cache
def _interpreter() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _interpret)


def _interpret() -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    torch.set_num_threads(1)


def _call(module: str, name: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return getattr(importlib.import_module(f"unmask.kernels.gpu.{module}"), name)(*args, **options)
