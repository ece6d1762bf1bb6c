"""The pictures are drawn, and the frontier is one."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

import unmask
from unmask.evals.picture import frontier, pareto, rules

ROW = {"accuracy_low": 0.4, "accuracy_high": 0.6, "seconds_per_item": 0.1}
PNG = b"\x89PNG"


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12))
def test_frontier_holds_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    kept = frontier(points)
    for cost, value in points:
        assert any(points[index][0] <= cost and points[index][1] >= value for index in kept)
    for index in kept:
        cost, value = points[index]
        assert not any((c <= cost and v > value) or (c < cost and v >= value) for c, v in points)


@pytest.mark.parametrize("cost", [8.0, 8.01, 8.3])
def test_no_label_of_a_picture_stands_on_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cost: float) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr("unmask.evals.picture._save", lambda figure, path: drawn.append(figure))
    thresholds = (0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
    rows = [
        ROW | {"method": f"{name} threshold={threshold}", "accuracy": 0.5, "forwards_mean": cost if place % 2 else 8.0}
        for place, (name, threshold) in enumerate(itertools.product(("fast-dllm", "r2-dllm"), thresholds))
    ]
    pareto(rows, "crowded", tmp_path / "pareto.png")
    for axes in drawn[0].axes:
        boxes = [text.get_window_extent() for text in axes.texts if text.get_visible()]
        assert boxes
        assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
        assert {text.get_text() for text in axes.texts} == {f"{threshold:g}" for threshold in thresholds}


def test_pareto_and_rules(tmp_path: Path) -> None:
    rows = [ROW | {"method": f"m{cost}", "accuracy": 0.5, "forwards_mean": cost} for cost in (3.0, 9.0)]
    pareto(rows, "two", tmp_path / "made" / "pareto.png")
    assert (tmp_path / "made" / "pareto.png").read_bytes().startswith(PNG)
    commits = {"rule": "threshold", "commits": 3, "wrong_share": 1 / 3, "by_confidence": [1, 2], "wrong_by_confidence": [1, 0]}
    rules({"m": [commits] * 5}, "five", tmp_path / "rules.png")
    assert (tmp_path / "rules.png").read_bytes().startswith(PNG)
    with pytest.raises(unmask.ConfigError, match="no commits"):
        rules({}, "none", tmp_path / "none.png")
