"""Which experts of a mixture a token goes through, and with which weights.

Shapes: R rows of Q tokens, N = R * Q, E experts, K of them chosen per token, C model width, B blocks of tokens, G groups.
"""

from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from unmask.kernels import accelerated


class Rules(Protocol):
    """How experts are chosen and weighted (`unmask.models.shape.MoE`, which says it of every number)."""

    @property
    def chosen(self) -> int: ...
    @property
    def score(self) -> Literal["softmax", "sigmoid"]: ...
    @property
    def weigh_biased(self) -> bool: ...
    @property
    def normalise(self) -> bool: ...
    @property
    def scale(self) -> float: ...
    @property
    def groups(self) -> int: ...
    @property
    def best_groups(self) -> int: ...
    @property
    def capacity(self) -> int | None: ...
    @property
    def block(self) -> int | None: ...


def route(x_RQC: Tensor, weight_EC: Tensor, bias_E: Tensor | None, rules: Rules) -> tuple[Tensor, Tensor]:
    """The experts of every token [N, K], int64, the best one first, and their weights [N, K], in fp32 or better.

    Blocks are counted from the beginning of every row. `bias_E`: added to the scores before the choice.
    """
    others = (weight_EC,) if bias_E is None else (weight_EC, bias_E)
    if accelerated(x_RQC, *others):
        from unmask.kernels.gpu import routing as gpu

        return gpu.route(x_RQC, weight_EC, bias_E, rules)
    precise = torch.promote_types(x_RQC.dtype, torch.float32)
    return choose(linear(x_RQC.to(precise), weight_EC.to(precise)), bias_E, rules)


def choose(logits_RQE: Tensor, bias_E: Tensor | None, rules: Rules) -> tuple[Tensor, Tensor]:
    """The same of the router's logits. Among experts of equal scores those with the lowest ids are chosen."""
    scores_RQE = logits_RQE.softmax(-1) if rules.score == "softmax" else logits_RQE.sigmoid()
    biased_RQE = scores_RQE if bias_E is None else scores_RQE + bias_E
    experts_NK = best(eligible(biased_RQE, rules).flatten(0, 1), rules.chosen)
    weights_NK = (biased_RQE if rules.weigh_biased else scores_RQE).flatten(0, 1).gather(1, experts_NK)
    if rules.normalise:
        weights_NK = weights_NK / (weights_NK.sum(-1, keepdim=True) + 1e-20)
    return experts_NK, weights_NK * rules.scale


def eligible(scores_RQE: Tensor, rules: Rules) -> Tensor:
    """The scores with those of experts that a token cannot choose at -inf.

    >>> from unmask.models.shape import MoE
    >>> two = MoE(layers=(True,), experts=4, chosen=1, mlp=1, groups=2, best_groups=1)
    >>> eligible(torch.tensor([[[0.9, 0.0, 0.5, 0.6]]]), two)  # 0.9 alone is less than 0.5 and 0.6 together
    tensor([[[  -inf,   -inf, 0.5000, 0.6000]]])
    >>> vote = MoE(layers=(True,), experts=3, chosen=1, mlp=1, capacity=1, block=2)
    >>> eligible(torch.tensor([[[0.9, 0.0, 0.5], [0.1, 0.2, 0.3]]]), vote)[0].tolist()[1]
    [0.10000000149011612, -inf, -inf]
    """
    if rules.capacity is not None:
        assert rules.block is not None
        return scores_RQE.masked_fill(~_admitted(scores_RQE, rules.block, rules.capacity), -torch.inf)
    if rules.groups > 1:
        grouped = torch.unflatten(scores_RQE, -1, (rules.groups, -1))
        kept_RQG = _first(grouped.topk(2, dim=-1).values.sum(-1), rules.best_groups)
        return grouped.masked_fill(~kept_RQG[..., None], -torch.inf).flatten(-2)
    return scores_RQE


def _first(scores: Tensor, count: int) -> Tensor:
    """Which are among the largest of the last dimension."""
    taken = torch.zeros_like(scores, dtype=torch.bool)
    return taken.scatter(-1, _sorted(scores)[..., :count], True)


def _sorted(scores: Tensor) -> Tensor:
    return scores.sort(dim=-1, descending=True, stable=True).indices


def best(scores: Tensor, count: int) -> Tensor:
    """Ids of the largest scores of the last dimension in falling order, the lowest id first among equals.

    >>> best(torch.tensor([1.0, 3.0, 2.0, 3.0]), 3)
    tensor([1, 3, 2])
    """
    if scores.dtype != torch.float32:
        return _sorted(scores)[..., :count]
    # Whole numbers in the order of the scores, no two equal: a score's bits, and behind them its id, backwards. A top-k of
    # them takes a fifth of a stable sort's time.
    bits = scores.detach().view(torch.int32)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    back = torch.arange(scores.shape[-1] - 1, -1, -1, device=scores.device)
    return torch.add(back, ordered, alpha=1 << 32).topk(count, dim=-1).indices


def _admitted(scores_RQE: Tensor, block: int, capacity: int) -> Tensor:
    """Which experts each token's block may use; a last block that is not whole votes with the tokens that it has."""
    length = scores_RQE.shape[1]
    padded = pad(scores_RQE, (0, 0, 0, -length % block), value=-torch.inf)
    votes_RBE = torch.unflatten(padded, 1, (-1, block)).amax(2)
    return _first(votes_RBE, capacity).repeat_interleave(block, dim=1)[:, :length]
