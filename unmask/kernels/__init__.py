"""Accelerated kernels: computations that a GPU does faster in one pass than as a series of PyTorch calls.

A kernel is two files of one name. `kernels/NAME.py` holds the seam, the one function that callers use, and the plain
PyTorch that defines the result and runs wherever the kernel does not. `kernels/gpu/NAME.py` holds a function of the same
name and arguments that launches the Triton kernel and returns plain tensors; the seam imports it for the first tensor that
is `accelerated`, so that Triton is not needed before, and it imports nothing from the seam. A new kernel takes these two
files, and a test in tests/kernels that compares them through `devices.py`, which runs every kernel in Triton's interpreter
and on a GPU if there is one. Block sizes depend on shapes alone, lengths are read on the device, and nothing is tuned or
synchronised at run time: a CUDA graph may hold any kernel, and a row's result does not depend on the other rows.

On a GPU: `pytest tests/kernels`, and to find reads and writes out of bounds (then `racecheck`, `initcheck`, `synccheck`)
`PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck python -m pytest tests/kernels -k cuda`.
"""

import torch
from torch import Tensor

from unmask.kernels import choice


def accelerated(x: Tensor, *others: Tensor) -> bool:
    """Whether a kernel handles x: on a GPU that runs it, and not in float64, the precision of the published decoders.

    A tensor of the meta device stands for one on a GPU, so that what would be launched can be counted (bench/audit.py).
    Where the gradient of x or of others is recorded no kernel runs, because none has any.

    >>> accelerated(torch.zeros(1)), accelerated(torch.zeros(1, device="meta"))
    (False, True)
    """
    if x.dtype == torch.float64 or (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *others))):
        return False
    return x.is_meta or (x.is_cuda and choice.runs(x.device, x.dtype))
