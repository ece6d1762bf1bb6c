"""The switches of the fine-tuning objective: what each one masks and asks, and what it adds to the loss."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

import unmask
from unmask.models.toy import MASK, toy
from unmask.train.batches import questions
from unmask.train.loss import Question, ask, part_of
from unmask.train.rows import Encoded, Examples, lay_out, order
from unmask.train.sft import SFTConfig
from unmask.train.trainer import Student

EXAMPLES = [Encoded.of([5, 6, 7], range(4, 13 + row)) for row in range(6)]


def tuning(**changes: Any) -> SFTConfig:
    chosen: dict[str, Any] = {"output": "", "model": "", "data": "", "batch_size": 4, "micro_batch": 3, "length": 28}
    return SFTConfig.from_dict(chosen | changes)


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


# --- states of the model's own decode ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "window"), [("llada", "answer"), ("llada", "group"), ("dream", "answer"), ("sdar", "answer"), ("sdar", "group")]
)
def test_the_network_is_asked_for_what_its_own_decode_has_left(family: str, window: str) -> None:
    """Against a loop that decodes one row after the other, and the mean over what is left of each."""
    student, changes = Student(toy(family).network), {"pattern": "decode", "complementary": False, "window": window}
    parts = asked(family, decode_forwards=3, decode_threshold=0.3, batch_size=6, micro_batch=6, **changes)
    (part,) = [part for part in parts if len(part.input_BQ) == 6]
    assert part.own is not None
    assert part.own.forwards_R is not None
    copies, total, left = {"positions_Q": part.positions_Q, "mask_QQ": part.mask_QQ}, 0.0, 0
    for row, forwards in enumerate(part.own.forwards_R.tolist()):
        mine = part.row_N == row
        places, targets, seen = part.place_N[mine], part.target_N[mine], part.own.seen_M[mine]
        made, masked = part.input_BQ[row : row + 1].clone(), torch.ones_like(places, dtype=torch.bool)
        assert (made[0, seen] == MASK).all()
        for number in range(forwards + 1):
            with torch.no_grad():
                states = student.network.hidden(made, **copies)
                logits = student.network.project(states)[0, places - student.network.spec.lookbehind]
            if number == forwards or not masked.any():
                break
            sure = torch.where(masked, logits.softmax(-1).amax(-1), -1.0)
            write = masked & ((sure > 0.3) | (sure == sure.max()))
            made[0, seen[write]] = logits[write].argmax(-1)
            masked &= ~write
        left += int(masked.sum())
        if masked.any():
            total += float(cross_entropy(logits[masked].float(), targets[masked])) * len(places)
    assert 0 < left < len(part.row_N)
    assert loss(family, [part]) == pytest.approx(total / part.total, rel=1e-5)


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


@pytest.mark.parametrize("family", ["sdar", "fast_dllm_v2"])
def test_a_group_of_blocks_is_predicted_as_when_it_is_decoded(family: str) -> None:
    """Clean tokens up to the group, its noisy ones up to the token's block: the same prediction in a plain forward."""
    network, spec = toy(family).network, toy(family).spec
    config = tuning(window="group", group=3, complementary=False)
    rows = lay_out(EXAMPLES, length=28, block_length=config.block(spec), eos_id=spec.eos_ids[0], on_grid=True)
    made = config.hide(rows, spec, torch.Generator().manual_seed(1))
    question = ask(rows.tokens_BT, made, spec)
    assert spec.block is not None
    assert made.begin_BT is not None
    noisy_BT = rows.tokens_BT.masked_fill(made.hidden_BT, MASK)
    with torch.no_grad():
        losses = Student(network)(*question.asked()).loss_N.tolist()
        places = [divmod(int(place), 28) for place in (made.weight_BT > 0).flatten().nonzero()]
        assert len({int(made.begin_BT[row, place]) for row, place in places}) > 1
        for (row, place), found in zip(places, losses, strict=True):
            begin, end = int(made.begin_BT[row, place]), (place // spec.block + 1) * spec.block
            shown = torch.cat((rows.tokens_BT[row, :begin], noisy_BT[row, begin:end]))
            at = place - spec.lookbehind
            # The row before the group is clean, and sees no token of it.
            logits = network(shown[None, :begin] if at < begin else shown[None])[0, at]
            expected = cross_entropy(logits.float(), rows.tokens_BT[row, place])
            assert found == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)


