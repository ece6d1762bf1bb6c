"""How the tensors of a checkpoint make up a network's parameters."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn


class Piece(NamedTuple):
    """Some of a checkpoint's tensor, and where it goes.

    Attributes:
        source: the tensor's name.
        shape: the whole tensor's.
        take: what of it is read.
        put: where in the parameter that goes; None: it is the whole parameter.
    """

    source: str
    shape: list[int]
    take: tuple[slice, ...]
    put: tuple[int | slice, ...] | None = None


Layout = Sequence[Piece]  # all that one parameter is made of


def layouts(network: nn.Module, name: str) -> Sequence[Layout]:
    """The ways in which checkpoints hold a parameter, the published one first.

    A module that is not stored as it is has a method `layouts(owner, leaf)` that says how.

    >>> layouts(nn.Sequential(nn.Linear(2, 3, bias=False)), "0.weight")
    [[Piece(source='0.weight', shape=[3, 2], take=(slice(None, None, None), slice(None, None, None)), put=None)]]
    """
    owner, _, leaf = name.rpartition(".")
    module = network.get_submodule(owner)
    own = getattr(module, "layouts", None)
    if own is not None:
        found: Sequence[Layout] = own(owner, leaf)
        return found
    held: Tensor = getattr(module, leaf)
    return [[Piece(name, list(held.shape), (slice(None),) * held.dim())]]
