"""Block forwards from device numbers: what a kernel reads lies as it reads it."""

import pytest
import torch

from unmask.context.blocks import Blocks, assemble_blocks


@pytest.mark.parametrize(("rows", "states"), [(1, 1), (1, 4), (3, 1), (3, 4)])
def test_numbers_of_the_past_lie_one_behind_the_other(rows: int, states: int) -> None:
    """One row of several states is where a view would have all of them in one place."""
    part = Blocks(
        tokens_BKQ=torch.zeros(rows, states, 8, dtype=torch.int64),
        before=0,
        begin_B=torch.arange(rows) + 3,
        seen_B=torch.arange(rows) + 20,
        copies_B=torch.arange(rows) + 30,
        pages_BP=torch.arange(4 * rows).view(rows, 4),
    )
    past = assemble_blocks([part])[1].groups[0].past
    assert past is not None
    for number_B in (past.seen_B, past.begin_B, past.end_B, past.shift_B):
        assert number_B.shape == (rows * states,)
        assert number_B.stride() == (1,)
        assert number_B.is_contiguous()
    assert past.seen_B.tolist() == [20 + row for row in range(rows) for _ in range(states)]