def test_blocks_grow_over_the_run() -> None:
    config = tuning(block_length=[4, 8], complementary=False)
    assert config.block(toy().spec) == 8
    rows = lay_out(EXAMPLES, length=28, block_length=8, eos_id=toy().spec.eos_ids[0])
    for progress, length in ((0.0, 4), (0.49, 4), (0.5, 8), (0.99, 8)):
        made = config.hide(rows, toy().spec, torch.Generator().manual_seed(2), progress)
        assert made.total_B.tolist() == [length] * len(EXAMPLES)
        last = (made.weight_BT > 0).nonzero()[:, 1].max()
        assert int(last) < max(example.width(length, on_grid=False) for example in EXAMPLES)


# --- rates and patterns -----------------------------------------------------------------------------------------------


def test_the_low_end_of_the_rates_rises() -> None:
    """d3LLM: t is drawn from (r, 0.8), and r rises from 0 to 0.8; a token weighs as much as there are asked per masked one."""
    config = tuning(block_length=4, mask_rate=[0.0, 0.8], rising=True)
    rows = lay_out(EXAMPLES * 100, length=28, block_length=4, eos_id=toy().spec.eos_ids[0])
    for progress, mean in ((0.0, 0.4), (0.5, 0.6), (1.0, 0.8)):
        made = config.hide(rows, toy().spec, torch.Generator().manual_seed(0), progress)
        masked = (made.weight_BT > 0).sum(dim=1)
        assert masked[:600].float().mean() / 4 == pytest.approx(mean, abs=0.03)
        assert torch.equal(masked[:600] + masked[600:], torch.full((600,), 4))  # the second view has the rest
        assert torch.equal(made.weight_BT.amax(dim=1)[masked > 0], 4 / masked[masked > 0])


@pytest.mark.parametrize("family", ["llada", "sdar"])
def test_a_trajectorys_state_is_masked(family: str) -> None:
    """Answers written from the right to the left: of each block of four the first tokens are masked."""
    spec = toy(family).spec
    backwards = [Encoded.of([5, 6, 7], range(4, 13), list(range(9, 0, -1)))] * 4
    config = tuning(pattern="trajectory", mask_rate=0.5, **({"block_length": 4} if spec.block is None else {}))
    rows = lay_out(backwards, length=20, block_length=4, eos_id=spec.eos_ids[0], on_grid=spec.block is not None)
    made = config.hide(rows, spec, torch.Generator().manual_seed(0))
    first, second = made.weight_BT[:4] > 0, made.weight_BT[4:] > 0
    asked = first | second
    for row in range(4):
        # Blocks of the answer, counted from its begin or on the grid; filler counts as written with the last token.
        for begin in (3, 7) if spec.block is None else (4, 8):
            if asked[row, begin]:
                assert first[row, begin : begin + 4].tolist() == [True, True, False, False]
                assert second[row, begin : begin + 4].tolist() == [False, False, True, True]
    with pytest.raises(unmask.ConfigError, match="collect them anew"):
        config.hide(rows._replace(steps_BT=torch.zeros_like(rows.steps_BT)), spec, torch.Generator())


# --- teacher and wrong tokens -----------------------------------------------------------------------------------------


def test_distant_tokens_are_learnt_from_the_teacher() -> None:
    """The loss of a distant token is KL(teacher || student) on the same input, that of a near one the cross-entropy."""
    examples = [Encoded.of([5, 6, 7], range(4, 12), list(range(1, 9)))] * 4
    rows = lay_out(examples, length=19, block_length=8, eos_id=toy().spec.eos_ids[0])
    config = tuning(pattern="trajectory", mask_rate=0.75, near=3, block_length=8, complementary=False)
    made = config.hide(rows, toy().spec, torch.Generator().manual_seed(0))
    question = ask(rows.tokens_BT, made, toy().spec)
    student, teacher = toy().network, toy(sharpness=3.0).network
    with torch.no_grad():
        found = Student(student, teacher)(*question.asked()).loss_N
        ours, theirs = (
            network(question.input_BQ)[question.row_N, question.place_N].log_softmax(-1) for network in (student, teacher)
        )
    hard = -ours.gather(1, question.target_N[:, None])[:, 0]
    soft = (theirs.exp() * (theirs - ours)).sum(-1)
    assert question.distant_M is not None
    distant = torch.isin(torch.arange(len(hard)), question.distant_M)
    assert distant.any()
    assert not distant.all()
    torch.testing.assert_close(found, torch.where(distant, soft, hard))


