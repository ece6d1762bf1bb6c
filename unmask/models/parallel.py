"""Tensor parallelism (Megatron-LM, arXiv 1909.08053): processes hold slices of every layer and compute forwards together.

    torch.distributed.init_process_group()    # under torchrun; on GPUs first torch.cuda.set_device(LOCAL_RANK)
    model = unmask.load(name, tensor_parallel=True)

All processes call `forward` with the same input, and all get the same logits; or one leads (models/follow.py). What is
sliced is data on the network, `tp_plan`, in transformers' words:

    colwise                 some of a matrix's outputs, heads or MLP channels      nothing is sent
    rowwise                 the inputs that those are; the products are summed     one all-reduce
    colwise_gather_output   some of the vocabulary's logits, put together again    one all-gather

So a layer communicates twice, behind its attention and behind its MLP. Everything else (embedding, norms) is whole everywhere.
Only inference: no gradient passes through the sums.
"""

import re
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unmask.errors import ConfigError
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
        """Along which dimension a parameter is sliced; None where every process has all of it."""
        return 0


class Colwise(Sliced):
    """Some of the outputs."""


class Gathered(Sliced):
    """Some of the outputs, put together with the others'."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to all outputs, the same numbers on every process."""
        mine = super().forward(x)
        parts = [torch.empty_like(mine) for _ in range(self.share.processes)]
        dist.all_gather(parts, mine, group=self.share.group)
        return torch.cat(parts, dim=-1)


class Rowwise(Sliced):
    """The outputs' sum over some of the inputs, summed with the others'."""

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
    """Make every matrix of the plan this process's slice, in place, on the meta device.

    Raises ConfigError where the slices would not be even.
    """
    check(network.shape, mine.processes)
    for name, module in list(network.named_modules()):
        style = network.tp_plan.get(re.sub(r"\.\d+\.", ".*.", name))
        if style is not None:
            assert isinstance(module, nn.Linear), f"{name} is no matrix"
            network.set_submodule(name, STYLES[style](module, mine))
    network.share = mine


def check(shape: Shape, processes: int) -> None:
    """Raises ConfigError, with the numbers that are possible, where a network of this shape cannot be shared evenly."""
    counts = [shape.heads, shape.kv_heads, shape.mlp, *([] if shape.tied else [shape.vocab])]
    possible = [str(n) for n in range(1, shape.kv_heads + 1) if not any(count % n for count in counts)]
    if str(processes) not in possible:
        raise ConfigError(
            f"{processes} processes cannot evenly share {shape.heads} heads, {shape.kv_heads} key/value heads, "
            f"{shape.mlp} MLP channels and {shape.vocab} vocabulary rows: possible numbers are {', '.join(possible)}"
        )


def section(module: nn.Module, parameter: str) -> tuple[list[int], tuple[slice, ...]]:
    """The shape of a module's parameter in the checkpoint, and which part of it is this process's.

    >>> whole = nn.Linear(8, 6, device="meta")
    >>> section(whole, "weight")
    ([6, 8], (slice(None, None, None), slice(None, None, None)))
    >>> section(Rowwise(whole, Share(rank=1, processes=2, group=None)), "weight")
    ([6, 8], (slice(None, None, None), slice(4, 8, None)))
    """
    held: Tensor = getattr(module, parameter)
    shape, mine = list(held.shape), [slice(None)] * held.dim()
    dimension = module.dimension(parameter) if isinstance(module, Sliced) else None
    if isinstance(module, Sliced) and dimension is not None:
        begin = module.share.rank * shape[dimension]
        mine[dimension] = slice(begin, begin + shape[dimension])
        shape[dimension] *= module.share.processes
    return shape, tuple(mine)
