"""One decision: what it costs in operations and host syncs, and how drafts are matched."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from unmask.bench.decode import ours, plain, step_inputs
from unmask.decode.memory import Streak
from unmask.decode.step import ENDED, UNSETTLED, Ending, status
from unmask.methods import TABLE, load

# Each of these makes the host wait for the device, or gives a tensor whose size depends on its data.
SYNCS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "index.Tensor", "equal.default", "is_nonzero")


class Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations[str(function)] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", [name for name in TABLE if load(name).draft is None])
def test_a_decision_never_waits_and_stays_small(name: str) -> None:
    """Everything from the logits to the flags: no sync (the flags' own read is a plain copy), few operations.

    A rule that moves tokens takes more: it remembers what the block has been and looks for other tokens.
    """
    logits, window = step_inputs(2, 32, 500)
    memory = Streak.empty(2, 32, logits.device, torch.float32)
    method = load(name, temperature=None)
    with torch.inference_mode(), Counting() as counting:
        step = ours(logits, window, memory, method)
        counting.operations.clear()
        step()
    waits = {name: count for name, count in counting.operations.items() if any(sync in name for sync in SYNCS)}
    assert not waits
    assert counting.operations.total() <= (187 if method.commit.moves else 138)


def test_ours_and_the_plain_loop_of_the_bench_leave_the_same_masks() -> None:
    """The bench compares equals: with the published order of rules both commit as much."""
    method = load("r2-dllm-official")
    for seed in range(20):
        logits, window = step_inputs(3, 32, 500, seed=seed)
        memory = Streak.empty(3, 32, logits.device, torch.float32)
        for part, value in ((memory.token, logits.argmax(-1)), (memory.length, torch.tensor(2))):
            part.copy_(value.expand_as(part))
        assert plain(logits, window, memory, method)() == [
            left if left != ENDED else 0 for left in ours(logits, window, memory, method)()
        ]


def test_status_by_ending() -> None:
    """EOS 1, mask 9: after a finished prefix, inside a block that is not finished, in a finished one, alone."""
    window = torch.tensor([[5, 1, 9], [9, 1, 5], [5, 1, 5], [1, 1, 1], [5, 5, 9]])
    nothing = torch.zeros_like(window, dtype=torch.bool)

    def ends(
        ending: Ending, fixed: torch.Tensor = nothing, final: torch.Tensor | None = None, taken: torch.Tensor = nothing
    ) -> list[int]:
        left_B = status(window, fixed, taken, mask_id=9, eos_E=torch.tensor([1]), ending=ending, final_B=final)
        return left_B.tolist()  # type: ignore[no-any-return]

    assert ends("never") == [1, 1, 0, 0, 1]
    assert ends("first") == [ENDED, 1, ENDED, ENDED, 1]
    assert ends("block") == [1, 1, ENDED, ENDED, 1]
    assert ends("whole block") == [1, 1, 0, ENDED, 1]
    # LLaDA2's early stop: the first row's EOS counts where this step has written it.
    assert ends("written") == [1, 1, ENDED, ENDED, 1]
    assert ends("written", taken=torch.tensor([[True, False, False]] * 5)) == [1, 1, ENDED, ENDED, 1]
    assert ends("written", taken=torch.tensor([[False, True, False]] * 5)) == [ENDED, 1, ENDED, ENDED, 1]
    # An EOS that was given ends nothing; beside it the others count as ever.
    given = torch.tensor([[False, True, False]] * 4 + [[False] * 3])
    assert ends("first", given) == [1, 1, 0, ENDED, 1]
    assert ends("block", given) == [1, 1, 0, ENDED, 1]
    assert ends("whole block", given) == [1, 1, 0, ENDED, 1]
    assert ends("whole block", torch.ones_like(nothing)) == [1, 1, 0, 0, 1]
    # Where rules edit, a block that is not final ends nothing, and if it is complete it is not over either.
    final = torch.tensor([False, False, True, False, False])
    assert ends("first", final=final) == [1, 1, ENDED, UNSETTLED, 1]
    assert ends("never", final=final) == [1, 1, 0, UNSETTLED, 1]