def test_wrong_tokens_are_shown_and_asked() -> None:
    plain = asked("sdar", complementary=False)
    for family in ("llada", "sdar"):
        spec = toy(family).spec
        config = tuning(wrong=0.5, complementary=False, **({"block_length": 4} if spec.block is None else {}))
        rows = laid(family, config).rows(config, 0)
        made = config.hide(rows, spec, torch.Generator().manual_seed(0))
        question = ask(rows.tokens_BT, made, spec)
        shown = question.input_BQ[question.row_N, question.place_N]
        wrong = shown != MASK
        assert wrong.any()
        assert (shown != question.target_N).all()  # a mask, or another token than the right one
        assert question.weight_N[wrong].tolist() == [1.0] * int(wrong.sum())
        assert question.weight_N[~wrong].tolist() == [2.0] * int((~wrong).sum())
    assert plain[0].total == asked("sdar", complementary=False, wrong=0.5)[0].total


# --- which answers ----------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(1, 7), st.booleans())
def test_answers_are_drawn_in_proportion_to_their_blocks(shares: list[int], size: int, similar: bool) -> None:
    """In every epoch each one as often as its share of all blocks says, rounded up or down."""
    config, count = tuning(batch_size=size), len(shares)
    widths = tuple(shares) if similar else None
    for epoch in range(2):
        drawn: list[int] = []
        for step in range(-(-(epoch + 1) * count // size)):
            drawn += order(count, config, step, widths, tuple(shares))
        for index, share in enumerate(shares):
            expected = count * share / sum(shares)
            found = drawn[epoch * count : (epoch + 1) * count].count(index)
            assert abs(found - expected) < 1


def test_with_draws_in_proportion_every_token_counts_alike() -> None:
    """One block of four of each draw: an answer of two blocks and one of six are asked about as often per block."""
    short, long = Encoded.of([5], range(4, 9)), Encoded.of([5], range(4, 27))
    config = tuning(draw="blocks", block_length=4, batch_size=400, complementary=False)
    laid = Examples(examples=[short, long] * 40, length=28, block_length=4, eos_id=1, on_grid=False, fill="length")
    rows = laid.rows(config, 0)
    is_long = rows.blocks_B == 6
    assert float(is_long.float().mean()) == pytest.approx(6 / 8, abs=0.02)


def test_bad_settings_say_what_would_be_right() -> None:
    for changes, said in (
        ({"window": "answers"}, "did you mean 'answer'"),
        ({"draw": "block"}, "did you mean 'blocks'"),
        ({"on_policy": 1.5}, "on_policy must be a number from 0 to 1"),
        ({"certainty": -1}, "certainty must be a number from 0 to 100"),
        ({"mask_rate": [0.8, 0.2]}, r"a range \[low, high\]"),
        ({"mask_rate": [0.1, 0.2, 0.3]}, r"a range \[low, high\]"),
        ({"rising": True}, "rising needs a range"),
        ({"window": "group"}, "complementary: false"),
        ({"near": 8}, "near takes pattern: trajectory"),
        ({"window": "group", "pattern": "trajectory", "complementary": False}, "window: group takes pattern: random or decode"),
        ({"pattern": "decode"}, "pattern: decode takes complementary: false"),
        ({"pattern": "decode", "complementary": False, "on_policy": 0.5}, "pattern: decode is on-policy already"),
        ({"pattern": "decode", "complementary": False, "decode_forwards": 0}, "decode_forwards"),
        ({"objective": "masked", "window": "answer"}, "takes objective: block"),
        ({"block_length": [16, 0]}, "block_length must be a whole number"),
    ):
        with pytest.raises(unmask.ConfigError, match=said):
            tuning(**changes)
