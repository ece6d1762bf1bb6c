"""The document of a run as tables of text; printing is left to the caller."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from unmask.bench.types import advice

Document = dict[str, Any]
Row = dict[str, Any]


class Table(NamedTuple):
    """A title, the names of the columns, and rows of as many texts."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def tables(document: Document) -> list[Table]:
    """Everything that was measured; a table without rows is left out."""
    made = [
        *_floors(document),
        *_shapes(document),
        *_decode(document),
        _types(document),
        *_growth(document),
        _operations(document),
        _peers(document),
    ]
    made += [_asked(document), _failed(document)]
    return [table for table in made if table.rows]


def found(document: Document, part: str, what: str) -> list[Row]:
    """The rows of a part that measured `what`."""
    return [row for row in document["parts"].get(part, []) if row["what"] == what]


# --- texts of numbers -------------------------------------------------------------------------------------------------


def seconds(value: float) -> str:
    """A time in seconds.

    >>> seconds(2.5), seconds(0.0123), seconds(0.000045)
    ('2.50 s', '12.3 ms', '45 µs')
    """
    if value >= 1:
        return f"{value:.2f} s"
    return f"{1e3 * value:.1f} ms" if value >= 1e-3 else f"{1e6 * value:.0f} µs"


def spread(row: Row) -> str:
    """The number of readings, and how far the fastest and the slowest lie from the median.

    >>> spread({"seconds": 2.0, "fastest": 1.9, "slowest": 2.5, "repeats": 5})
    '5, -5 % +25 %'
    """
    low, high = (100 * (row[end] / row["seconds"] - 1) for end in ("fastest", "slowest"))
    return f"{row['repeats']}, {low:+.0f} % {high:+.0f} %"


def rate(value: float, unit: str) -> str:
    """A rate per second.

    >>> rate(3.2e12, "B/s"), rate(1.39e11, "FLOP/s")
    ('3.20 TB/s', '139 GFLOP/s')
    """
    prefix, size = ("T", 1e12) if value >= 1e12 else ("G", 1e9)
    number = f"{value / size:#.3g}".removesuffix(".")
    return f"{number} {prefix}{unit}"


def size(value: float) -> str:
    """A size in bytes.

    >>> size(16.03e9), size(2.5e6)
    ('16.0 GB', '2.5 MB')
    """
    return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"


def times(value: float | None, none: str = "") -> str:
    return none if value is None else f"{value:.1f} x"


# --- the parts --------------------------------------------------------------------------------------------------------


def _floors(document: Document) -> list[Table]:
    rows = [
        ("copy", "", size(row["bytes"]), rate(row["bytes_per_second"], "B/s"), spread(row))
        for row in found(document, "floors", "copy")
    ]
    for row in found(document, "floors", "product"):
        shape = f"[{row['rows']}, {row['inputs']}] x [{row['inputs']}, {row['outputs']}]"
        speed = f"{rate(row['flops_per_second'], 'FLOP/s')}, weights at {rate(row['weight_bytes_per_second'], 'B/s')}"
        rows.append(("product", row["dtype"], shape, speed, spread(row)))
    return [Table("floors of this machine", ("", "type", "size", "rate", "readings"), rows)]


def _shapes(document: Document) -> list[Table]:
    described = [
        (
            row["model"],
            f"{row['parameters'] / 1e9:.2f}B" if row["parameters"] >= 1e9 else f"{row['parameters'] / 1e6:.1f}M",
            f"{row['dtype']}, {size(row['bytes'])}",
            f"{row['layers']} x {row['width']}",
            f"{row['heads']} / {row['kv_heads']}",
            f"{row['mlp']}",
            f"{row['vocab']}",
        )
        for row in found(document, "shapes", "shape")
    ]
    forwards = [
        (row["model"], row["variant"], f"{row['batch']}", f"{row['prompt']}", row["what"], *_against(row), spread(row))
        for row in document["parts"].get("shapes", [])
        if row["what"] in ("refresh", "block forward", "block forward, captured", "decision")
    ]
    decodes = [
        (
            row["model"],
            row["variant"] if row["extrapolated_from"] is None else "no cache",
            f"{row['batch']}",
            f"{row['prompt']}",
            f"{row['schedule']}, {row['forwards']} forwards" + (" (extrapolated)" if row["extrapolated_from"] else ""),
            *_against(row),
            f"{row['tokens_per_second']:.0f}",
            "" if row["published_seconds"] is None else f"{row['published_seconds']} s",
        )
        for row in found(document, "shapes", "decode")
    ]
    point = ("shape", "context", "batch", "prompt")
    return [
        Table("shapes, random weights", ("", "weights", "type", "layers", "heads / kv", "mlp", "vocabulary"), described),
        Table("one forward, one decision", (*point, "", "time", "floor", "ratio", "readings"), forwards),
        Table("256 tokens", (*point, "schedule", "time", "floor", "ratio", "tokens/s", "published, one H200"), decodes),
    ]


