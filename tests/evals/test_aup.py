"""Accuracy under parallelism: the formula against numbers worked out by hand, and the curves of a sweep."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.evals.aup import GRID, Measured, aup, curves

POINTS = st.lists(st.tuples(st.floats(0.5, 40.0), st.floats(1.0, 100.0)), min_size=1, max_size=10)


def test_the_formula_by_hand() -> None:
    assert aup([(1.0, 80.0)], best=90.0) == 80.0  # the slowest point is not weighted
    weight_80, weight_78 = math.exp(-3 * 10 / 90), math.exp(-3 * 12 / 90)
    by_hand = 80.0 + (4.0 - 1.0) * (78 * weight_78 + 80 * weight_80) / 2
    assert aup([(4.0, 78.0), (1.0, 80.0)], best=90.0) == pytest.approx(by_hand)
    # 75 is exactly 5 below and counts, 74.9 does not, and the point behind the gap is joined to the one before it.
    kept = [(1.0, 80.0), (3.0, 75.0), (9.0, 80.0)]
    assert aup([*kept, (5.0, 74.9)], best=80.0) == pytest.approx(aup(kept, best=80.0))
    assert aup([(1.0, 80.0), (9.0, 80.0)], best=80.0) == pytest.approx(9 * 80.0)


@given(POINTS)
def test_a_curve_is_at_most_its_fastest_point_times_the_best(points: list[tuple[float, float]]) -> None:
    best = max(y for _, y in points)
    assert aup(points, best) <= max(rho for rho, _ in points) * best + 1e-6
    assert aup(points, best) == pytest.approx(aup(points[::-1], best))


@given(POINTS, st.floats(0.1, 100.0))
def test_a_better_rival_can_only_lower_it(points: list[tuple[float, float]], more: float) -> None:
    best = max(y for _, y in points)
    assert aup(points, best + more) <= aup(points, best) + 1e-9


def test_curves_of_two_options() -> None:
    rates = {"0.8": (6.0, 90.0), "0.9": (4.0, 92.0)}
    measured = [
        Measured("vanilla cache=none", "none", (1.0, 93.0)),
        Measured("vanilla cache=dual", "dual", (1.0, 91.0)),
        *(
            Measured(f"r2-dllm threshold={value} cache={cache}", cache, rates[value])
            for value in rates
            for cache in ("none", "dual")
        ),
    ]
    none, dual = curves(measured, best=93.0)
    assert (none.method, none.option, none.values, none.cache) == ("r2-dllm cache=none", "threshold", (0.8, 0.9), "none")
    assert (none.baseline, dual.baseline) == ("vanilla cache=none", "vanilla cache=dual")
    assert none.points == ((1.0, 93.0), (4.0, 92.0), (6.0, 90.0))
    assert none.aup == pytest.approx(aup(none.points, 93.0))


def test_a_sweep_without_numbers_or_vanilla() -> None:
    assert curves([Measured("fast-dllm cache=none", "none", (3.0, 90.0))], best=90.0) == []
    (alone,) = curves([Measured("fast-dllm threshold=0.9", "dual", (3.0, 90.0))], best=90.0)
    assert (alone.baseline, alone.aup) == (None, 270.0)


def test_a_swept_vanilla_is_a_curve_of_its_own() -> None:
    (steps,) = curves([Measured(f"vanilla steps={count}", "none", (128 / count, 90.0)) for count in (64, 128)], best=90.0)
    assert (steps.baseline, steps.points) == (None, ((1.0, 90.0), (2.0, 90.0)))


def test_the_grid_is_ten_values_up_to_0_997() -> None:
    assert len(GRID) == 10
    assert max(GRID) == 0.997
    assert list(GRID) == sorted(set(GRID))
