"""The tokens that a training step masks, and their weights."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.train import noise


@settings(max_examples=40)
@given(st.integers(1, 4), st.integers(1, 40), st.integers(0, 10), st.integers(0, 2**31))
def test_noise_hides_answers_only_and_something_of_each(rows: int, answer: int, prompt: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    answer_BT = torch.zeros(rows, prompt + answer, dtype=torch.bool)
    answer_BT[:, prompt:] = True
    rates = noise.stratified(rows, generator)
    assert ((rates > 0) & (rates <= 1)).all()
    uniform = noise.bernoulli(answer_BT, rates[:, None], generator)
    hidden, inside = noise.block(answer_BT, 8, rates, generator)
    for mask in (uniform, hidden, inside):
        assert not (mask & ~answer_BT).any()
        assert mask.any(dim=1).all()
    assert not (inside & ~hidden).any()
    for row in range(rows):
        places = inside[row].nonzero()[:, 0] - prompt
        first, last = int(places.min()) // 8, int(places.max()) // 8
        assert first == last
        later = hidden[row, prompt + (first + 1) * 8 :]
        assert later.all()
        assert not hidden[row, : prompt + first * 8].any()


@settings(max_examples=40)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 5), st.floats(0.1, 0.9), st.integers(0, 2**31))
def test_the_block_objective_is_the_papers(rows: int, blocks: int, prompt: int, rate: float, seed: int) -> None:
    """One block per row, complementary views, weights 1 / p and 1 / (1 - p), earlier blocks clean, later ones hidden."""
    size = 4
    answer_BT = torch.zeros(rows, prompt + blocks * size + 2, dtype=torch.bool)  # two tokens behind the canvas
    answer_BT[:, prompt : prompt + blocks * size] = True
    eligible = torch.randint(1, blocks + 1, (rows,), generator=torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed)
    made = noise.views(*noise.draw_block(answer_BT, size, eligible, generator), rate, generator, complementary=True)
    assert len(made.hidden_BT) == 2 * rows
    for row in range(rows):
        first, second = made.weight_BT[row], made.weight_BT[row + rows]
        asked = (first > 0) | (second > 0)
        assert not ((first > 0) & (second > 0)).any()
        places = asked.nonzero()[:, 0] - prompt
        assert places.tolist() == list(range(int(places[0]), int(places[0]) + size))
        block = int(places[0]) // size
        assert int(places[0]) % size == 0
        assert block < eligible[row]
        for view, weight, value in ((row, first, 1 / rate), (row + rows, second, 1 / (1 - rate))):
            torch.testing.assert_close(weight[weight > 0], torch.full_like(weight[weight > 0], value))
            assert made.total_B[view] == size
            hidden = made.hidden_BT[view]
            assert not hidden[: prompt + block * size].any()
            assert hidden[prompt + (block + 1) * size : prompt + blocks * size].all()
            assert not hidden[prompt + blocks * size :].any()
            assert torch.equal(hidden & asked, weight > 0)


@settings(max_examples=40)
@given(st.integers(1, 4), st.integers(1, 40), st.integers(0, 10), st.sampled_from([1, 4, 16]), st.integers(0, 2**31))
def test_every_block_of_the_grid_has_its_own_rate(rows: int, answer: int, prompt: int, block: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    answer_BT = torch.zeros(rows, prompt + answer, dtype=torch.bool)
    answer_BT[:, prompt:] = True
    hidden = noise.grid(answer_BT, block, 0.5, generator)
    assert not (hidden & ~answer_BT).any()
    assert hidden.any(dim=1).all()
    assert torch.equal(noise.grid(answer_BT, block, 1.0, generator), answer_BT)


def test_a_share_of_the_blocks_is_hidden_wholly_and_the_others_evenly() -> None:
    hidden = noise.grid(torch.ones(64, 1024, dtype=torch.bool), 16, 0.25, torch.Generator().manual_seed(0))
    share = hidden.view(-1, 16).float().mean(dim=1)
    assert (share == 1).float().mean().item() == pytest.approx(0.25 + 0.75 / 17, abs=0.01)  # evenly: 17 shares are as likely
    assert share.mean().item() == pytest.approx(0.25 + 0.75 / 2, abs=0.01)


def test_blocks_and_masks_are_drawn_for_every_row() -> None:
    answer_BT = torch.ones(64, 64, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    made = noise.views(*noise.draw_block(answer_BT, 32, torch.full((64,), 2), generator), 0.5, generator, complementary=True)
    second = (made.weight_BT[:64, 32:] > 0).any(dim=1)
    assert 20 < int(second.sum()) < 44
    patterns = {tuple(row.tolist()) for row in made.weight_BT[:64] > 0}
    assert len(patterns) == 64


def test_the_masked_objective_weighs_one_over_t() -> None:
    answer_BT = torch.ones(8, 40, dtype=torch.bool)
    made = noise.masked(answer_BT, torch.Generator().manual_seed(0))
    share = made.hidden_BT.float().mean(dim=1)
    torch.testing.assert_close(made.weight_BT, made.hidden_BT / share[:, None])
    assert made.total_B.tolist() == [40.0] * 8


# --- states of a trajectory -------------------------------------------------------------------------------------------


def order(steps: list[int], states: list[int] | None = None) -> noise.Trajectory:
    steps_BT = torch.tensor([steps])
    asked_BT = torch.ones_like(steps_BT, dtype=torch.bool)
    return noise.Trajectory.of(asked_BT, steps_BT, torch.tensor([states or [0] * len(steps)]))


def test_a_state_of_one_token_per_forward_has_so_many_tokens_written() -> None:
    """d3LLM's index: int((1 - t) B) tokens of the block are written."""
    written = order([4, 1, 3, 10, 2, 9, 5, 8, 6, 7])
    for rate, count in ((0.8, 2), (0.7, 3), (0.35, 6), (1.0, 0), (0.01, 9)):
        shown = ~written.masked(torch.tensor([[rate]]))[0]
        assert sorted(written.steps_BT[0, shown].tolist()) == list(range(1, count + 1))


