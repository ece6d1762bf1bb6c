"""What decoding must know of a model, as plain facts: no network, no tokenizer."""

from dataclasses import dataclass
from typing import Literal

# How the keys and values of a block-causal model's finished blocks become final: in the first forward of the next block, or
# in forwards of their own, of one block each where it is "one by one".
Keeping = Literal["along", "own", "one by one"]


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Facts about a checkpoint that decoding needs.

    Attributes:
        mask_id: the token that stands for "not written yet".
        eos_ids: the tokens that end an answer; the first is the filler behind it.
        vocab_size: rows of the output, padding rows included.
        max_length: most tokens of prompt and answer together.
        lookbehind: rows before a window that a forward must query so that the window's first token is predicted by its
            proper row: 0 for LLaDA (row i predicts token i), 1 for Dream (row i - 1 predicts token i).
        turn_ids: the tokens that end a chat turn, if the tokenizer has any; an answer ends there too, though the published
            decoders only look for EOS.
        block: the attention pattern. None: every token sees every token. B: block-causal over blocks of B tokens counted
            from position 0; a query at position q sees a key at position k if and only if k // B <= q // B.
        marks: the ids of DELETE and SPLIT, which a model may predict where a token is to go or to make place for another.
        only_block: whether the network itself depends on B, so that it runs with no other.

    >>> ModelSpec(mask_id=3, eos_ids=(2,), vocab_size=4, max_length=64).block is None
    True
    """

    mask_id: int
    eos_ids: tuple[int, ...]
    vocab_size: int
    max_length: int
    lookbehind: int = 0
    turn_ids: tuple[int, ...] = ()
    block: int | None = None
    only_block: bool = False
    marks: tuple[int, ...] = ()
