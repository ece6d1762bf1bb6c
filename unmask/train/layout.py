"""A row as a block-causal model sees it in training: its noisy and its clean copy side by side, in one forward.

Every block is then predicted as in decoding, masked in part after clean earlier blocks, and all blocks at once: the
training of block diffusion (arXiv 2503.09573), which SDAR, LLaDA2 and Fast-dLLM v2 use.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Layout(NamedTuple):
    """Tokens [B, Q] of both copies, their positions [Q] in the row, and the keys that each query sees, bool [Q, Q]."""

    tokens_BQ: Tensor
    positions_Q: Tensor
    mask_QQ: Tensor


def noisy_and_clean(noisy_BT: Tensor, clean_BT: Tensor, block: int, first: int = 0, begin_T: Tensor | None = None) -> Layout:
    """The noisy tokens from position `first` on, then the clean ones of all blocks but the last, which no block sees.

    A noisy query sees the noisy keys of its block and the clean keys of the blocks before it; a clean query sees the
    clean keys of its block and of those before it. Blocks are counted from position 0; `first` is the start of a block.
    Where several blocks are decoded at once, `begin_T` says for each position where its chain of blocks begins, and a
    query sees the noisy keys from there on (MultiTF's group mask).

    >>> noisy, clean = torch.tensor([[5, 6, 9, 9]]), torch.tensor([[5, 6, 7, 8]])
    >>> layout = noisy_and_clean(noisy, clean, block=2, first=2)
    >>> layout.tokens_BQ.tolist(), layout.positions_Q.tolist()
    ([[9, 9, 5, 6]], [2, 3, 0, 1])
    >>> layout.mask_QQ.int().tolist()
    [[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]]
    >>> noisy_and_clean(noisy, clean, block=1, begin_T=torch.tensor([0, 1, 1, 3])).mask_QQ[:4].int().tolist()
    [[1, 0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 1, 0, 0], [0, 1, 1, 0, 1, 0, 0], [0, 0, 0, 1, 1, 1, 1]]
    """
    length = clean_BT.shape[1]
    last = (length - 1) // block * block
    places_T = torch.arange(length, device=clean_BT.device)
    if begin_T is None:
        begin_T = places_T // block * block
    positions_Q = torch.cat((places_T[first:], places_T[:last]))
    begin_Q1 = begin_T[positions_Q][:, None].clamp(min=first)
    noisy_Q = torch.arange(len(positions_Q), device=clean_BT.device) < length - first
    causal_QQ = positions_Q // block <= positions_Q[:, None] // block
    seen_clean_QQ = ~noisy_Q & torch.where(noisy_Q[:, None], positions_Q < begin_Q1, causal_QQ)
    seen_noisy_QQ = noisy_Q & noisy_Q[:, None] & causal_QQ & (positions_Q >= begin_Q1)
    return Layout(torch.cat((noisy_BT[:, first:], clean_BT[:, :last]), dim=1), positions_Q, seen_clean_QQ | seen_noisy_QQ)
