"""Accelerated kernels: what a GPU does faster in one pass of its own than as a row of PyTorch calls. It knows no model.

A kernel is two files of one name. `kernels/NAME.py` holds the seam, the one function that everybody calls, and the
plain PyTorch that says what it means and runs wherever no kernel does. `kernels/gpu/NAME.py` holds a function of
the same name and arguments that launches the Triton kernel and returns plain tensors; the seam imports it when the
first tensor comes for which `accelerated` holds, so that nothing here needs Triton before, and it imports nothing
of the seam. To add one: the two files, and a test in tests/kernels that compares them through `devices.py`, which
runs every kernel in Triton's interpreter and, where there is one, on the GPU. Block sizes are fixed by shapes
alone, lengths are read on the device, and nothing is tuned or synchronised at run time: a CUDA graph may hold any
kernel, and what a row gets does not depend on the rows beside it.

On a GPU: `pytest tests/kernels`, and for reads and writes out of bounds (then `racecheck`, `initcheck`, `synccheck`)
`PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck python -m pytest tests/kernels -k cuda`.
"""

import torch
from torch import Tensor


def accelerated(x: Tensor) -> bool:
    """Whether a kernel takes this tensor: on a GPU, and not in float64, the precision of the published decoders.

    >>> accelerated(torch.zeros(1))
    False
    """
    return x.is_cuda and x.dtype != torch.float64
