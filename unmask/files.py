"""Files that survive a kill: whole ones written atomically, growing ones a line of JSON at a time.

Anyone may import this room-less file; it knows nothing of what it writes.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from unmask.errors import ConfigError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` on a temporary neighbour of `path`, then rename it: a reader sees the old file or the new one."""
    temporary = path.with_name(path.name + ".partial")
    write(temporary)
    os.replace(temporary, path)


def digest(data: Any) -> str:
    """Sixteen hex digits that tell one piece of plain data from another, the same on every machine.

    >>> digest({"b": 1, "a": [0.5]}) == digest({"a": [0.5], "b": 1})
    True
    """
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


class Journal:
    """A JSONL file whose first line says where the others come from: {"provenance": {...}}.

    A kill may cut its last line short; opening it again drops that line, so work goes on behind the last whole one.
    `made` says what made the file, for the error's sake.

    Raises ConfigError if the file holds lines of another provenance.
    """

    def __init__(self, path: Path, provenance: Mapping[str, Any], made: str) -> None:
        self.path = path
        header = json.dumps({"provenance": provenance}) + "\n"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        if len(whole) < 2:  # nothing to protect yet
            path.parent.mkdir(parents=True, exist_ok=True)
            whole = [header]
        elif whole[0] != header:
            raise ConfigError(f"{path} was {made} with other settings: use another output or delete it")
        if whole != lines:
            write_atomically(path, lambda place: place.write_text("".join(whole)))
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in whole[1:]]

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add lines; they are on disk when this returns."""
        new = [dict(row) for row in rows]
        with self.path.open("a") as file:
            file.write("".join(json.dumps(row) + "\n" for row in new))
        self.rows += new


def read_journal(path: Path, hint: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Provenance and lines of a journal; `hint` says what makes such a file. Raises ConfigError if it is none."""
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return rows[0]["provenance"], rows[1:]
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); {hint} makes it") from None
    except (json.JSONDecodeError, KeyError, IndexError, TypeError):
        raise ConfigError(f"{path}: not a file of {hint}, or its last line is cut short") from None
