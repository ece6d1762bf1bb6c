"""Pictures of results: accuracy against cost, and what each rule committed. Needs matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.errors import ConfigError, require
from unmask.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RIGHT, WRONG, LINE = "#3d7ea6", "#d1603d", "#9aa5b1"
MARKERS = ("o", "s", "^", "D")
SERIES = (RIGHT, WRONG, "#4f8f5b", "#8a5fa8", "#b08a2e", "#5c6b7a")


def pareto(rows: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Accuracy with its interval against forwards and against time; the line joins the points of the frontier.

    A label has the value of the option that moves; one that would stand on another is left out.

    `rows` are those of `unmask eval --json`, or of `unmask eval --compare --json`, where each names its model too.
    """
    figure = _figure(10.5, 4.6)
    left, right = figure.subplots(1, 2, sharey=True)
    _scatter(left, rows, "forwards_mean", "forwards per answer")
    _scatter(right, [{**row, "milliseconds": 1e3 * row["seconds_per_item"]} for row in rows], "milliseconds", "ms per answer")
    left.set_ylabel("right answers (%, 95 % interval)")
    left.legend(frameon=False, fontsize=8, loc="lower right")
    moved = {name for row in rows for name in _options(row)}
    figure.suptitle(f"{title}; {', '.join(sorted(moved))} beside the points" if moved else title, fontsize=11)
    _untangle(figure)
    _save(figure, path)


def frontier(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, value) to which no other point is superior, cheapest first.

    >>> frontier([(1.0, 0.5), (2.0, 0.4), (3.0, 0.9)])
    [0, 2]
    """
    kept: list[int] = []
    for index in sorted(range(len(points)), key=lambda place: (points[place][0], -points[place][1])):
        if not kept or points[index][1] > points[kept[-1]][1]:
            kept.append(index)
    return kept


def rules(commits: Mapping[str, Sequence[Mapping[str, Any]]], title: str, path: Path) -> None:
    """One panel per method and rule: its commits by confidence, right and wrong. Values are rows of RuleCommits."""
    panels = [(name, row) for name, found in commits.items() for row in found]
    if not panels:
        raise ConfigError("no commits to draw")
    figure = _figure(3.1 * min(4, len(panels)), 2.7 * -(-len(panels) // 4) + 0.5)
    grid = figure.subplots(-(-len(panels) // 4), min(4, len(panels)), squeeze=False).flatten()
    for axes, (name, row) in zip(grid, panels, strict=False):
        count, wrong = row["by_confidence"], row["wrong_by_confidence"]
        places = [(slot + 0.5) / len(count) for slot in range(len(count))]
        good = [every - bad for every, bad in zip(count, wrong, strict=True)]
        axes.bar(places, good, width=0.09, color=RIGHT, label="as vanilla")
        axes.bar(places, wrong, width=0.09, bottom=good, color=WRONG, label="another token")
        axes.set_title(f"{name}: {row['rule']}\n{row['commits']} tokens, {row['wrong_share']:.1%} other", fontsize=8)
        axes.set_xlim(0, 1)
        axes.margins(y=0.1)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    grid[0].legend(frameon=False, fontsize=7)
    figure.supxlabel("confidence at the commit", fontsize=9)
    figure.suptitle(title, fontsize=11)
    _save(figure, path)


def _scatter(axes: "Axes", rows: Sequence[Mapping[str, Any]], cost: str, label: str) -> None:
    points = [(row[cost], 100 * row["accuracy"]) for row in rows]
    best = frontier(points)
    axes.plot([points[index][0] for index in best], [points[index][1] for index in best], color=LINE, linewidth=1, zorder=1)
    named = list(dict.fromkeys(_series(row) for row in rows))
    for number, series in enumerate(named):
        colour, marker = SERIES[number % len(SERIES)], MARKERS[number // len(SERIES) % len(MARKERS)]
        mine = [(row, point) for row, point in zip(rows, points, strict=True) if _series(row) == series]
        low = [y - 100 * row["accuracy_low"] for row, (_, y) in mine]
        high = [100 * row["accuracy_high"] - y for row, (_, y) in mine]
        axes.errorbar(
            [x for _, (x, _) in mine],
            [y for _, (_, y) in mine],
            yerr=[low, high],
            fmt=marker,
            color=colour,
            label=series,
            markersize=5,
            elinewidth=0.8,
            capsize=2,
        )
        for row, point in mine:
            # A series' name is in the legend; beside each point stands the option that sets it apart.
            text = ", ".join(_options(row).values())
            axes.annotate(text, point, xytext=(5, 5), textcoords="offset points", color=colour, fontsize=7)
    costs = [x for x, _ in points]
    if max(costs) > 5 * min(costs):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, place: f"{value:g}")
    axes.set_xlabel(label)
    axes.margins(x=0.2)
    axes.grid(color="#e6e9ed", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _options(row: Mapping[str, Any]) -> dict[str, str]:
    """The options that set a point apart from its series.

    >>> _options({"method": "r2-dllm threshold=0.9 cache=prefix"})
    {'threshold': '0.9', 'cache': 'prefix'}
    """
    return dict(pair.split("=", 1) for pair in row["method"].split()[1:] if "=" in pair)


def _untangle(figure: "Figure") -> None:
    """Move labels off each other, or leave them out where there is no room."""
    from matplotlib.text import Annotation

    figure.draw_without_rendering()
    for axes in figure.axes:
        placed: list[Any] = []
        for text in axes.texts:
            assert isinstance(text, Annotation)
            for offset in ((5, 5), (5, -10), (-18, 5), (-18, -10)):
                text.xyann = offset
                box = text.get_window_extent()
                if not any(box.overlaps(other) for other in placed):
                    placed.append(box)
                    break
            else:
                text.set_visible(False)


def _series(row: Mapping[str, Any]) -> str:
    """What a point belongs to: its preset, and its model where several are compared.

    >>> _series({"method": "r2-dllm threshold=0.9"}), _series({"method": "vanilla", "model": "unmask-tiny"})
    ('r2-dllm', 'vanilla, unmask-tiny')
    """
    preset: str = row["method"].partition(" ")[0]
    return f"{preset}, {row['model']}" if "model" in row else preset


def _figure(width: float, height: float) -> "Figure":
    require("a picture", "matplotlib", "eval")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: "Figure", path: Path) -> None:
    form = path.suffix.lstrip(".") or "png"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda place: figure.savefig(place, dpi=140, format=form))
