"""Sizes of a network, whatever its family calls them."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class MoE:
    """The numbers of a mixture-of-experts feed-forward part, and how a token's experts are chosen and weighted.

    Attributes:
        layers: for every layer whether it has experts; the others have a dense part.
        experts, chosen: how many there are, and how many a token goes through.
        mlp: hidden channels of an expert.
        shared: hidden channels of the part that every token goes through beside them; 0: there is none.
        score: of an expert, from its logit: softmax over all experts, or sigmoid.
        biased: a bias per expert is added to the scores before the choice.
        weigh_biased: the biased scores are the weights too.
        normalise: the weights of a token's experts are divided by their sum.
        scale: what the weights are multiplied by.
        groups, best_groups: only the experts of the best groups can be chosen, a group's score being the sum of its two best.
        capacity, block: only that many experts can be chosen by the tokens of a block of that length, those with the highest
            score of any of its tokens; None: no such limit.
    """

    layers: tuple[bool, ...]
    experts: int
    chosen: int
    mlp: int
    shared: int = 0
    score: Literal["softmax", "sigmoid"] = "softmax"
    biased: bool = False
    weigh_biased: bool = False
    normalise: bool = True
    scale: float = 1.0
    groups: int = 1
    best_groups: int = 1
    capacity: int | None = None
    block: int | None = None


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
        moe: the layers that have a mixture of experts in place of the dense feed-forward part; None: none has.
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
    moe: MoE | None = None

    @property
    def attended(self) -> int:
        """Channels of all queries together, which is what attention hands to its output projection."""
        return self.heads * self.head_size

    @property
    def remembered(self) -> int:
        """Channels of all keys of a token, and of all its values."""
        return self.kv_heads * self.head_size
