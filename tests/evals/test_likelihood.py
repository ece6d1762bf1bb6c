"""Masked likelihood against all masks written out in float64; greedy answers against the engine."""

import itertools
import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import unmask
from unmask.engine.simple import decode
from unmask.errors import EmptyPrompt, MaskInPrompt, PromptTooLong
from unmask.evals.likelihood import Pair, greedy, log_likelihoods, masks
from unmask.models.denoiser import Denoiser
from unmask.models.toy import MASK, toy

FAMILIES = ("llada", "dream")
PAIRS: list[Pair] = [([3, 1, 4], [1, 5, 9, 2]), ([6], [5, 3]), ([8, 9, 7, 9, 3], [2]), ([2, 7], [1, 8, 2, 8, 1])]


def precise(family: str) -> Denoiser:
    return toy(family, seed=1, sharpness=3.0, dtype=torch.float64)


def log_probabilities(model: Denoiser, tokens: list[int]) -> Tensor:
    """[T, V]: row i predicts token i. One plain forward over the whole sequence, the model's own alignment undone by hand."""
    raw_TV = model.network(torch.tensor([tokens]))[0].log_softmax(dim=-1)
    return raw_TV if model.spec.lookbehind == 0 else raw_TV.roll(1, dims=0)


def expectation(model: Denoiser, pair: Pair) -> float:
    """The definition, word for word: the mean over l of the mean over all sets of l positions of L / l times the sum."""
    prompt, answer = pair
    length, total = len(answer), 0.0
    for count in range(1, length + 1):
        sets = list(itertools.combinations(range(length), count))
        for hidden in sets:
            shown = [MASK if place in hidden else token for place, token in enumerate(answer)]
            found_TV = log_probabilities(model, [*prompt, *shown])
            found = sum(found_TV[len(prompt) + place, answer[place]].item() for place in hidden)
            total += length / count * found / len(sets) / length
    return total


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_size", [1, 7])
def test_short_answers_are_exact(family: str, batch_size: int) -> None:
    model = precise(family)
    found = log_likelihoods(model, PAIRS, draws=31, batch_size=batch_size)
    assert found == pytest.approx([expectation(model, pair) for pair in PAIRS], abs=1e-9)
    assert max(found) < -0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_draws_meet_the_expectation(family: str) -> None:
    """The mean of many estimates lies within four standard errors of the truth, and more draws vary less."""
    model, pair = precise(family), PAIRS[3]
    truth = expectation(model, pair)
    spread = {}
    for draws in (3, 12):
        found = [log_likelihoods(model, [pair], draws=draws, seed=seed, batch_size=16)[0] for seed in range(300)]
        error = statistics.stdev(found) / math.sqrt(len(found))
        assert abs(statistics.mean(found) - truth) < 4 * error
        spread[draws] = statistics.stdev(found)
    assert 0 < spread[12] < 0.7 * spread[3]


def test_draws_depend_on_nothing_but_the_seed() -> None:
    model = precise("llada")
    alone = [log_likelihoods(model, [pair], draws=2, seed=5)[0] for pair in PAIRS]
    assert log_likelihoods(model, PAIRS[::-1], draws=2, seed=5, batch_size=3)[::-1] == pytest.approx(alone, abs=1e-9)
    assert log_likelihoods(model, PAIRS[:1], draws=2, seed=6) != pytest.approx(alone[:1], abs=1e-6)


@settings(max_examples=60)
@given(length=st.integers(1, 40), draws=st.integers(1, 70), seed=st.integers(0, 2**40))
def test_masks_and_weights(length: int, draws: int, seed: int) -> None:
    hidden_NL, weight_N = masks(length, draws, seed)
    count_N = hidden_NL.sum(dim=1)
    assert count_N.min() >= 1
    if 2**length - 1 <= draws:
        assert len({tuple(row) for row in hidden_NL.tolist()}) == 2**length - 1
        # Every token counts once: the expected weight of each is 1.
        assert (weight_N @ hidden_NL.double()).tolist() == pytest.approx([1.0] * length)
    else:
        assert weight_N.tolist() == pytest.approx((length / (count_N * draws)).tolist())
        # Spread evenly: no l is drawn more than its share, rounded up, plus one for where the steps begin.
        assert count_N.bincount().max() <= math.ceil(draws / length) + 1


def test_a_uniform_model_has_the_uniform_likelihood() -> None:
    """Logits of zero: log p is L log(1 / V) whatever the masks, so estimates have no spread at all."""
    model = toy(sharpness=0.0, dtype=torch.float64)
    answer = [1, 2, 3, 4, 5, 6, 7, 8, 9]
    for draws in (4, 600):
        assert log_likelihoods(model, [([1], answer)], draws=draws, batch_size=64) == pytest.approx([-9 * math.log(24)])


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_is_what_vanilla_writes(family: str) -> None:
    """The engine's answer in one block is greedy, and no longer once any of its tokens is changed."""
    model = toy(family, seed=3, sharpness=2.0)
    method = unmask.method("vanilla", block_length=None)
    pairs: list[Pair] = []
    expected = []
    for number, length in enumerate((1, 4, 6, 4, 2)):
        prompt = [number + 1, 7, 2 * number][: 1 + number % 3]
        done = decode(model, prompt, method, max_new_tokens=length)
        pairs.append((prompt, done.token_ids))
        expected.append(True)
        for place in range(length):
            other = [(token + (spot == place)) % 20 for spot, token in enumerate(done.token_ids)]
            pairs.append((prompt, other))
            expected.append(other == done.token_ids)
    assert greedy(model, pairs) == expected
    assert greedy(model, pairs, batch_size=4) == expected
    assert sum(expected) == 5


def test_an_empty_answer_is_certain() -> None:
    assert log_likelihoods(toy(), [([1], [])]) == [0.0]
    assert greedy(toy(), [([1], [])]) == [True]


@pytest.mark.parametrize(
    ("pair", "error"),
    [
        (([], [1]), EmptyPrompt),
        (([1], [2, MASK]), MaskInPrompt),
        (([MASK], [2]), MaskInPrompt),
        (([1] * 500, [1] * 13), PromptTooLong),
    ],
)
def test_pairs_that_cannot_be_scored(pair: Pair, error: type[Exception]) -> None:
    for score in (log_likelihoods, greedy):
        with pytest.raises(error):
            score(toy(), [([1], [2]), pair])
