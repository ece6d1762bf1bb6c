"""A mixture of experts: which ones a token goes through, and their products, grouped by expert.

Shapes: N tokens, E experts, K of them chosen per token, C model width, F hidden channels of an expert, B blocks of tokens.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from unmask.kernels.gated import silu_times
from unmask.models.layout import Piece
from unmask.models.shape import MoE
from unmask.models.share import ALONE, Share


class Router(nn.Module):
    """Scores of every expert for every token, and the choice among them, in fp32 or better."""

    kept = frozenset({"expert_bias"})  # stays in fp32 whatever the checkpoint's other tensors are

    def __init__(self, width: int, moe: MoE) -> None:
        super().__init__()
        self.moe = moe
        self.weight = nn.Parameter(torch.empty(moe.experts, width))
        if moe.biased:
            self.expert_bias = nn.Parameter(torch.zeros(moe.experts, dtype=torch.float32))

    def forward(self, x_RQC: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of tokens [R, Q, C] to the experts [N, K] of all their tokens, int64, and the weights [N, K].

        Blocks are counted from the beginning of every row.
        """
        precise = torch.promote_types(x_RQC.dtype, torch.float32)
        logits_RQE = linear(x_RQC.to(precise), self.weight.to(precise))
        scores_RQE = logits_RQE.softmax(-1) if self.moe.score == "softmax" else logits_RQE.sigmoid()
        biased_RQE = scores_RQE + self.expert_bias if self.moe.biased else scores_RQE
        experts_NK = eligible(biased_RQE, self.moe).flatten(0, 1).topk(self.moe.chosen).indices
        weights_NK = (biased_RQE if self.moe.weigh_biased else scores_RQE).flatten(0, 1).gather(1, experts_NK)
        if self.moe.normalise:
            weights_NK = weights_NK / (weights_NK.sum(-1, keepdim=True) + 1e-20)
        return experts_NK, weights_NK * self.moe.scale


def eligible(scores_RQE: Tensor, moe: MoE) -> Tensor:
    """The scores with those of experts that a token cannot choose at -inf.

    >>> two = MoE(layers=(True,), experts=4, chosen=1, mlp=1, groups=2, best_groups=1)
    >>> eligible(torch.tensor([[[0.9, 0.0, 0.5, 0.6]]]), two)  # 0.9 alone is less than 0.5 and 0.6 together
    tensor([[[  -inf,   -inf, 0.5000, 0.6000]]])
    >>> vote = MoE(layers=(True,), experts=3, chosen=1, mlp=1, capacity=1, block=2)
    >>> eligible(torch.tensor([[[0.9, 0.0, 0.5], [0.1, 0.2, 0.3]]]), vote)[0].tolist()[1]
    [0.10000000149011612, -inf, -inf]
    """
    if moe.capacity is not None:
        assert moe.block is not None
        return scores_RQE.masked_fill(~_admitted(scores_RQE, moe.block, moe.capacity), -torch.inf)
    if moe.groups > 1:
        grouped = torch.unflatten(scores_RQE, -1, (moe.groups, -1))
        best = grouped.topk(2, dim=-1).values.sum(-1).topk(moe.best_groups, dim=-1).indices
        stays = torch.zeros_like(grouped[..., 0], dtype=torch.bool).scatter(-1, best, True)
        return grouped.masked_fill(~stays[..., None], -torch.inf).flatten(-2)
    return scores_RQE


def _admitted(scores_RQE: Tensor, block: int, capacity: int) -> Tensor:
    """Which experts each token's block may use; a last block that is not whole votes with the tokens that it has."""
    length = scores_RQE.shape[1]
    padded = nn.functional.pad(scores_RQE, (0, 0, 0, -length % block), value=-torch.inf)
    votes_RBE = torch.unflatten(padded, 1, (-1, block)).amax(2)
    best = votes_RBE.topk(capacity, dim=-1).indices
    admitted_RBE = torch.zeros_like(votes_RBE, dtype=torch.bool).scatter(-1, best, True)
    return admitted_RBE.repeat_interleave(block, dim=1)[:, :length]


