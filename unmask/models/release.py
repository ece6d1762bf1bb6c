"""Plain tensors that a network gives up for the form that decodes, and the way back to them."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

_BACK = "_plain_again"  # of a module that has given up its tensors: what makes them again


def release(module: nn.Module, plain: Callable[[], Mapping[str, Tensor]] | None = None) -> None:
    """Give up the plain tensors of a module whose running form has its own: their memory is free at once.

    `plain` makes them again, by their names; None: they are lost.
    """
    for name, tensor in list(module.named_parameters(recurse=False)):
        setattr(module, name, nn.Parameter(torch.empty(tensor.shape, dtype=tensor.dtype, device="meta"), requires_grad=False))
    if plain is not None:
        vars(module)[_BACK] = plain


def restore(network: nn.Module) -> bool:
    """Put back all that was given up and can be made again; whether the network has all its tensors now.

    >>> matrix = nn.Linear(2, 2)
    >>> release(matrix, lambda: {"weight": torch.eye(2), "bias": torch.zeros(2)})
    >>> matrix.weight.is_meta, restore(matrix), matrix.weight.is_meta
    (True, True, False)
    """
    for module in network.modules():
        plain = vars(module).pop(_BACK, None)
        for name, tensor in ({} if plain is None else plain()).items():
            setattr(module, name, nn.Parameter(tensor, requires_grad=False))
    return not any(tensor.is_meta for tensor in network.parameters())
