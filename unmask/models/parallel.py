"""Tensor parallelism (Megatron-LM, arXiv 1909.08053): processes hold slices of every layer and compute forwards together.

    torch.distributed.init_process_group()    # under torchrun; on GPUs first torch.cuda.set_device(LOCAL_RANK)
    model = unmask.load(name, tensor_parallel=True)

All processes call `forward` with the same input, and all get the same logits; or one leads (models/follow.py). The
slices are declared on the network, as its `tp_plan`, in transformers' terms:

    colwise                 some of a matrix's outputs, heads or MLP channels      nothing is sent
    rowwise                 the matching inputs; the products are summed           one all-reduce
    colwise_gather_output   some of the vocabulary's logits, concatenated again    one all-gather

and two terms of our own

    fused_colwise           some heads of queries, keys and values in one matrix   nothing is sent
    experts                 some hidden channels of every expert; outputs summed   one all-reduce

So a layer communicates twice, after its attention and after its MLP, or three times with a shared expert. Embedding and
norms are whole on every process. For inference only: no gradient passes through the sums.
"""

import re
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unmask.errors import ConfigError
from unmask.models.experts import Experts
from unmask.models.layout import Piece
from unmask.models.network import Network
from unmask.models.shape import Shape
from unmask.models.share import Share


class Sliced(nn.Linear):
    """A process's slice of a linear layer, made on the meta device from the whole layer there."""

    def __init__(self, whole: nn.Linear, mine: Share) -> None:
        outputs, inputs = whole.weight.shape
        if self.dimension("weight") == 0:
            outputs //= mine.processes
        else:
            inputs //= mine.processes
        super().__init__(inputs, outputs, bias=whole.bias is not None, device="meta")
        self.share = mine

    @staticmethod
    def dimension(parameter: str) -> int | None:
        """The dimension in which a parameter is sliced; None if every process has all of it."""
        return 0

    def layouts(self, owner: str, leaf: str) -> list[list[Piece]]:
        """The part of the checkpoint's tensor that this process holds.

        >>> whole = nn.Linear(8, 6, device="meta")
        >>> Rowwise(whole, Share(rank=1, processes=2, group=None)).layouts("o", "weight")
        [[Piece(source='o.weight', shape=[6, 8], take=(slice(None, None, None), slice(4, 8, None)), put=None)]]
        """
        held: Tensor = getattr(self, leaf)
        shape, take = list(held.shape), [slice(None)] * held.dim()
        dimension = self.dimension(leaf)
        if dimension is not None:
            begin = self.share.rank * shape[dimension]
            take[dimension] = slice(begin, begin + shape[dimension])
            shape[dimension] *= self.share.processes
        return [[Piece(f"{owner}.{leaf}", shape, tuple(take))]]


class Colwise(Sliced):
    """Some of the outputs."""


class FusedColwise(Sliced):
    """Some of the query heads, of the key heads and of the value heads, which follow each other in one matrix."""

    def __init__(self, whole: nn.Linear, mine: Share, sizes: Sequence[int]) -> None:
        """`sizes`: the outputs of queries, keys and values in the whole matrix."""
        super().__init__(whole, mine)
        self.sizes = sizes

    def layouts(self, owner: str, leaf: str) -> list[list[Piece]]:
        """Three parts of the checkpoint's tensor.

        >>> fused = FusedColwise(nn.Linear(8, 8, device="meta"), Share(rank=1, processes=2, group=None), (4, 2, 2))
        >>> [(piece.take[0].start, piece.take[0].stop) for piece in fused.layouts("qkv", "weight")[0]]
        [(2, 4), (5, 6), (7, 8)]
        """
        held: Tensor = getattr(self, leaf)
        shape = [sum(self.sizes), *held.shape[1:]]
        others, pieces, first, place = (slice(None),) * (held.dim() - 1), [], 0, 0
        for size in self.sizes:
            rows = size // self.share.processes
            begin = first + self.share.rank * rows
            pieces.append(Piece(f"{owner}.{leaf}", shape, (slice(begin, begin + rows), *others), (slice(place, place + rows),)))
            first, place = first + size, place + rows
        return [pieces]


class Gathered(Sliced):
    """Some of the outputs, gathered from all processes."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to all outputs, the same numbers on every process."""
        mine = super().forward(x)
        parts = [torch.empty_like(mine) for _ in range(self.share.processes)]
        dist.all_gather(parts, mine, group=self.share.group)
        return torch.cat(parts, dim=-1)


class Rowwise(Sliced):
    """All outputs from some of the inputs, summed over all processes."""

    @staticmethod
    def dimension(parameter: str) -> int | None:
        return 1 if parameter == "weight" else None

    def forward(self, x: Tensor) -> Tensor:
        """Some of the inputs, [..., inputs / processes], to whole outputs."""
        summed = nn.functional.linear(x, self.weight)
        dist.all_reduce(summed, group=self.share.group)
        return summed if self.bias is None else summed + self.bias


STYLES: Mapping[str, type[Sliced]] = {"colwise": Colwise, "rowwise": Rowwise, "colwise_gather_output": Gathered}


def split(network: Network, mine: Share) -> None:
    """Replace every matrix of the plan by this process's slice, in place, on the meta device.

    Raises ConfigError if the slices would not be equal.
    """
    shape = network.shape
    check(shape, mine.processes)
    for name, module in list(network.named_modules()):
        style = network.tp_plan.get(re.sub(r"\.\d+\.", ".*.", name))
        if style == "experts":
            assert isinstance(module, Experts), f"{name} is not a module of experts"
            network.set_submodule(name, Experts(module.width, module.moe, mine))
        elif style is not None:
            assert isinstance(module, nn.Linear), f"{name} is not a matrix"
            sizes = (shape.attended, shape.remembered, shape.remembered)
            sliced = FusedColwise(module, mine, sizes) if style == "fused_colwise" else STYLES[style](module, mine)
            network.set_submodule(name, sliced)
    network.share = mine


def check(shape: Shape, processes: int) -> None:
    """Raises ConfigError, with the possible numbers, if this many processes cannot share the shape evenly."""
    experts = [] if shape.moe is None else [shape.moe.mlp, shape.moe.shared]
    counts = [shape.heads, shape.kv_heads, shape.mlp, *experts, *([] if shape.tied else [shape.vocab])]
    possible = [str(n) for n in range(1, shape.kv_heads + 1) if not any(count % n for count in counts)]
    if str(processes) not in possible:
        channels = f"{shape.mlp} MLP channels" + (f", {shape.moe.mlp} channels per expert" if shape.moe else "")
        raise ConfigError(
            f"{processes} processes cannot evenly share {shape.heads} heads, {shape.kv_heads} key/value heads, "
            f"{channels} and {shape.vocab} vocabulary rows: possible numbers are {', '.join(possible)}"
        )