class Experts(nn.Module):
    """All experts of a layer, one tensor per projection; of a shared network, this process's hidden channels of each."""

    def __init__(self, width: int, moe: MoE, share: Share = ALONE) -> None:
        super().__init__()
        hidden = moe.mlp // share.processes
        self.width, self.moe, self.share = width, moe, share
        self.gate_proj = nn.Parameter(torch.empty(moe.experts, hidden, width))
        self.up_proj = nn.Parameter(torch.empty(moe.experts, hidden, width))
        self.down_proj = nn.Parameter(torch.empty(moe.experts, width, hidden))

    def forward(self, x_NC: Tensor, experts_NK: Tensor, weights_NK: Tensor) -> Tensor:
        """The weighted sum [N, C] of what each token's experts make of it."""
        form = grouped if groupable(x_NC, self.gate_proj) else dense
        mixed_NC = form(x_NC, self.gate_proj, self.up_proj, self.down_proj, experts_NK, weights_NK)
        if self.share.processes > 1:
            dist.all_reduce(mixed_NC, group=self.share.group)
        return mixed_NC

    def layouts(self, owner: str, leaf: str) -> list[list[Piece]]:
        """One tensor per expert, as published; all experts in one, as dFactory trains; or gate and up in one too, as dInfer."""
        hidden, every = self.moe.mlp // self.share.processes, slice(None)
        own = slice(self.share.rank * hidden, (self.share.rank + 1) * hidden)
        count, whole = self.moe.experts, self.moe.mlp
        down = leaf == "down_proj"
        shape, take = ([self.width, whole], (every, own)) if down else ([whole, self.width], (own, every))
        single = [Piece(f"{owner}.{expert}.{leaf}.weight", shape, take, (expert,)) for expert in range(count)]
        merged = Piece(f"{owner}.{leaf}", [count, *shape], (every, *take))
        layer = owner.rpartition(".")[0]
        if down:
            fused = Piece(f"{layer}.w2", [count, *shape], (every, *take))
        else:
            behind = whole if leaf == "up_proj" else 0  # gate, then up
            rows = slice(behind + own.start, behind + own.stop)
            fused = Piece(f"{layer}.w1", [count, 2 * whole, self.width], (every, rows, every))
        return [single, [merged], [fused]]


def groupable(x_NC: Tensor, weight_EFC: Tensor) -> bool:
    """Whether torch's grouped product takes these: a newer torch, a type that it knows, rows of whole 16 bytes."""
    known = x_NC.dtype in (torch.float32, torch.bfloat16, torch.float16)
    aligned = not any(size * x_NC.element_size() % 16 for size in weight_EFC.shape[1:])
    return hasattr(nn.functional, "grouped_mm") and known and aligned


def grouped(x_NC: Tensor, gate_EFC: Tensor, up_EFC: Tensor, down_ECF: Tensor, experts_NK: Tensor, weights_NK: Tensor) -> Tensor:
    """Tokens in the order of their experts, one grouped product per projection. No number of the device is read."""
    tokens, chosen = experts_NK.shape
    expert_M = experts_NK.flatten()  # M = N * K, token by token
    order_M = expert_M.argsort(stable=True)
    counts_E = torch.zeros(len(gate_EFC), dtype=torch.int32, device=x_NC.device)
    counts_E = counts_E.scatter_add(0, expert_M, torch.ones_like(expert_M, dtype=torch.int32))
    ends_E = counts_E.cumsum(0, dtype=torch.int32)

    def product(rows: Tensor, weight: Tensor) -> Tensor:
        return nn.functional.grouped_mm(rows, weight.to(rows.dtype).transpose(1, 2), offs=ends_E)

    rows_MC = x_NC[order_M // chosen]
    made_MC = product(silu_times(product(rows_MC, gate_EFC), product(rows_MC, up_EFC)), down_ECF)
    back_M = torch.empty_like(order_M).scatter(0, order_M, torch.arange(len(order_M), device=x_NC.device))
    return _weighted(made_MC[back_M].view(tokens, chosen, -1), weights_NK)


def dense(x_NC: Tensor, gate_EFC: Tensor, up_EFC: Tensor, down_ECF: Tensor, experts_NK: Tensor, weights_NK: Tensor) -> Tensor:
    """The plain form: every token goes through every expert, and its own are kept. Any type and device."""
    hidden_ENF = silu(torch.einsum("nc,efc->enf", x_NC, gate_EFC)) * torch.einsum("nc,efc->enf", x_NC, up_EFC)
    made_NEC = torch.einsum("enf,ecf->nec", hidden_ENF, down_ECF)
    index = experts_NK[..., None].expand(-1, -1, made_NEC.shape[-1])
    return _weighted(made_NEC.gather(1, index), weights_NK)


def _weighted(made_NKC: Tensor, weights_NK: Tensor) -> Tensor:
    return (made_NKC * weights_NK[..., None]).sum(1).to(made_NKC.dtype)
