"""Block forwards from device numbers: what a kernel reads lies as it reads it."""

import pytest
import torch

from unmask.context.blocks import Blocks, assemble_blocks


def blocks(rows: int, **options: torch.Tensor) -> Blocks:
    return Blocks(
        tokens_BQ=torch.zeros(rows, 8, dtype=torch.int64),
        before=0,
        begin_B=torch.arange(rows) + 3,
        seen_B=torch.arange(rows) + 20,
        shift_B=30 * torch.arange(rows),
        pages_BP=torch.arange(8 * rows).view(rows, 8),
        scratch=999,
        **options,
    )


@pytest.mark.parametrize("rows", [1, 3])
def test_numbers_of_the_past_lie_one_behind_the_other(rows: int) -> None:
    past = assemble_blocks(blocks(rows))[1].groups[0].past
    assert past is not None
    for number_B in (past.seen_B, past.begin_B, past.end_B, past.shift_B):
        assert number_B.shape == (rows,)
        assert number_B.is_contiguous()
    assert past.seen_B.tolist() == [20 + row for row in range(rows)]


def test_a_query_stands_where_its_row_has_it_and_is_kept_where_its_copy_lies() -> None:
    tokens_N, plan = assemble_blocks(blocks(2))
    assert len(tokens_N) == 16
    assert plan.positions_N.tolist() == [*range(3, 11), *range(4, 12)]
    # The second row's pages begin with page 8; its copies lie 30 slots further on, from slot 34 of the row.
    assert plan.slots_M.tolist() == [*range(3, 11), *range(8 * 16 + 34, 8 * 16 + 42)]
    assert plan.before_R.tolist() == [0, *range(7), 8, *range(8, 15)]


def test_padding_behind_a_shorter_query_is_kept_where_nothing_reads() -> None:
    _, plan = assemble_blocks(blocks(2, length_B=torch.tensor([8, 4]), before_B=torch.tensor([0, 7])))
    assert plan.slots_M.tolist()[8:] == [162, 163, 164, 165, 999, 999, 999, 999]
    assert plan.before_R.tolist()[8:] == [7, *range(8, 15)]
