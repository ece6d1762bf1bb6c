"""Two trees in turns: the script's document, and the tables that the page makes of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from unmask.bench import trees
from unmask.bench.page import page

ROOT = Path(__file__).parents[2]


def side(cpu: float, times: float) -> dict[str, float]:
    return {"cpu_seconds": cpu, "wall_seconds": cpu, "times": times, "times_least": times, "times_most": times}


POINT = {"network": "60M", "threads": 1, "rows": 4, "flops": 10**9, "rounds": 3}
DOCUMENT = {
    "benchmark": "before_after",
    "date": "2026-01-03",
    "note": "quiet",
    "machine": {"device": "cpu", "name": "a processor", "threads": 1, "torch": "2"},
    "rows": [
        {**POINT, "what": "block forward", "before float32": side(0.04, 1.0), "after float32": side(0.02, 2.0)},
        {**POINT, "what": "products", "before float32": side(0.03, 1.0), "after float32": side(0.015, 2.0)},
        {**POINT, "what": "decode", "before float32": side(0.4, 1.0), "after float32": side(0.25, 1.6)},
    ],
}


def test_ratios_and_what_lies_between_the_products() -> None:
    compared, between = trees.tables(DOCUMENT)
    assert compared.rows == [
        ("60M", "1", "4", "block forward", "40.0 ms", "2.00 (2.00 to 2.00)"),
        ("60M", "1", "4", "decode", "400.0 ms", "1.60 (1.60 to 1.60)"),
    ]
    point = ("60M", "1", "4")
    assert between.rows == [
        (*point, "before float32", "40.0 ms", "30.0 ms", "33.3 GFLOP/s", "15.0 ms", "10.0 ms", "25%"),
        (*point, "after float32", "20.0 ms", "15.0 ms", "66.7 GFLOP/s", "15.0 ms", "5.0 ms", "25%"),
    ]
    assert all(len(row) == len(table.columns) for table in (compared, between) for row in table.rows)


def test_the_page_shows_each_part_of_its_newest_document() -> None:
    copy = {"what": "copy", "bytes": 10, "bytes_per_second": 2e9, "seconds": 1.0, "fastest": 1.0, "slowest": 1.5, "repeats": 3}
    timed = {"seconds": 1.0, "fastest": 1.0, "slowest": 1.0, "repeats": 1}
    grown = {"what": "batch", "batch": 1, "forwards": 8, "tokens_per_second": 3.0, **timed}
    about = {"note": "", "model": "m", "machine": DOCUMENT["machine"]}
    old = {"date": "2026-01-01", "parts": {"floors": [copy], "growth": [grown]}, **about}
    new = {"date": "2026-01-02", "parts": {"floors": [copy]}, **about}
    step = {"model": "LLaDA-8B", "what": "block step", "seconds": 0.007, "floor": 0.005, "ratio": 1.4}
    parts = [{"part": "steps", "rows": [step]}, {"part": "kernels", "skipped": "not installed: triton"}]
    card = {"date": "2026-01-04", "note": "", "machine": DOCUMENT["machine"] | {"name": "a card"}, "parts": parts}
    text = page([old, new], "speed.png", [DOCUMENT], [card])
    assert "| LLaDA-8B | block step |  |  | 7.0 ms | 5.0 ms | 1.40 |" in text
    assert text.count("on a card") == 1
    assert text.index("## 2026-01-04, a card") < text.index("## 2026-01-03")
    assert (
        text.index("## 2026-01-03") < text.index("**Side by side**") < text.index("## 2026-01-02") < text.index("## 2026-01-01")
    )
    assert text.count("**floors of this machine**") == 1
    assert text.count("**growth of a replayed decode**") == 1
    assert "Note: quiet." in text


@pytest.mark.slow
def test_a_tree_against_itself(tmp_path: Path) -> None:
    file = tmp_path / "made.json"
    few = ["--models", "unmask-tiny", "--threads", "1", "--rows", "2", "--dtypes", "float32", "--rounds", "1", "--seconds", "0"]
    subprocess.run([sys.executable, ROOT / "benchmarks/before_after.py", ROOT, *few, "-o", file], check=True, cwd=ROOT)
    rows = json.loads(file.read_text())["rows"]
    assert [row["what"] for row in rows] == ["block forward", "products", "decode"]
    assert {row[side]["times"] > 0.2 for row in rows for side in ("before float32", "after float32")} == {True}
    assert rows[2]["after float32"]["same"] == 2
