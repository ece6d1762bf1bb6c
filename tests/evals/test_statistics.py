"""Intervals and paired tests."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.evals import statistics
from unmask.evals.statistics import mcnemar, wilson


@given(st.integers(1, 500), st.data())
def test_wilson_holds_its_share(n: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, n))
    found = wilson(right, n)
    assert 0 <= found.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.high <= 1


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200))
def test_mcnemar_is_symmetric_and_a_probability(pairs: list[tuple[bool, bool]]) -> None:
    base, other = [a for a, _ in pairs], [b for _, b in pairs]
    there, back = mcnemar(base, other), mcnemar(other, base)
    assert (there.gained, there.lost) == (back.lost, back.gained)
    assert there.p == back.p
    assert 0 < there.p <= 1


def test_mcnemar_against_the_binomial() -> None:
    """Nine losses and one gain: 2 (C(10,0) + C(10,1)) / 2^10."""
    found = mcnemar([True] * 9 + [False], [False] * 9 + [True])
    assert found.p == pytest.approx(2 * 11 / 1024)


def test_bootstrap_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = random.Random(0)
    held = 0
    for _ in range(300):
        sample = [rng.gauss(5, 2) for _ in range(60)]
        found = statistics.mean(sample)
        held += found.low <= 5 <= found.high
    assert 0.90 <= held / 300 <= 0.98


def test_pairing_takes_out_the_items() -> None:
    rng = random.Random(1)
    base = [rng.uniform(1, 100) for _ in range(200)]
    other = [0.8 * value for value in base]
    found = statistics.ratio(other, base)
    assert found == pytest.approx((0.8, 0.8, 0.8))
    change = statistics.difference([value - 1 for value in base], base)
    assert change.low == pytest.approx(-1)
    assert change.high == pytest.approx(-1)
    assert math.isclose(change.value, -1)
