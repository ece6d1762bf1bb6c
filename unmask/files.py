"""Files that survive a kill: whole ones written atomically, growing ones line by line, folders with one writer.

Every package of unmask may import this module, which knows nothing of the content it writes.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeVar

from unmask.errors import ConfigError

T = TypeVar("T")
Row = Mapping[str, Any]

HEADER = b'{"provenance": '  # how a journal begins


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


# --- one writer ---------------------------------------------------------------------------------------------------


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold a folder, made where there is none, for one writer until the block is left.

    The kernel frees the lock with the process, however that ends; the empty file `.lock` stays.

    Raises ConfigError if the folder cannot be written, or while another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("ab")
    except OSError as error:
        raise _cannot_write(folder, error) from None
    with file:
        _lock(file, folder)
        yield


def move_aside(folder: Path) -> Path | None:
    """Rename a folder to NAME.1, or to the first such name that is free; returns its new place.

    If there is no such folder, nothing happens and None is returned.

    Raises ConfigError while a process writes the folder, or if the current folder lies in it.
    """
    if not folder.exists():
        return None
    if Path.cwd().is_relative_to(folder.resolve()):
        raise ConfigError(f"{folder} holds the current folder and cannot be moved: use another output")
    names = (folder.with_name(f"{folder.name}.{number}") for number in itertools.count(1))
    with writing(folder):
        place = next(name for name in names if not os.path.lexists(name))
        folder.rename(place)
    return place


def _lock(file: BinaryIO, name: Path) -> None:
    import fcntl  # missing on Windows, where everything except these writers works

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"{name} is being written by another process: wait, or use another output") from None
    except OSError as error:
        raise _cannot_write(name, error) from None


def _cannot_write(name: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{name}: cannot be written ({error.strerror})")


# --- journals -----------------------------------------------------------------------------------------------------


class Journal:
    """A JSONL file that only grows and has one writer; its first line, {"provenance": {...}}, says where the others come from.

    A kill may cut its last line short. Opening it again drops that line, so work resumes after the last complete one.
    The file is locked until it is closed, and is read line by line, not held in memory.

    Args:
        made: the verb of errors: what made the file.
        name: what errors call the file; None: its path.
        obsolete: whether the first line after the provenance marks the file as obsolete; it is then begun again.

    Raises:
        ConfigError: the file cannot be written, another process writes it, or it holds lines of another provenance.
    """

    def __init__(
        self,
        path: Path,
        provenance: Mapping[str, Any],
        made: str,
        *,
        name: Path | None = None,
        obsolete: Callable[[Row], bool] = lambda first: False,
    ) -> None:
        self.path, self._provenance = path, provenance
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
        except OSError as error:
            raise _cannot_write(name or path, error) from None
        try:
            _lock(self._file, name or path)
            self._resume(made, obsolete)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Every line after the provenance: its place in the file, in bytes, and its content.

        Raises ConfigError, which names file and line, for a line that is not a JSON object.
        """
        self._file.seek(0)
        place = len(self._file.readline())
        for number, line in enumerate(self._file, start=2):
            yield place, _parsed(line, self.path, number)
            place += len(line)

    def read(self, place: int) -> dict[str, Any]:
        """The line at a place."""
        self._file.seek(place)
        return dict(json.loads(self._file.readline()))

    def append(self, rows: Iterable[Row]) -> list[int]:
        """Add lines and return their places; they are on disk when this returns."""
        end, places = self._file.seek(0, os.SEEK_END), []
        for row in rows:
            places.append(end)
            end += self._file.write(_line(row))
        self._file.flush()
        os.fsync(self._file.fileno())
        return places

    def replace(self, rows: Iterable[Row]) -> None:
        """Replace all lines by these, atomically; nothing may be appended afterwards."""
        text = b"".join(map(_line, ({"provenance": self._provenance}, *rows)))
        write_atomically(self.path, lambda place: place.write_bytes(text))

    def close(self) -> None:
        self._file.close()

    def _resume(self, made: str, obsolete: Callable[[Row], bool]) -> None:
        """Make the file begin with the provenance and end with a whole line."""
        header, size = _line({"provenance": self._provenance}), self._file.seek(0, os.SEEK_END)
        whole = _last_newline(self._file) + 1
        self._file.seek(0)
        first, second = self._file.readline(), self._file.readline()
        if not (first.startswith(HEADER) or HEADER.startswith(first)):
            raise ConfigError(f"{self.path} was not {made} here, or with other settings: use another output or delete it")
        if whole <= len(first) or (second.endswith(b"\n") and obsolete(_parsed(second, self.path, 2))):
            self._file.truncate(0)
            self._file.write(header)
            self._file.flush()
        elif first != header:
            raise ConfigError(f"{self.path} was {made} with other settings: use another output or delete it")
        elif whole < size:
            self._file.truncate(whole)


def read_journal(path: Path, hint: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Provenance and lines of a journal; `hint` says what makes such a file.

    Raises ConfigError if the file is not a journal or is damaged.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); {hint} makes it") from None
    if not lines or not lines[0].startswith(HEADER) or not lines[-1].endswith(b"\n"):
        raise ConfigError(f"{path}: not a file of {hint}, or its last line is cut short")
    first, *rows = (_parsed(line, path, number) for number, line in enumerate(lines, start=1))
    return first["provenance"], rows


def _line(row: Row) -> bytes:
    return (json.dumps(row) + "\n").encode()


def _parsed(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise ConfigError(f"{path}:{number}: this line is damaged: repair or remove it")
    return row


def _last_newline(file: BinaryIO) -> int:
    """Place of the last newline, where the last complete line ends; -1 if there is none."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        begin = max(0, end - 2**16)
        file.seek(begin)
        place = file.read(end - begin).rfind(b"\n")
        if place >= 0:
            return begin + place
        end = begin
    return -1
