"""Sizes of a network, whatever its family calls them."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The numbers that the families' config files hold under different names; always the whole network's.

    Attributes:
        width: of the states between layers.
        head_size: channels of a head; `heads * head_size` need not be the width.
        rotary: how many of them, from the first on, are rotated by position; the others are left as they are.
        mlp: hidden channels of a dense feed-forward part.
        theta: base of the rotary frequencies.
        eps: of the norms.
        qkv_bias, bias: whether the three input projections, and all other matrices, have one.
        tied: whether the output matrix is the embedding.
        qk_norm: whether every head's queries and keys are normalised before they are rotated.
    """

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    rotary: int
    mlp: int
    vocab: int
    theta: float
    eps: float
    qkv_bias: bool = False
    bias: bool = False
    tied: bool = False
    qk_norm: bool = False

    @property
    def attended(self) -> int:
        """Channels of all queries together, which is what attention hands to its output projection."""
        return self.heads * self.head_size

    @property
    def remembered(self) -> int:
        """Channels of all keys of a token, and of all its values."""
        return self.kv_heads * self.head_size
