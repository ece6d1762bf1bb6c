"""Rows of a step: filling, similar lengths, and answers in the middle of a row."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import unmask
from unmask.decode.spec import ModelSpec
from unmask.train import noise
from unmask.train.batches import questions
from unmask.train.conversation import Piece
from unmask.train.rows import Encoded, Examples, lay_out
from unmask.train.sft import SFTConfig

EOS, MASK = 1, 2
SPEC = ModelSpec(mask_id=MASK, eos_ids=(EOS,), vocab_size=50, max_length=512)
TALK = Encoded.joined(  # answers at 3..7 and 10..13
    [Piece("user", [5, 6, 7], False), Piece("assistant", [10, 11, 12, 13], True), Piece("user", [8, 9, 8], False),
     Piece("assistant", [14, 15, 16], True)], [2, 1, 3]
)  # fmt: skip


def config(**changes: Any) -> SFTConfig:
    settings = {"output": "", "model": "", "data": "", "batch_size": 4, "micro_batch": 8, "block_length": 4, "length": 64}
    return SFTConfig.from_dict(settings | changes)


def laid(examples: list[Encoded], **changes: Any) -> Examples:
    settings: dict[str, Any] = {"length": 64, "block_length": 4, "eos_id": EOS, "on_grid": False, "fill": "step"}
    return Examples(examples=examples, **settings | changes)


def test_several_answers_by_hand() -> None:
    rows = lay_out([TALK], length=20, block_length=4, eos_id=EOS)
    assert rows.tokens_BT[0].tolist() == [5, 6, 7, 10, 11, 12, 13, 8, 9, 8, 14, 15, 16, *[EOS] * 7]
    assert rows.answer_BT[0].nonzero()[:, 0].tolist() == [*range(3, 7), *range(10, 18)]
    assert (rows.blocks_B.tolist(), rows.steps_BT[0, 10:14].tolist()) == ([1], [2, 1, 3, 0])
    grid = lay_out([TALK], length=20, block_length=4, eos_id=EOS, on_grid=True)
    assert grid.answer_BT[0].nonzero()[:, 0].tolist() == [*range(3, 7), *range(10, 16)]
    assert grid.blocks_B.tolist() == [2]  # 8..12, which begins in the prompt, and 12..16, which holds the first EOS
    with pytest.raises(unmask.ConfigError, match="leaves no block of 4 within length 13"):
        lay_out([TALK], length=13, block_length=4, eos_id=EOS)


@given(st.lists(st.integers(1, 90), min_size=1, max_size=60), st.integers(1, 9), st.integers(0, 5))
def test_steps_of_similar_lengths_take_every_example_once_per_epoch(lengths: list[int], size: int, seed: int) -> None:
    settings, examples = config(batch_size=size, seed=seed), [Encoded.of([3], range(3, 3 + length)) for length in lengths]
    made, count = laid(examples, length=128), len(lengths)
    widths = [made.rows(settings, step).tokens_BT.shape[1] for step in range(4)]
    assert all(width <= 128 for width in widths)
    from unmask.train.rows import order

    drawn = [index for step in range(3 * count) for index in order(count, settings, step, made.widths)][: 3 * count]
    for epoch in range(3):
        assert sorted(drawn[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_steps_of_similar_lengths_save_filling_and_now_and_then_leave_room() -> None:
    examples = [Encoded.of([3], [4] * (7 * place % 97 + 1)) for place in range(97 * 4)]
    settings, made = config(batch_size=8), laid(examples, length=128)
    steps = [made.rows(settings, step) for step in range(48)]
    assert steps[5].tokens_BT.shape == made.rows(settings, 5).tokens_BT.shape  # a resumed run has the same
    needed = [max(int((row != EOS).sum()) for row in rows.tokens_BT) for rows in steps]
    room = [rows.tokens_BT.shape[1] - need > 4 for rows, need in zip(steps, needed, strict=True)]
    assert 4 <= sum(room) <= 20  # about a quarter of 48
    spread = [
        int(need - min(int((row != EOS).sum()) for row in rows.tokens_BT)) for rows, need in zip(steps, needed, strict=True)
    ]
    assert sorted(spread)[24] <= 4
    grid = laid(examples, length=128, on_grid=True)
    assert all(grid.rows(settings, step).tokens_BT.shape[1] <= need + 4 for step, need in enumerate(needed))


@pytest.mark.parametrize("window", [{"objective": "masked"}, {}, {"window": "answer"}, {"complementary": False}])
def test_an_answer_sees_nothing_of_what_follows_it(window: dict[str, Any]) -> None:
    """Under full attention: one answer of a row is asked, what comes before it is shown, and all behind it is masked."""
    settings, rows = config(**window), lay_out([TALK] * 64, length=20, block_length=4, eos_id=EOS)
    made = settings.hide(rows, SPEC, torch.Generator().manual_seed(0))
    first = second = 0
    for hidden, weight in zip(made.hidden_BT, made.weight_BT > 0, strict=True):
        asked = weight.nonzero()[:, 0].tolist()
        assert bool((hidden | ~weight).all())  # what is asked is masked
        assert not hidden[:3].any()
        if not asked:
            continue
        if asked[0] < 7:
            first += 1
            assert asked[-1] < 7
            assert hidden[7:18].all()
        else:
            second += 1
            assert not hidden[:10].any()
    assert first > 0 < second


def test_a_block_causal_model_is_asked_for_all_answers_of_a_row() -> None:
    spec = ModelSpec(mask_id=MASK, eos_ids=(EOS,), vocab_size=50, max_length=512, block=4)
    settings, made = config(block_length=None, batch_size=1), laid([TALK], on_grid=True)
    (part,) = questions(made.rows(settings, 0), settings, spec, 0, 0, 1)
    assert part.positions_Q is not None
    asked = part.positions_Q[part.place_N]
    assert sorted(asked.tolist()) == [*range(3, 7), *range(10, 16)]  # each in one of the two views
    assert sorted(part.target_N.tolist()) == [EOS] * 3 + [10, 11, 12, 13, 14, 15, 16]


@given(st.lists(st.booleans(), min_size=2, max_size=24), st.integers(1, 5), st.integers(0, 3))
def test_drawing_an_answer(flags: list[bool], length: int, seed: int) -> None:
    answer_BT = torch.tensor([[*flags, False, True], [*[False] * len(flags), True, True]])
    blocks_B = torch.tensor([1, 2])
    turn_BT, behind_BT, drawn_B = noise.draw_answer(answer_BT, length, blocks_B, torch.Generator().manual_seed(seed))
    for answer, turn, behind, last, blocks in zip(answer_BT, turn_BT, behind_BT, blocks_B, drawn_B, strict=True):
        places = turn.nonzero()[:, 0].tolist()
        assert places == list(range(places[0], places[-1] + 1))  # one stretch
        assert answer[places].all()
        ends = answer.nonzero()[:, 0].tolist()
        assert behind.nonzero()[:, 0].tolist() == list(range(places[-1] + 1, ends[-1] + 1))
        assert blocks == (last if places[-1] == ends[-1] else -(-len(places) // length))
    assert not behind_BT[1].any()
    alone = torch.tensor([[False, True, True]])
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert noise.draw_answer(alone, length, blocks_B[:1], generator)[0] is alone
    assert torch.equal(generator.get_state(), before)  # rows of one answer cost no random number
