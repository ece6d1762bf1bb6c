"""What the rest of the house knows about a model."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Facts about a checkpoint that decoding needs.

    `lookbehind` is how many rows before a window a forward must query so that the window's first token is predicted by
    its proper row: 0 for LLaDA (row i predicts token i), 1 for Dream (row i - 1 predicts token i).
    """

    mask_id: int
    eos_ids: tuple[int, ...]
    vocab_size: int
    max_length: int
    lookbehind: int = 0