def _against(row: Row) -> tuple[str, str, str]:
    return seconds(row["seconds"]), seconds(row["floor"]), f"{row['ratio']:.1f}"


def _decode(document: Document) -> list[Table]:
    decisions = [
        (
            f"[{row['rows']}, {row['length']}, {row['vocabulary']}]",
            seconds(row["seconds"]),
            seconds(row["plain"]["seconds"]),
            times(row["ratio"]),
        )
        for row in found(document, "decode", "decision")
    ]
    presets = [
        (
            row["method"],
            f"{row['forwards']:.1f}",
            f"{row['tokens_per_second']:.0f}",
            times(row["times_vanilla"]),
            times(row["times_no_cache"]),
            "" if row["tokens_per_second_batch"] is None else f"{row['tokens_per_second_batch']:.0f}",
            times(row["times_alone"]),
        )
        for row in found(document, "decode", "preset")
    ]
    network = [
        (
            f"{row['batch']}",
            seconds(row["seconds"]),
            times(row["times_one"]),
            times(row["times_one_refresh"]),
            seconds(row["decision"]["seconds"]),
            f"{row['decision_share']:.1%}",
        )
        for row in found(document, "decode", "network")
    ]
    memory = [
        (f"{row['blocks']}", f"{row['tokens']}", "not known here" if row["peak_bytes"] is None else size(row["peak_bytes"]))
        for row in found(document, "decode", "memory")
    ]
    model = document["model"]
    columns = ("method", "forwards", "tokens/s", "of vanilla", "of itself uncached", "tokens/s, batch 16", "of batch 1")
    return [
        Table(
            "one R2-dLLM decision, everything after the logits",
            ("rows x block x vocabulary", "ours", "plain loop", "faster"),
            decisions,
        ),
        *_constrained(document),
        Table(f"whole decodes, {model}", columns, presets),
        Table(
            f"the bare network, {model}",
            ("batch", "block forward", "rows/s of batch 1", "of a refresh", "decision", "its share"),
            network,
        ),
        Table(f"peak memory of a decode, {model}", ("blocks", "tokens in all", "above the model"), memory),
    ]


def _constrained(document: Document) -> list[Table]:
    held = [
        (
            row["language"],
            f"{row['states']}",
            f"{row['classes']}",
            f"{row['pairs']}",
            seconds(row["compile_seconds"]),
            *_beside(row),
        )
        for row in found(document, "decode", "held decision")
    ]
    together = [(f"{row['rows']}", *_beside(row)) for row in found(document, "decode", "held together")]
    columns = ("language", "states", "token classes", "pairs", "compiled in")
    return [
        Table("one decision held to a grammar, [1, 32, 126464], all masked", (*columns, *_BESIDE), held),
        Table("rows held to different grammars decide together", ("rows", *_BESIDE), together),
    ]


_BESIDE = ("held", "free", "more, of the free one")


def _beside(row: Row) -> tuple[str, str, str]:
    """A held decision, the free one, and how much more the first takes."""
    return seconds(row["seconds"]), seconds(row["free"]["seconds"]), times(row["ratio"] - 1)


def _types(document: Document) -> Table:
    measured = found(document, "types", "type")
    rows = [
        (
            row["dtype"],
            f"{row['rows']}",
            f"{row['tokens_per_second']:.0f}",
            times(row["times"]),
            f"{row['same']} of {row['prompts']}",
            spread(row),
        )
        for row in measured
    ]
    title = f"types, {document['model']}; recommended: {advice(measured)}" if measured else ""
    return Table(title, ("type", "rows", "tokens/s", "of float32", "same answers", "readings"), rows)


