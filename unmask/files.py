"""Files that survive a kill: whole ones written atomically, growing ones a line of JSON at a time.

Anyone may import this room-less file; it knows nothing of what it writes.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from unmask.errors import ConfigError

T = TypeVar("T")


def write_atomically(path: Path, write: Callable[[Path], T]) -> T:
    """Call `write` on a temporary neighbour of `path`, then rename it: a reader sees the old file or the new one.

    Returns what `write` returns.
    """
    temporary = path.with_name(path.name + ".partial")
    returned = write(temporary)
    os.replace(temporary, path)
    return returned


def digest(data: Any) -> str:
    """Sixteen hex digits that tell one piece of plain data from another, the same on every machine.

    >>> digest({"b": 1, "a": [0.5]}) == digest({"a": [0.5], "b": 1})
    True
    """
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def resume(file: BinaryIO, provenance: Mapping[str, Any], made: str) -> None:
    """Make an open journal begin with this provenance and end with a whole line, and go to its first line.

    `file` is open for reading and appending. Raises ConfigError if it holds lines of another provenance.
    """
    header = (json.dumps({"provenance": provenance}) + "\n").encode()
    file.seek(0)
    first, end = file.readline(), _last_newline(file) + 1
    if end <= len(first):  # nothing to protect yet
        file.truncate(0)
        file.write(header)
        file.flush()
    elif first != header:
        raise ConfigError(f"{file.name} was {made} with other settings: use another output or delete it")
    else:
        file.truncate(end)
    file.seek(len(header))


def _last_newline(file: BinaryIO) -> int:
    """Where the last line that a kill has not cut short ends; -1 where there is none."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        begin = max(0, end - 2**16)
        file.seek(begin)
        place = file.read(end - begin).rfind(b"\n")
        if place >= 0:
            return begin + place
        end = begin
    return -1


class Journal:
    """A JSONL file whose first line says where the others come from: {"provenance": {...}}.

    A kill may cut its last line short; opening it again drops that line, so work goes on behind the last whole one.
    `made` says what made the file, for the error's sake.

    Raises ConfigError if the file holds lines of another provenance.
    """

    def __init__(self, path: Path, provenance: Mapping[str, Any], made: str) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            resume(file, provenance, made)
            self.rows: list[dict[str, Any]] = [json.loads(line) for line in file]

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
