"""Records of data files, one by one: JSON lines, one JSON list, or parquet, alone or in folders.

A record that cannot be read costs itself: it comes with what is wrong with it, and the reader goes on. It knows nothing of
what a record should hold (train/conversation.py, train/collect.py).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unmask.errors import ConfigError, require

ENDINGS = (".jsonl", ".json", ".parquet")


class Record(NamedTuple):
    """One record: `where` is its file and line (of parquet its row, from 1); `error` says why there are no `values`."""

    where: str
    values: Mapping[str, Any]
    error: str | None = None


def files(places: str | Sequence[str]) -> list[Path]:
    """The data files of one or more paths; of a folder all below it that end in .jsonl, .json or .parquet, in order.

    Raises ConfigError for a path that does not exist, or for a folder without such files.
    """
    found: list[Path] = []
    for place in [places] if isinstance(places, str) else places:
        path = Path(place).expanduser()
        below = [path] if path.is_file() else sorted(below for below in path.rglob("*") if below.suffix in ENDINGS)
        if not path.exists():
            raise ConfigError(f"{path}: no such file or folder")
        if not below:
            raise ConfigError(f"{path}: this folder holds no file that ends in {', '.join(ENDINGS)}")
        found += below
    return found


def records(path: Path) -> Iterator[Record]:
    """The records of a file, read as they are asked for. Blank lines are none.

    Raises ConfigError where the file as a whole cannot be read.
    """
    try:
        if path.suffix == ".parquet":
            yield from _parquet(path)
            return
        with path.open("rb") as file:
            begin = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
            file.seek(0)
            if begin.startswith(b"["):
                yield from _list(path, file.read())
                return
            for number, line in enumerate(file, start=1):
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if line.strip():
                    yield _record(f"{path}:{number}", line)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from None


def _record(where: str, line: bytes) -> Record:
    try:
        return _checked(where, json.loads(line.decode()))
    except UnicodeDecodeError as error:
        return Record(where, {}, f"not UTF-8 text: byte {error.start} of the line")
    except (ValueError, RecursionError) as error:  # ValueError: also an integer of too many digits
        return Record(where, {}, f"not JSON: {error}")


def _checked(where: str, value: Any) -> Record:
    if isinstance(value, dict):
        return Record(where, value)
    return Record(where, {}, f"expected a JSON object, got {value!r:.40}")


def _list(path: Path, content: bytes) -> Iterator[Record]:
    try:
        entries = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: begins like a JSON list and is none ({error})") from None
    for number, value in enumerate(entries, start=1):
        yield _checked(f"{path}: entry {number}", value)


def _parquet(path: Path) -> Iterator[Record]:
    require(f"{path}: parquet", "pyarrow", "train")
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=1024):
                for values in batch.to_pylist():
                    number += 1
                    # A field that a row does not have is null in its column.
                    yield Record(f"{path}:{number}", {name: value for name, value in values.items() if value is not None})
    except pyarrow.ArrowInvalid as error:
        raise ConfigError(f"{path}: not a parquet file, or damaged ({str(error).splitlines()[0]})") from None