def _growth(document: Document) -> list[Table]:
    rows = [
        (axis, f"{row[axis]}", f"{row['forwards']}", seconds(row["seconds"]), f"{row['tokens_per_second']:.0f}", spread(row))
        for axis in ("batch", "prompt", "answer")
        for row in found(document, "growth", axis)
    ]
    return [Table("growth of a replayed decode", ("along", "", "forwards", "time", "tokens/s", "readings"), rows)]


def _operations(document: Document) -> Table:
    rows = [
        (row["name"][:70], f"{row['calls']}", seconds(row["seconds"]), f"{row['share']:.1%}")
        for row in found(document, "profile", "operation")
    ]
    return Table("where a decode's time goes", ("operation", "calls", "own time", "share"), rows)


def _peers(document: Document) -> Table:
    rows = [
        (
            row["peer"],
            f"{row['rows']}",
            f"{row['cpu_seconds'] / row['prompts']:.3f} s",
            f"{row['seconds'] / row['prompts']:.3f} s",
            f"{row['forwards']:.1f}",
            f"{row['same']} of {row['prompts']}",
            f"{row['times']:.2f} ({row['times_least']:.2f} to {row['times_most']:.2f})",
            f"{row['times_wall']:.2f}",
            row["note"],
        )
        for row in found(document, "peers", "peer")
    ]
    columns = ("peer", "rows", "cpu per answer", "wall", "forwards", "same tokens", "cpu, of ours", "wall, of ours", "note")
    return Table(f"peers in turns, {document['model']}", columns, rows)


def _failed(document: Document) -> Table:
    rows = [
        (
            part,
            row["what"],
            row.get("reason") or ", ".join(f"{name} {row[name]}" for name in ("model", "batch", "prompt") if name in row),
        )
        for part, measured in document["parts"].items()
        for row in measured
        if row["what"] in ("failed", "out of memory")
    ]
    return Table("not measured", ("part", "", "why"), rows)


# --- what speed was asked for -----------------------------------------------------------------------------------------


def _asked(document: Document) -> Table:
    rows = []
    preset = {row["method"]: row for row in found(document, "decode", "preset")}
    if "r2-dllm" in preset and "vanilla" in preset:
        ratio = preset["r2-dllm"]["times_vanilla"]
        rows.append(("r2-dllm at batch 1: 8 times vanilla without cache", times(ratio), _met(ratio >= 8)))
    network = {row["batch"]: row for row in found(document, "decode", "network")}
    if network and "r2-dllm" in preset and preset["r2-dllm"]["times_alone"] is not None:
        most, ratio = max(network), preset["r2-dllm"]["times_alone"]
        limit = most * _bare(preset["r2-dllm"], network[1]) / _bare(preset["r2-dllm"], network[most])
        text = f"{times(ratio)} (the same forwards of the bare network: {times(limit)})"
        asked = f"r2-dllm at batch {most}: 3 times batch 1, or within a tenth of what the network allows"
        rows.append((asked, text, _met(ratio >= min(3, 0.9 * limit))))
        share = network[most]["decision_share"]
        rows.append((f"the decision's share of a block forward at batch {most}: under 10 %", f"{share:.1%}", _met(share < 0.1)))
    memory = [row for row in found(document, "decode", "memory") if row["peak_bytes"] is not None]
    if memory:
        peaks = [row["peak_bytes"] for row in memory]
        text = f"{size(peaks[0])} with {memory[0]['blocks']} block, {size(peaks[-1])} with {memory[-1]['blocks']}"
        rows.append(("peak memory flat in the number of blocks (within a tenth)", text, _met(peaks[-1] <= 1.1 * peaks[0])))
    return Table("asked for", ("", "measured", "met"), rows)


def _bare(preset: Row, network: Row) -> float:
    """Seconds of a preset's answers at this batch, counting nothing but forwards and decisions."""
    later = preset["forwards"] - preset["refreshes"]
    decisions = preset["forwards"] * network["decision"]["seconds"]
    return float(preset["refreshes"] * network["refresh"]["seconds"] + later * network["seconds"] + decisions)


def _met(yes: bool) -> str:
    return "yes" if yes else "no"
