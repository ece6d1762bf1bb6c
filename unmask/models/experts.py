"""A mixture of experts: which ones a token goes through, and their products, grouped by expert.

Shapes: N tokens, E experts, K of them chosen per token, C model width, F hidden channels of an expert.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import silu

from unmask.kernels.gated import silu_times
from unmask.kernels.grouping import by_expert, grouped_product, weighted_sum
from unmask.kernels.routing import route
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
        return route(x_RQC, self.weight, self.expert_bias if self.moe.biased else None, self.moe)


class Experts(nn.Module):
    """All experts of a layer, one tensor per projection; of a shared network, this process's hidden channels of each."""

    def __init__(self, width: int, moe: MoE, share: Share = ALONE) -> None:
        super().__init__()
        hidden = moe.mlp // share.processes
        self.width, self.moe, self.share = width, moe, share
        self.gate_proj = nn.Parameter(torch.empty(moe.experts, hidden, width))
        self.up_proj = nn.Parameter(torch.empty(moe.experts, hidden, width))
        self.down_proj = nn.Parameter(torch.empty(moe.experts, width, hidden))

    def forward(self, x_NC: Tensor, experts_NK: Tensor, weights_NK: Tensor, beside_NC: Tensor | None = None) -> Tensor:
        """The weighted sum [N, C] of what each token's experts make of it, added to `beside_NC`."""
        matrices = (self.gate_proj, self.up_proj), self.down_proj
        return mixed(x_NC, *matrices, experts_NK, weights_NK, beside_NC, share=self.share)

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


class MergedExperts(nn.Module):
    """The same with gate and up in one tensor per layer, in the form that decodes; the experts' own are views of it."""

    def __init__(self, experts: Experts) -> None:
        super().__init__()
        self.share, hidden = experts.share, experts.gate_proj.shape[1]
        self.gate_up = nn.Parameter(torch.cat((experts.gate_proj, experts.up_proj), dim=1), requires_grad=False)
        self.down_proj = experts.down_proj
        experts.gate_proj = nn.Parameter(self.gate_up[:, :hidden], requires_grad=False)
        experts.up_proj = nn.Parameter(self.gate_up[:, hidden:], requires_grad=False)

    def forward(self, x_NC: Tensor, experts_NK: Tensor, weights_NK: Tensor, beside_NC: Tensor | None = None) -> Tensor:
        """As of the experts that were merged."""
        return mixed(x_NC, (self.gate_up,), self.down_proj, experts_NK, weights_NK, beside_NC, share=self.share)


def mixed(
    x_NC: Tensor,
    inner: Sequence[Tensor],
    down_ECF: Tensor,
    experts_NK: Tensor,
    weights_NK: Tensor,
    beside_NC: Tensor | None,
    *,
    share: Share = ALONE,
) -> Tensor:
    """The weighted sum [N, C], added to `beside_NC`; of processes that share the experts, all together.

    `inner`: gate and up, each [E, F, C], or one tensor that has an expert's rows of both, one behind the other.
    """
    form = grouped if groupable(x_NC, down_ECF) else dense
    alone = share.processes == 1
    mixed_NC = form(x_NC, inner, down_ECF, experts_NK, weights_NK, beside_NC if alone else None)
    if alone:
        return mixed_NC
    dist.all_reduce(mixed_NC, group=share.group)
    return mixed_NC if beside_NC is None else mixed_NC + beside_NC


def groupable(x_NC: Tensor, weight_EFC: Tensor) -> bool:
    """Whether torch's grouped product takes these: a newer torch, a type that it knows, rows of whole 16 bytes."""
    known = x_NC.dtype in (torch.float32, torch.bfloat16, torch.float16)
    aligned = not any(size * x_NC.element_size() % 16 for size in weight_EFC.shape[1:])
    return hasattr(nn.functional, "grouped_mm") and known and aligned


def grouped(
    x_NC: Tensor,
    inner: Sequence[Tensor],
    down_ECF: Tensor,
    experts_NK: Tensor,
    weights_NK: Tensor,
    beside_NC: Tensor | None = None,
) -> Tensor:
    """Tokens in the order of their experts, one grouped product per matrix. No number of the device is read."""
    token_M, place_NK, end_E = by_expert(experts_NK, len(down_ECF))
    rows_MC = x_NC[token_M]
    made = [grouped_product(rows_MC, weight, end_E) for weight in inner]
    gate_MF, up_MF = made if len(made) == 2 else made[0].chunk(2, dim=-1)
    made_MC = grouped_product(silu_times(gate_MF, up_MF), down_ECF, end_E)
    return weighted_sum(made_MC, place_NK, weights_NK, beside_NC)


def dense(
    x_NC: Tensor,
    inner: Sequence[Tensor],
    down_ECF: Tensor,
    experts_NK: Tensor,
    weights_NK: Tensor,
    beside_NC: Tensor | None = None,
) -> Tensor:
    """The plain form: every token goes through every expert, and its own are kept. Any type and device."""
    gate_EFC, up_EFC = inner if len(inner) == 2 else inner[0].chunk(2, dim=1)
    hidden_ENF = silu(torch.einsum("nc,efc->enf", x_NC, gate_EFC)) * torch.einsum("nc,efc->enf", x_NC, up_EFC)
    made_NEC = torch.einsum("enf,ecf->nec", hidden_ENF, down_ECF)
    made_NKC = made_NEC.gather(1, experts_NK[..., None].expand(-1, -1, made_NEC.shape[-1]))
    mixed_NC = (made_NKC * weights_NK[..., None]).sum(1).to(made_NEC.dtype)
    return mixed_NC if beside_NC is None else mixed_NC + beside_NC
