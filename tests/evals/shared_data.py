"""The folder of the public data sets, if there is one: UNMASK_DATA, or shared/data beside the checkout.

No test needs them: each runs on a few entries that it writes itself, and on the real data if it is there.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from unmask.evals.task import Task

DATA = Path(os.environ.get("UNMASK_DATA", Path(__file__).parents[3] / "shared" / "data"))


def places(*names: str) -> list[Path]:
    """The folders of these names that exist."""
    return [DATA / name for name in names if (DATA / name).is_dir()]


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """A file of JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def check_whole_file(task: Task, same: Any) -> None:
    """Every reference passes every metric; the next item's passes none, unless `same(item, other)` says that it should."""
    assert len({item.id for item in task.items}) == len(task.items) > 1
    different = 0
    for item, other in zip(task.items, (*task.items[1:], task.items[0]), strict=True):
        assert task.score(item, item.reference) == dict.fromkeys(task.metrics, True), item.id
        assert item.prompt.strip()
        if not same(item, other):
            different += 1
            assert task.score(item, other.reference) == dict.fromkeys(task.metrics, False), item.id
    assert different > 0.9 * len(task.items)
