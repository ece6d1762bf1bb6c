"""One process leads, the others follow: they compute their slices of every forward that the first makes.

    if torch.distributed.get_rank() == 0:
        with lead(model) as model:    # as any other model; one forward at a time
            engine = Engine(model)
    else:
        follow(model)                 # until the leader has ended

Every forward of the leader first sends its input: host data (the plan's lists and numbers, the id of the key/value memory)
over gloo, so that no process waits for a device, and the plan's tensors, packed into one, over the devices' own group. A
forward therefore cannot be captured in a CUDA graph while a process leads; if all processes run the same program and none
leads, it can.
"""

import io
import itertools
import math
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor

from unmask.context.plan import ForwardPlan
from unmask.context.pool import KVPool
from unmask.models.denoiser import Denoiser

PATIENCE = timedelta(days=3650)  # a server may be idle for long; the end of the leader's process is noticed at once


class OutOfStep(RuntimeError):
    """A forward failed halfway: only some of the processes have made it, so all later ones would be wrong."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Leader(Denoiser):
    """A shared model whose forwards the other processes follow."""

    sender: "_Sender"

    @property
    def replayable(self) -> bool:
        """Always False: every forward is first sent to the other processes."""
        return False

    def states(self, tokens_N: Tensor, plan: ForwardPlan, pool: KVPool | None) -> Tensor:
        """States [R, C], as of any model; the followers compute the logits as well. Raises OutOfStep after a failed forward."""
        self.sender.begin((tokens_N, plan, pool))
        return super().states(tokens_N, plan, pool)

    def project(self, hidden_RC: Tensor) -> Tensor:
        """Logits [R, V], as of any model."""
        logits_RV = super().project(hidden_RC)
        self.sender.end()
        return logits_RV


@contextmanager
def lead(model: Denoiser) -> Iterator[Leader]:
    """The shared model for the first process of its group; on exit, the followers are sent the message to end."""
    sender = _Sender(model)
    try:
        facts = {field.name: getattr(model, field.name) for field in fields(model)}
        yield Leader(**facts, sender=sender)
    finally:
        sender.close()


def follow(model: Denoiser) -> None:
    """Compute this process's part of every forward until the leader ends. Raises ConnectionError if its process dies."""
    receiver = _Receiver(model)
    with torch.inference_mode():
        while (message := receiver.receive()) is not None:
            model.forward(*message)


class _Channel:
    """The data that both ends share. Making one is a collective call."""

    def __init__(self, model: Denoiser) -> None:
        group = model.network.share.group
        assert group is not None, "the model is not shared"
        ranks = dist.get_process_group_ranks(group)
        self.model, self.group, self.first = model, group, ranks[0]
        self.control = dist.new_group(ranks, backend="gloo", timeout=PATIENCE, use_local_synchronization=True)


class _Sender(_Channel):
    def __init__(self, model: Denoiser) -> None:
        super().__init__(model)
        self._numbers = itertools.count()
        self._pools: WeakKeyDictionary[KVPool, int] = WeakKeyDictionary()
        self._in_step = True

    def begin(self, message: tuple[Any, ...]) -> None:
        """Send the input of a forward to the followers, before it is made; `end` marks it as made."""
        if not self._in_step:
            raise OutOfStep("an earlier forward failed halfway, so the processes are out of step: restart them")
        self._in_step = False
        pickled = io.BytesIO()
        packer = _Packer(pickled, self)
        packer.dump(message)
        # Cloned, because only a contiguous tensor can be viewed as bytes.
        flat = [tensor.flatten().clone(memory_format=torch.contiguous_format) for tensor in packer.tensors]
        packed = torch.cat([numbers.view(torch.uint8) for numbers in flat])
        self._control([pickled.getvalue(), len(packed), set(self._pools.values())])
        dist.broadcast(packed, self.first, group=self.group)

    def end(self) -> None:
        """The forward is made on this side, and under way on the others."""
        self._in_step = True

    def number(self, pool: KVPool) -> int:
        """The number by which the followers know a pool."""
        if pool not in self._pools:
            self._pools[pool] = next(self._numbers)
        return self._pools[pool]

    def close(self) -> None:
        """Send the followers the message to end."""
        # Followers that are out of step wait for another message; they notice when this process ends.
        if self._in_step:
            self._control([None, 0, set()])

    def _control(self, parts: list[Any]) -> None:
        dist.broadcast_object_list(parts, self.first, group=self.control)


class _Receiver(_Channel):
    def __init__(self, model: Denoiser) -> None:
        super().__init__(model)
        self._pools: dict[int, KVPool] = {}

    def receive(self) -> Any:
        """The leader's next message, tensors on the model's device; None at the end."""
        parts: list[Any] = [None, None, None]
        try:
            dist.broadcast_object_list(parts, self.first, group=self.control)
            pickled, size, alive = parts
            if pickled is None:
                return None
            packed = torch.empty(size, dtype=torch.uint8, device=self.model.device)
            dist.broadcast(packed, self.first, group=self.group)
        except RuntimeError as error:
            raise ConnectionError("the leading process has ended") from error
        self._pools = {number: pool for number, pool in self._pools.items() if number in alive}
        return _Unpacker(io.BytesIO(pickled), packed, self).load()

    def pool(self, number: int, pages: int) -> KVPool:
        """The pool of this process that corresponds to one of the leader's."""
        if number not in self._pools:
            self._pools[number] = self.model.pool(pages)
        return self._pools[number]


class _Packer(pickle.Pickler):
    """Pickles everything but tensors, which are collected apart, and key/value memory, of which every process has its own."""

    def __init__(self, file: io.BytesIO, sender: _Sender) -> None:
        super().__init__(file)
        self.sender = sender
        self.tensors: list[Tensor] = []

    def persistent_id(self, thing: Any) -> tuple[Any, ...] | None:
        """The placeholder of a tensor or a pool."""
        if isinstance(thing, Tensor):
            self.tensors.append(thing)
            return "tensor", tuple(thing.shape), thing.dtype
        if isinstance(thing, KVPool):
            return "pool", self.sender.number(thing), thing.pages
        return None


class _Unpacker(pickle.Unpickler):
    """The inverse of _Packer: cuts the tensors, in their order, from the bytes that were sent apart."""

    def __init__(self, file: io.BytesIO, packed: Tensor, receiver: _Receiver) -> None:
        super().__init__(file)
        self.packed, self.receiver = packed, receiver

    def persistent_load(self, found: tuple[Any, ...]) -> Tensor | KVPool:
        """The tensor or pool of a placeholder."""
        kind, *facts = found
        if kind == "pool":
            return self.receiver.pool(*facts)
        shape, dtype = facts
        piece, self.packed = self.packed.tensor_split([math.prod(shape) * dtype.itemsize])
        return piece.clone().view(dtype).view(shape)  # a copy, because a view must be aligned
