"""A step is launched without waiting for the device, and takes no more memory the longer a decode goes on."""

import gc
from collections import Counter
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import unmask
from unmask.context.pool import pages_for
from unmask.engine.request import Request
from unmask.engine.runner import Runner
from unmask.engine.state import RequestState
from unmask.methods import TABLE
from unmask.models.denoiser import Denoiser
from unmask.models.toy import toy

MODEL = toy("dream", seed=5, sharpness=3)
# Calls that hand numbers to the host, and operations that cannot go on without it.
READS = ("tolist", "item", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__")
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal.default", "is_nonzero", "repeat_interleave.Tensor")


class Reads(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if name in READS:
            self.found[name] += 1
        return function(*args, **(kwargs or {}))


class Operations(TorchDispatchMode):
    """Operations that wait, and the bytes of all that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(function)
        by_mask = name.startswith(("aten.index.", "aten.index_put")) and any(x.dtype == torch.bool for x in _tensors(args[1]))
        # A single number of the host's that is copied into a tensor: on a device that is a wait.
        by_copy = name.startswith("aten.copy_.") and args[1].dim() == 0 and args[0].dim() == 0
        if by_mask or by_copy or any(wait in name for wait in WAITS):
            self.waits[name] += 1
        made = function(*args, **(kwargs or {}))
        old = {part.untyped_storage().data_ptr() for part in _tensors(args)}
        self.bytes += sum(part.nbytes for part in _tensors(made) if part.untyped_storage().data_ptr() not in old)
        return made


def _tensors(values: Any) -> list[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        return [values]
    return [tensor for value in values for tensor in _tensors(value)] if isinstance(values, tuple | list) else []


def allocated(requests: list[Request]) -> tuple[Runner, list[RequestState]]:
    rows = [RequestState.start(request, MODEL) for request in requests]
    made = Runner(MODEL, pages=sum(pages_for(row.slots) for row in rows), rows=len(rows))
    for row in rows:
        made.prepare(row)
        made.allocate(row)
    return made, rows


@pytest.mark.parametrize("stays", [False, True])
def test_a_launch_never_waits_and_a_finish_reads_what_has_come_home(stays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """All presets, greedy and sampled, refreshes and block forwards: one copy to the host, and nothing else is read."""
    monkeypatch.setattr(Denoiser, "replayable", stays)
    step, rows = allocated(
        [
            Request(
                prompt=(1, 2, 3),
                method=unmask.method(name, block_length=8),
                max_new_tokens=16,
                temperature=float(number % 2),
                top_p=0.9,
            )
            for number, name in enumerate((*TABLE, *TABLE, "vanilla"))
        ]
    )
    for _ in range(4):
        with Operations() as operations, Reads() as reads:
            pending = step.launch(rows, [True] * len(rows))
        assert not operations.waits
        assert reads.found == {"cpu": 1}
        with Operations() as operations, Reads() as reads:
            records = step.finish(pending)
        assert not operations.waits
        assert set(reads.found) == {"tolist"}
        assert all(record is not None for record in records)
        rows = [row for row in rows if not row.settle()]
    assert rows


@pytest.mark.parametrize("stays", [False, True])
def test_memory_is_flat_in_blocks_and_forwards(stays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen blocks of two rows: block forwards with as many masks make as many bytes, and nothing piles up between them."""
    monkeypatch.setattr(Denoiser, "replayable", stays)
    method = unmask.method("r2-dllm-official", block_length=8, cache="dual", temporal_metric="ave")
    step, rows = allocated([Request(prompt=(1, 2, 3), method=method, max_new_tokens=128, seed=seed) for seed in range(2)])
    made: list[tuple[int, int]] = []  # masks that are predicted, and bytes
    kept: list[int] = []
    for _ in range(60):
        block_forward = not any(row.refreshes for row in rows)
        masks = 0 if stays else sum(max(1, row.masks) for row in rows)  # a graph predicts whole blocks
        with Operations() as operations:
            step.finish(step.launch(rows, [False] * len(rows)))
        if block_forward:
            made.append((masks, operations.bytes))
        if len(made) in (3, 20) and block_forward:
            gc.collect()
            kept.append(sum(thing.nbytes for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)))
        over = [row.settle() for row in rows]
        if any(over):
            break
    made = made[1:]  # the first block forward makes what the others find
    assert len(made) > 20
    assert len(set(made)) == len(dict(made))
    assert sorted(dict(made).values()) == [size for _, size in sorted(set(made))]
    assert kept[0] == kept[1]
