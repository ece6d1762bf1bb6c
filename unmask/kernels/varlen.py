"""Attention of whole sequences of any lengths that lie packed, one behind the other: on a GPU one call for all of them.

That call is PyTorch's own, by FlashAttention (Dao, 2023, arXiv 2307.08691), which plans nothing per length. Plain attention
takes one call per length.

Shapes: N packed tokens, H query heads, G key/value heads (H is a multiple of G), D head size, C sequences.
"""

import functools
import importlib
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

ARGUMENTS = ("query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k")


def packed_attention(
    q_NHD: Tensor, k_NGD: Tensor, v_NGD: Tensor, lengths: Sequence[tuple[int, int]], starts_C: Tensor | None
) -> Tensor:
    """Every token attends to all tokens of its own sequence, [N, H, D].

    Args:
        q_NHD, k_NGD, v_NGD: of all sequences.
        lengths: how many sequences there are of a length, and the length, in the order in which they lie.
        starts_C: where each begins and the last one ends, int32 [C + 1]; None: it is not known on the device.

    >>> q, v = torch.zeros(3, 1, 1), torch.tensor([1.0, 3.0, 9.0])[:, None, None]
    >>> packed_attention(q, q, v, [(1, 2), (1, 1)], None).flatten()  # the mean of the first two, and the third
    tensor([2., 2., 9.])
    """
    grouped = q_NHD.shape[1] != k_NGD.shape[1]
    if starts_C is not None and together(q_NHD):
        longest = max(length for _, length in lengths)
        numbers = starts_C, starts_C, longest, longest
        # Never split: a row's numbers would depend on the longest of its batch. Before torch 2.12 there is neither option:
        # key heads may be fewer, and nothing is ever split.
        function = _varlen()
        options = {name: value for name, value in (("enable_gqa", grouped), ("num_splits", 1)) if name in _taken(function)}
        attended_NHD: Tensor = function(q_NHD, k_NGD, v_NGD, *numbers, **options)
        return attended_NHD
    attended, begin = [], 0
    for count, length in lengths:
        mine = slice(begin, begin + count * length)
        q_CHLD, k_CGLD, v_CGLD = (torch.unflatten(x[mine], 0, (count, length)).transpose(1, 2) for x in (q_NHD, k_NGD, v_NGD))
        attended_CHLD = scaled_dot_product_attention(q_CHLD, k_CGLD, v_CGLD, enable_gqa=grouped)
        attended.append(attended_CHLD.transpose(1, 2).flatten(0, 1))
        begin = mine.stop
    return attended[0] if len(attended) == 1 else torch.cat(attended)


def together(x: Tensor) -> bool:
    """Whether one call takes such queries: 16 bits, on a card that FlashAttention knows, in a torch that has it.

    The meta device stands for such a card.

    >>> together(torch.zeros(1))
    False
    """
    if x.dtype not in (torch.float16, torch.bfloat16) or x.device.type not in ("cuda", "meta") or _varlen() is None:
        return False
    return x.is_meta or (torch.version.hip is None and torch.cuda.get_device_capability(x.device) >= (8, 0))


@functools.cache
def _varlen() -> Any:
    """Torch's function, if it is there and takes what we give it."""
    try:
        function = importlib.import_module("torch.nn.attention.varlen").varlen_attn
    except (ModuleNotFoundError, AttributeError):
        return None
    return function if _taken(function)[: len(ARGUMENTS)] == ARGUMENTS else None


@functools.cache
def _taken(function: Any) -> tuple[str, ...]:
    """The names of what it takes."""
    return tuple(inspect.signature(function).parameters)
