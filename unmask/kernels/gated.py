"""The gate of a feed-forward part (SwiGLU, arXiv 2002.05202). Shapes: N rows, F hidden channels."""

from torch import Tensor
from torch.nn.functional import silu

from unmask.kernels import accelerated


def silu_times(gate_NF: Tensor, up_NF: Tensor) -> Tensor:
    """silu(gate) * up, [N, F].

    >>> import torch
    >>> silu_times(torch.tensor([[0.0, 1.0]]), torch.tensor([[5.0, 2.0]]))
    tensor([[0.0000, 1.4621]])
    """
    if accelerated(gate_NF, up_NF):
        from unmask.kernels.gpu import gated as gpu

        return gpu.silu_times(gate_NF, up_NF)
    return silu(gate_NF) * up_NF
