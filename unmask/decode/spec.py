"""Facts about a model that decoding needs. Plain values: no network, no tensors."""

from dataclasses import dataclass


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
        block: the attention pattern. None is full attention; B is block-causal on the grid of blocks of B tokens from
            position 0: a query at position q sees the key at k iff k // B <= q // B.
    """

    mask_id: int
    eos_ids: tuple[int, ...]
    vocab_size: int
    max_length: int
    lookbehind: int = 0
    turn_ids: tuple[int, ...] = ()
    block: int | None = None