@settings(max_examples=60)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=12), st.floats(0.01, 0.99), st.integers(1, 4))
def test_a_state_is_one_of_the_decode(steps: list[int], rate: float, size: int) -> None:
    """In every block the written tokens are those of its first forwards, at most a share 1 - rate, and no more fit."""
    states = [place // size for place in range(len(steps))]
    masked = order(steps, states).masked(torch.tensor([[rate]]))[0].tolist()
    for state in set(states):
        places = [place for place in range(len(steps)) if states[place] == state]
        shown = [steps[place] for place in places if not masked[place]]
        hidden = [steps[place] for place in places if masked[place]]
        allowed = int((1 - rate) * len(places) + 1e-4)
        assert len(shown) <= allowed
        if hidden:
            assert max(shown, default=0) < min(hidden)
            assert len(shown) + hidden.count(min(hidden)) > allowed


def test_filler_counts_as_written_last() -> None:
    made = noise.Trajectory.of(
        torch.tensor([[False, True, True, True]]), torch.tensor([[9, 2, 5, 0]]), torch.zeros(1, 4).long()
    )
    assert made.steps_BT[0, 1:].tolist() == [2, 5, 5]


def test_near_and_distant_tokens_have_a_mean_each() -> None:
    """Two of six are written, by forward 3; within 2 forwards come 4 and 5, later 7 and 8: weights 6/2 and 6/2."""
    written = order([1, 3, 4, 5, 7, 8])
    first = written.masked(torch.tensor([[4 / 6]]))
    assert first.int().tolist() == [[0, 0, 1, 1, 1, 1]]
    made = noise.known_views(written.asked_BT, torch.zeros_like(first), first, complementary=True)
    made = noise.split(made, written, first, near=2)
    assert made.distant_BT is not None
    assert made.distant_BT.int().tolist() == [[0, 0, 0, 0, 1, 1], [0] * 6]
    torch.testing.assert_close(made.weight_BT, torch.tensor([[0.0, 0, 3, 3, 3, 3], [3.0, 3, 0, 0, 0, 0]]))
    nothing = written.distant(torch.ones_like(first), near=2)  # nothing is written yet: forwards 1 and 2 are near
    assert nothing.int().tolist() == [[0, 1, 1, 1, 1, 1]]


def test_distant_tokens_are_counted_from_their_own_blocks_state() -> None:
    written = order([1, 2, 3, 4], [0, 0, 1, 1])
    masked = torch.tensor([[False, True, True, True]])
    assert written.distant(masked, near=1).int().tolist() == [[0, 0, 0, 1]]  # block 1 begins after forward 2


# --- groups and wrong tokens ------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 2**31))
def test_a_group_is_consecutive_blocks_with_rising_rates(blocks: int, size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    answer_BT = torch.ones(3, 4 * blocks + 4, dtype=torch.bool)
    asked, later, group = noise.draw_group(answer_BT, 4, torch.full((3,), blocks), size, generator)
    rates = noise.rising_rates(group, generator)
    for row in range(3):
        places = asked[row].nonzero()[:, 0].tolist()
        assert places == list(range(places[0], places[-1] + 1))
        assert places[0] % 4 == 0
        assert len(places) in range(4, 4 * size + 1, 4)
        assert later[row].nonzero()[:, 0].tolist() == list(range(places[-1] + 1, 4 * blocks + 4))
        found = rates[row, places].tolist()
        assert found == sorted(found)
        assert 0.5 <= found[-1] <= 1
        if len(places) > 4:
            assert found[0] <= 0.3


def test_groups_on_the_grid_begin_with_the_answer() -> None:
    """Blocks of two in groups of three: 2 prompt tokens, a row whose answer begins in block 1, one in block 2."""
    answer_BT = torch.arange(14) >= torch.tensor([[2], [5]])
    seen = set()
    for seed in range(20):
        group, begin = noise.groups_on_grid(answer_BT, 2, 3, torch.Generator().manual_seed(seed))
        seen.add(tuple(begin[0].tolist()))
        assert torch.equal(begin[0], begin[1])
        rates = noise.rising_rates(group, torch.Generator().manual_seed(seed))
        for row in range(2):
            places = [place for place in range(14) if answer_BT[row, place]]
            for before, after in itertools.pairwise(places):
                if begin[row, before] == begin[row, after]:
                    assert group.group_BT[row, before] == group.group_BT[row, after]
                    assert rates[row, before] <= rates[row, after]
                else:
                    assert begin[row, after] == after
                    assert rates[row, before] >= 0.5
            assert group.number_BT[row, places[0]] == 0
    assert seen == {
        (0, 0, 0, 0, 0, 0, 6, 6, 6, 6, 6, 6, 12, 12),
        (0, 0, 0, 0, 4, 4, 4, 4, 4, 4, 10, 10, 10, 10),
        (0, 0, 2, 2, 2, 2, 2, 2, 8, 8, 8, 8, 8, 8),
    }


def test_wrong_tokens_are_visible_ones_that_differ() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens_BT = torch.arange(200).view(2, 100)
    answer_BT = torch.arange(100).expand(2, 100) >= 20
    visible_BT = answer_BT & (torch.arange(100) % 2 == 0)
    shown, wrong = noise.wrong_tokens(tokens_BT, answer_BT, visible_BT, 0.25, generator)
    assert not (wrong & ~visible_BT).any()
    assert torch.equal(shown != tokens_BT, wrong)
    assert torch.isin(shown[wrong], tokens_BT[answer_BT]).all()
    assert 8 <= int(wrong.sum()) <= 32  # a quarter of eighty
