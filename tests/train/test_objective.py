"""The switches of the fine-tuning objective: what each one masks and asks, and what it adds to the loss."""

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

import unmask
from unmask.models.toy import MASK, toy
from unmask.train.batches import questions
from unmask.train.loss import Question, part_of
from unmask.train.rows import Encoded, Examples, lay_out
from unmask.train.sft import SFTConfig
from unmask.train.trainer import Student

EXAMPLES = [Encoded.of([5, 6, 7], range(4, 13 + row)) for row in range(6)]


def tuning(**changes: Any) -> SFTConfig:
    settings: dict[str, Any] = {"output": "", "model": "", "data": "", "batch_size": 4, "micro_batch": 3, "length": 28}
    return SFTConfig.from_dict(settings | changes)


def laid(family: str, config: SFTConfig) -> Examples:
    spec = toy(family).spec
    return Examples(
        examples=EXAMPLES,
        length=28,
        block_length=config.block(spec),
        eos_id=spec.eos_ids[0],
        on_grid=spec.block is not None,
        fill="length",
    )


def asked(family: str, step: int = 0, **changes: Any) -> list[Question]:
    """The micro-batches of one step."""
    spec = toy(family).spec
    config = tuning(**({"block_length": 4} if spec.block is None else {}) | changes)
    return questions(laid(family, config).rows(config, step), config, spec, step, 0, 1)


def loss(family: str, parts: list[Question]) -> float:
    student, total = Student(toy(family).network), sum(part.total for part in parts)
    with torch.no_grad():
        return sum(float(part_of(student(*part.asked()), part, total)) for part in parts)


# --- all switches off -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "changes", "count", "expected"),
    [
        ("llada", {"objective": "masked"}, 105, 13.317868828773499),
        ("llada", {"mask_rate": 0.75}, 32, 10.312115907669067),
        ("llada", {"complementary": False}, 17, 11.4579376578331),
        ("dream", {"mask_rate": 0.75}, 32, 11.093859791755676),
        ("sdar", {"objective": "masked"}, 59, 9.12856125831604),
        ("sdar", {"mask_rate": 0.75}, 112, 8.978557109832764),
        ("sdar", {"complementary": False}, 55, 9.043006479740143),
    ],
)
def test_without_switches_the_loss_is_what_it_was(family: str, changes: dict[str, Any], count: int, expected: float) -> None:
    """The losses of two steps, computed before there were switches."""
    steps = [asked(family, step, **changes) for step in range(2)]
    assert sum(len(part.row_N) for parts in steps for part in parts) == count
    assert sum(loss(family, parts) for parts in steps) == pytest.approx(expected, rel=1e-6)


# --- on-policy noise --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llada", "dream", "sdar"])
def test_the_network_is_asked_about_its_own_predictions(family: str) -> None:
    """Every supervised mask, and no other one, is replaced by the most probable token of a first forward."""
    student = Student(toy(family).network)
    for plain, own in zip(asked(family), asked(family, on_policy=1.0), strict=True):
        assert torch.equal(plain.input_BQ, own.input_BQ)
        with torch.no_grad():
            states = student.network.hidden(plain.input_BQ, positions_Q=plain.positions_Q, mask_QQ=plain.mask_QQ)
            logits = student.network.project(states)
            made = plain.input_BQ.clone()
            for row, place in zip(plain.row_N.tolist(), plain.place_N.tolist(), strict=True):
                # These toys predict a token in the row of its own copy, Dream in the one before.
                source = place - student.network.spec.lookbehind
                assert made[row, place] == MASK
                made[row, place] = logits[row, source].argmax()
            expected = student.network.project(
                student.network.hidden(made, positions_Q=plain.positions_Q, mask_QQ=plain.mask_QQ)
            )
            found = student(*own.asked()).loss_N
        places = own.place_N - student.network.spec.lookbehind
        torch.testing.assert_close(found, cross_entropy(expected[own.row_N, places].float(), own.target_N, reduction="none"))


def test_the_share_of_rows_on_policy_is_as_asked() -> None:
    parts = asked("llada", on_policy=0.25, batch_size=600, micro_batch=1)
    own = [part.own for part in parts]
    assert all(one is not None and len(one.rows_R) == 1 for one in own)  # as many forwards in every process
    share = sum(len(one.row_M) > 0 for one in own if one is not None) / sum(len(part.row_N) > 0 for part in parts)
    assert share == pytest.approx(0.25, abs=0.05)
    for part in parts:
        assert part.own is not None
        assert len(part.own.row_M) in (0, len(part.row_N))


# --- certainty --------------------------------------------------------------------------------------------------------


def test_certainty_adds_the_mean_entropy_of_right_tokens_per_row() -> None:
    """The loss of a step against the formula written out; a formula of two rows by hand is loss.certainty's example."""
    plain, forced = asked("llada", batch_size=60), asked("llada", batch_size=60, certainty=2.0)
    student, total, extra = Student(toy().network), sum(part.total for part in plain), 0.0
    for part in plain:
        with torch.no_grad():
            logits = student.network.project(student.network.hidden(part.input_BQ))
        rows: dict[int, list[float]] = {row: [] for row in range(len(part.input_BQ))}
        for row, place, target in zip(part.row_N.tolist(), part.place_N.tolist(), part.target_N.tolist(), strict=True):
            if logits[row, place].argmax() == target:
                p = (logits[row, place] / 0.5).softmax(-1).double()
                rows[row].append(-float((p * p.log()).sum()))
        extra += sum(2.0 * 4 * sum(found) / len(found) for found in rows.values() if found)  # blocks of four
    assert extra > 0
    assert loss("llada", forced) - loss("llada", plain) == pytest.approx(extra / total, rel=1e-5)


def test_no_split_changes_certainty() -> None:
    """Micro-batches of one row and of all rows give the same loss."""
    losses = [loss("sdar", asked("sdar", certainty=2.0, on_policy=0.5, batch_size=20, micro_batch=size)) for size in (1, 3, 40)]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)


# --- windows ----------------------------------------------------------------------------------------------------------


def test_the_whole_answer_at_once() -> None:
    """Everything up to the block of the first EOS is asked in one of two views; what comes after stays masked."""
    config = tuning(block_length=4, window="answer")
    rows = lay_out(EXAMPLES, length=28, block_length=4, eos_id=toy().spec.eos_ids[0])
    made = config.hide(rows, toy().spec, torch.Generator().manual_seed(0))
    for row, example in enumerate(EXAMPLES):
        end = example.width(4, on_grid=False)
        weights = made.weight_BT[row] + made.weight_BT[row + len(EXAMPLES)]
        assert (weights > 0).nonzero()[:, 0].tolist() == list(range(3, end))
        for view in (row, row + len(EXAMPLES)):
            assert made.hidden_BT[view, end : 3 + 24].all()
            assert made.total_B[view] == end - 3


def test_bad_settings_say_what_would_be_right() -> None:
    for changes, said in (
        ({"window": "answers"}, "did you mean 'answer'"),
        ({"on_policy": 1.5}, "on_policy must be a number from 0 to 1"),
        ({"certainty": -1}, "certainty must be a number from 0 to 100"),
    ):
        with pytest.raises(unmask.ConfigError, match=said):
            tuning(**changes)
