"""Files that survive a kill: whole ones written atomically, growing ones line by line, folders with one writer.

Every package of unmask may import this module, which knows nothing of the content it writes.
"""

import hashlib
import itertools
import json
import os
import re
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

    The file is on disk when this returns, also after a power cut. Where `write` fails, no temporary file stays behind.
    Returns what `write` returns. Raises OSError that names `path`, for instance where the disk is full.
    """
    temporary = path.with_name(path.name + ".partial")
    with _naming(path):
        try:
            returned = write(temporary)
            sync(temporary)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync(path.parent)
    return returned


def sync(path: Path) -> None:
    """Have a file, or the entries of a folder, written to the disk."""
    if path.is_dir() and os.name == "nt":  # Windows opens no folder
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file in an OSError that names none, as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None
    except Exception as error:  # libraries in Rust have errors of their own
        code = re.search(r"\(os error (\d+)\)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from None


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
        sync(place.parent)
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
        fields: what every line has, name -> type.
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
        fields: Mapping[str, type] = {},
        obsolete: Callable[[Row], bool] = lambda first: False,
    ) -> None:
        self.path, self._provenance, self._fields = path, provenance, fields
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
            self._new = path.open("ab", buffering=0)  # so that nothing of a line that did not fit waits in a buffer
        except OSError as error:
            raise _cannot_write(name or path, error) from None
        with _naming(path):
            try:
                _lock(self._file, name or path)
                self._resume(made, obsolete)
                sync(path.parent)
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Every line after the provenance: its place in the file, in bytes, and its content.

        Raises ConfigError, which names file and line, for a line that is not a JSON object with the fields.
        """
        self._file.seek(0)
        place = len(self._file.readline())
        for number, line in enumerate(self._file, start=2):
            yield place, _parsed(line, self.path, number, self._fields)
            place += len(line)

    def read(self, place: int) -> dict[str, Any]:
        """The line at a place."""
        self._file.seek(place)
        return dict(json.loads(self._file.readline()))

    def append(self, rows: Iterable[Row]) -> list[int]:
        """Add lines and return their places; they are on disk when this returns.

        Raises OSError that names the file, where the disk is full; then none of them is in it.
        """
        end, places, text = self._file.seek(0, os.SEEK_END), [], bytearray()
        for row in rows:
            places.append(end + len(text))
            text += _line(row)
        with _naming(self.path):
            try:
                while text:
                    del text[: self._new.write(text)]
                os.fsync(self._new.fileno())
            except OSError:
                self._new.truncate(end)
                raise
        return places

    def replace(self, rows: Iterable[Row]) -> None:
        """Replace all lines by these, atomically; nothing may be appended afterwards."""
        text = b"".join(map(_line, ({"provenance": self._provenance}, *rows)))
        write_atomically(self.path, lambda place: place.write_bytes(text))

    def close(self) -> None:
        self._new.close()
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


def read_journal(path: Path, hint: str, fields: Mapping[str, type] = {}) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Provenance and lines of a journal; `hint` says what makes such a file, `fields` what every line has, name -> type.

    Raises ConfigError if the file is not a journal, or has a line, which is named, that is damaged or another file's.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); {hint} makes it") from None
    if not lines or not lines[0].startswith(HEADER) or not lines[-1].endswith(b"\n"):
        raise ConfigError(f"{path}: not a file of {hint}, or its last line is cut short")
    first = _parsed(lines[0], path, 1, {"provenance": dict})
    return first["provenance"], [_parsed(line, path, number, fields) for number, line in enumerate(lines[1:], start=2)]


def _line(row: Row) -> bytes:
    return (json.dumps(row) + "\n").encode()


def _parsed(line: bytes, path: Path, number: int, fields: Mapping[str, type] = {}) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise ConfigError(f"{path}:{number}: this line is damaged: repair or remove it")
    for name, kind in fields.items():
        if not isinstance(row.get(name), kind):
            raise ConfigError(f'{path}:{number}: this line is not one of this file\'s, it lacks "{name}": remove it')
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
