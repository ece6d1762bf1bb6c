"""The running form of a network, which decodes: made once from the checkpoint form, before the first decode.

    adapter     a low-rank change is added to each matrix   } to each tensor as it is read (models/weights.py), so that no
    slice       this process keeps its part of it           } process ever holds more than one whole (models/parallel.py)
    merge       q, k and v are one matrix, gate and up too  }
    quantise    fewer bits per weight                       } to the parts of one layer after the other, here
    pack        laid out for the device's kernels           }

Numbers are quantised while they are read, too (models/quantise.py), or were before; then the checkpoint form holds torchao's
tensors under the checkpoint's names, and the step "quantise" makes products of them (models/quantised.py).

The checkpoint form keeps its names. What a step does to its tensors is either a view (merged q, k and v: the three stay
where they were, as parts of the merged one), or they are given up (models/release.py), and with them the memory: peak is all
the weights in the form they had, plus one layer. Training, adapters, transformers and `state_dict` know the checkpoint form
alone: what can be made again of the running form is put back for them, and what cannot they refuse in one line.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from unmask.context.plan import ForwardPlan
from unmask.context.pool import KVPool
from unmask.kernels.rotary import frequencies, tables
from unmask.models.layers import AttentionInputs, Part, Parts, onward
from unmask.models.network import Decoding, Network
from unmask.models.release import release as release

ORDER = ("adapter", "slice", "merge", "quantise", "pack")


class Step(Protocol):
    """One step of the making, named as in ORDER."""

    @property
    def name(self) -> str: ...

    def layer(self, parts: Parts) -> Parts:
        """The parts of a layer in the form that comes out of this step."""
        ...

    def head(self, head: Part) -> Part:
        """The output matrix, likewise."""
        ...

    def rows(self, count: int) -> int:
        """How many rows a forward of so many tokens is given; those behind them are not read."""
        ...


class Running:
    """A network's layers and head as they decode, with the same `hidden` and `project`."""

    def __init__(self, network: Network, steps: Sequence[Step] = ()) -> None:
        """Raises ValueError for steps out of order: a later one would undo what an earlier one needs."""
        places = [ORDER.index(step.name) for step in steps]
        if places != sorted(set(places)):
            raise ValueError(f"a running form is made in the order {', '.join(ORDER)}, each at most once")
        self.network = network
        self.head = network.output()
        # No token reads what the last layer's feed-forward part makes of another, unless a block chooses its experts
        # together: behind the last attention only the rows that predict are needed.
        self._apart = network.shape.moe is None or network.shape.moe.capacity is None
        self._steps = tuple(steps) if network.shape.moe is None else ()  # experts would have to be chosen for rows of no use
        self.layers: list[Parts] = []
        for layer in network.blocks():
            parts = layer.parts()
            for step in steps:
                parts = step.layer(parts)
            self.layers.append(parts)
        for step in steps:
            self.head = step.head(self.head)
        self.norms: list[Part] = [*(parts.attention_norm for parts in self.layers[1:]), network.final_norm()]
        shape, first = network.shape, next(network.embedding().parameters())
        self.frequencies = frequencies(shape.rotary, shape.theta, first.dtype, first.device)

    def hidden(self, tokens_N: Tensor, plan: ForwardPlan, pool: KVPool | None) -> Tensor:
        """The last layer's normalised states [R, C] of the rows that predict what the plan reads."""
        rows_R = self.network.predicting(plan.read_R, plan.before_R)
        x = self.network.embed(self._filled(tokens_N)[None])
        inputs = AttentionInputs(*tables(self._filled(plan.positions_N)[None], self.frequencies), plan, pool)
        normed = self.layers[0].attention_norm(x)
        last = len(self.layers) - 1
        for number, (parts, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            wanted = self._filled(rows_R) if number == last and self._apart else None
            x, normed = parts.attend(x, normed, number, inputs, wanted)
            if wanted is not None and not len(wanted):
                return x[0]
            x, normed = onward(x, parts.feed_forward, normed, norm)
        return (normed if self._apart else normed.index_select(1, rows_R))[0, : len(rows_R)]

    def project(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states: [..., C] to [..., V]."""
        rows = hidden.flatten(0, -2)
        logits = self.head(self._filled(rows))[: len(rows)]
        return self.network.scaled(torch.unflatten(logits, 0, hidden.shape[:-1]))

    def _filled(self, rows: Tensor) -> Tensor:
        """Rows with zeros behind them, as many as the steps want."""
        count = len(rows)
        for step in self._steps:
            count = step.rows(count)
        return rows if count == len(rows) else torch.cat((rows, rows.new_zeros(count - len(rows), *rows.shape[1:])))


def running(network: Network, steps: Sequence[Step]) -> Decoding:
    """The running form of a network, made now if it is not there yet; a network that is moved or converted drops its own."""
    if network.running is None:
        # The first decode asks, in inference mode; but merged tensors are the checkpoint form's too, which may be trained.
        with torch.inference_mode(False), torch.no_grad():
            network.running = Running(network, steps)
    return network.running
