"""Records of data files, one by one: JSON lines, one JSON list, CSV or parquet, gzipped or not.

What a file is shows in its first bytes; its name matters for CSV alone. A record that cannot be read costs itself: it comes
with what is wrong with it, and the reader goes on. What a record should hold is its reader's business (evals/reading.py,
train/conversation.py, train/collect.py).
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from unmask.errors import ConfigError, require

_BOM = b"\xef\xbb\xbf"
_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"


class Record(NamedTuple):
    """One record: `where` is its file and line (of parquet its row, from 1); `error` says why there are no `values`."""

    where: str
    values: Mapping[str, Any]
    error: str | None = None


def records(path: Path) -> Iterator[Record]:
    """The records of a file, read as they are asked for. Blank lines are none.

    Raises ConfigError where the file as a whole cannot be read.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(4)
        if magic == _PARQUET or path.suffix == ".parquet":
            yield from _parquet(path)
        else:
            with gzip.open(path) if magic[:2] == _GZIP or path.suffix == ".gz" else path.open("rb") as file:
                yield from _text(path, file)  # type: ignore[arg-type]
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise ConfigError(f"{path}: not a gzip file, or cut short") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from None


def _text(path: Path, file: BinaryIO) -> Iterator[Record]:
    begin = file.read(4096).removeprefix(_BOM).lstrip()
    file.seek(0)
    if path.name.removesuffix(".gz").endswith(".csv"):
        yield from _csv(path, file)
    elif begin.startswith(b"["):
        yield from _list(path, file.read())
    else:
        for number, line in enumerate(file, start=1):
            line = line.removeprefix(_BOM) if number == 1 else line
            if line.strip():
                yield _record(f"{path}:{number}", line)


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


def _csv(path: Path, file: BinaryIO) -> Iterator[Record]:
    """The rows under a header, every value a text."""
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    table = csv.DictReader(text, strict=True)
    try:
        for values in table:
            where = f"{path}:{table.line_num}"
            whole = None not in values and None not in values.values()
            yield Record(where, values) if whole else Record(where, {}, "not as many fields as the header has")
    except csv.Error as error:
        yield Record(f"{path}:{table.reader.line_num}", {}, f"not CSV ({error})")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason})") from None
    finally:
        text.detach()  # or it would close the file, which is not its own


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
