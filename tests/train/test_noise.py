"""The tokens that a training step masks, and their weights."""

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
    made = noise.redundancy_aware(answer_BT, size, eligible, rate, torch.Generator().manual_seed(seed))
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
    made = noise.redundancy_aware(answer_BT, 32, torch.full((64,), 2), 0.5, torch.Generator().manual_seed(0))
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
