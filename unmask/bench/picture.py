"""The document of a run as one picture: against the floors, published decodes, presets, growth. Needs matplotlib."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.bench.report import Document, found
from unmask.errors import ConfigError, install
from unmask.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEASURED, FLOOR, PUBLISHED = "#3d7ea6", "#9aa5b1", "#d1603d"
SERIES = (MEASURED, PUBLISHED, "#4f8f5b", "#8a5fa8")


def draw(document: Document, path: Path) -> None:
    """A panel for each part that was measured. Raises ConfigError if there is nothing to draw, or no matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError(f"pictures need matplotlib: {install('eval')}, or draw later with --from") from None
    drawn = [panel for part, what, panel in PANELS if found(document, part, what)]
    if not drawn:
        raise ConfigError("nothing to draw: measure shapes, decode or growth")
    across = min(2, len(drawn))
    height = -(-len(drawn) // across)
    figure = Figure(figsize=(5.75 * across, 4.2 * height + 0.4), layout="constrained")
    grid = figure.subplots(height, across, squeeze=False).flatten()
    for axes, panel in zip(grid, drawn, strict=False):
        panel(axes, document)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.set_axisbelow(True)
    for axes in grid[len(drawn) :]:
        axes.set_visible(False)
    machine = document["machine"]
    title = f"{document['date']}, {machine['name']}, {machine['threads']} threads, torch {machine['torch']}"
    figure.suptitle(f"{title} ({document['note']})" if document["note"] else title, fontsize=10)
    form = path.suffix.lstrip(".") or "png"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda place: figure.savefig(place, dpi=140, format=form))


def _forwards(axes: "Axes", document: Document) -> None:
    """Time against floor of refreshes, block forwards and decisions, by batch."""
    shape = document["parts"]["shapes"][0]["model"]
    for colour, what in zip(SERIES, ("refresh", "block forward", "decision", "block forward, captured"), strict=True):
        rows = [row for row in found(document, "shapes", what) if row["model"] == shape]
        rows = [row for row in rows if row["prompt"] == rows[0]["prompt"] and row["variant"] == rows[0]["variant"]]
        if rows:
            batches = [row["batch"] for row in rows]
            axes.plot(batches, [1e3 * row["seconds"] for row in rows], "o-", color=colour, label=what, markersize=4)
            axes.plot(batches, [1e3 * row["floor"] for row in rows], ":", color=colour, linewidth=1)
    _logarithmic(axes, "batch", "ms (dotted: the floor)")
    axes.set_title(f"{shape}: one forward, one decision", fontsize=9)
    axes.legend(frameon=False, fontsize=8)


def _decodes(axes: "Axes", document: Document) -> None:
    """Measured seconds, floor and published seconds of each schedule at batch 1, the longest prompt."""
    rows = [row for row in found(document, "shapes", "decode") if row["batch"] == 1]
    rows = [row for row in rows if row["prompt"] == max(row["prompt"] for row in rows)]
    rows = [row for row in rows if row["variant"] == rows[0]["variant"]]
    places = range(len(rows))
    # The y axis is inverted: smaller values stand above.
    axes.barh([place - 0.25 for place in places], [row["seconds"] for row in rows], 0.25, color=MEASURED, label="measured")
    axes.barh(places, [row["floor"] for row in rows], 0.25, color=FLOOR, label="its floor")
    published = [row["published_seconds"] for row in rows]
    if None not in published:
        axes.barh([place + 0.25 for place in places], published, 0.25, color=PUBLISHED, label="published, one H200")
    names = [f"{row['model']}, {row['schedule']}" + (" *" if row["extrapolated_from"] else "") for row in rows]
    axes.set_yticks(list(places), names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, place: f"{value:g}")
    axes.set_xlabel(f"seconds for 256 tokens, prompt {rows[0]['prompt']} (* extrapolated)", fontsize=8)
    axes.set_title("published step counts replayed, batch 1", fontsize=9)
    axes.legend(frameon=False, fontsize=8)


def _presets(axes: "Axes", document: Document) -> None:
    """Tokens per second of every preset, alone and as a batch."""
    rows = [row for row in found(document, "decode", "preset") if row["tokens_per_second_batch"] is not None]
    places = range(len(rows))
    alone, batch = ([row[key] for row in rows] for key in ("tokens_per_second", "tokens_per_second_batch"))
    axes.barh([place - 0.18 for place in places], alone, 0.36, color=MEASURED, label="batch 1")
    axes.barh([place + 0.18 for place in places], batch, 0.36, color=SERIES[2], label="batch 16")
    axes.set_yticks(list(places), [row["method"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("tokens/s", fontsize=8)
    axes.set_title(f"whole decodes, {document['model']}", fontsize=9)
    axes.legend(frameon=False, fontsize=8)


def _growth(axes: "Axes", document: Document) -> None:
    """Time against each axis, both as multiples of where the axis begins."""
    for colour, axis in zip(SERIES, ("batch", "prompt", "answer"), strict=False):
        rows: list[dict[str, Any]] = found(document, "growth", axis)
        if rows:
            steps = [row[axis] / rows[0][axis] for row in rows]
            grown = [row["seconds"] / rows[0]["seconds"] for row in rows]
            axes.plot(steps, grown, "o-", color=colour, label=f"{axis} from {rows[0][axis]}", markersize=4)
            axes.plot(steps, steps, ":", color=FLOOR, linewidth=1, zorder=1)
    _logarithmic(axes, "times as much", "times as long")
    axes.set_title("growth of a replayed decode (dotted: in proportion)", fontsize=9)
    axes.legend(frameon=False, fontsize=8)


def _logarithmic(axes: "Axes", across: str, up: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for side in (axes.xaxis, axes.yaxis):
        side.set_major_formatter(lambda value, place: f"{value:g}")
        side.set_minor_formatter(lambda value, place: "")
    axes.set_xlabel(across, fontsize=8)
    axes.set_ylabel(up, fontsize=8)
    axes.grid(color="#e6e9ed", linewidth=0.6)


# What must have been measured for each panel.
PANELS = (
    ("shapes", "block forward", _forwards),
    ("shapes", "decode", _decodes),
    ("decode", "preset", _presets),
    ("growth", "batch", _growth),
)
