"""Strict readers of the tasks' data files: JSON lines, one JSON list, or CSV, gzipped or not.

    rows = read(path, {"question": str, "answer": str})

Every error is one line that names the file, the line and what was expected there.
"""

import csv
import gzip
import io
import json
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.errors import ConfigError

KINDS: Mapping[type, str] = {str: "text", int: "whole number", float: "number", list: "list"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One entry of a data file.

    Attributes:
        values: field -> value, with fields that the task does not use.
        where: file and line, for errors.
    """

    values: Mapping[str, Any]
    where: str

    def __getitem__(self, field: str) -> Any:
        return self.values[field]

    def expected(self, shape: str) -> ConfigError:
        """The error for a row that does not have this shape."""
        return ConfigError(f"{self.where}: expected {shape}")


def files(data: Path | None, *patterns: str) -> list[Path]:
    """`data` itself if it is a file, or the files in its folder that match `patterns`, cd9 before cd10.

    Raises ConfigError if there are none.
    """
    names = " or ".join(patterns)
    if data is None:
        raise ConfigError(f"name the data with --data: {names}, or its folder")
    if data.is_file():
        return [data]
    if not data.is_dir():
        raise ConfigError(f"{data}: no such file or folder; expected {names}, or its folder")
    found = {path for pattern in patterns for path in data.glob(pattern)}
    if not found:
        raise ConfigError(f"{data}: this folder holds no {names}")
    return sorted(found, key=lambda path: (len(path.name), path.name))


def read(path: Path, fields: Mapping[str, type], *, unique: str | None = None) -> list[Row]:
    """The rows of a file, every one with every field.

    Args:
        path: .csv with a header, otherwise JSON lines or one JSON list of objects; UTF-8, gzipped if the name ends in .gz.
        fields: name -> type: str (not blank), int, float (whole numbers too) or list.
        unique: a field whose values differ between all rows.

    Raises:
        ConfigError: the file cannot be read or has no rows; a row is malformed, lacks a field or repeats the unique one.
    """
    text = _text(path)
    shape = "{" + ", ".join(f'"{name}": {KINDS[kind]}' for name, kind in fields.items()) + "}"
    rows, seen = [], set()
    for where, values in _entries(path, text, shape):
        row = Row(values=values, where=where)
        if not isinstance(values, dict) or not all(_is(values.get(name), kind) for name, kind in fields.items()):
            raise row.expected(shape)
        if unique is not None:
            if values[unique] in seen:
                raise row.expected(f'another "{unique}" in every row, but {values[unique]!r} came before')
            seen.add(values[unique])
        rows.append(row)
    if not rows:
        raise ConfigError(f"{path}: empty; expected rows of {shape}")
    return rows


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error):
            raise ConfigError(f"{path}: not a gzip file, or cut short") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected UTF-8 text, but byte {error.start} is none") from None


def _is(value: object, kind: type) -> bool:
    if isinstance(value, str):
        return kind is str and bool(value.strip())
    if isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
        return False
    return isinstance(value, int | float if kind is float else kind)


def _entries(path: Path, text: str, shape: str) -> Iterator[tuple[str, Any]]:
    """The place of each entry, for errors, and its value."""
    if path.name.removesuffix(".gz").endswith(".csv"):
        table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        try:
            for values in table:
                yield f"{path}:{table.line_num}", None if None in values else values  # None: more fields than the header
        except csv.Error as error:
            raise ConfigError(f"{path}:{table.reader.line_num}: not CSV ({error}); expected {shape}") from None
    elif text.lstrip().startswith("["):
        for number, values in enumerate(_parsed(text, str(path), f"a list of {shape}"), start=1):
            yield f"{path}: entry {number}", values
    else:
        # Not splitlines: it also breaks at characters such as U+2028, which may stand inside a JSON string.
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                where = f"{path}:{number}"
                yield where, _parsed(line, where, shape)


def _parsed(text: str, where: str, shape: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # ValueError: also an integer of too many digits
        raise ConfigError(f"{where}: not valid JSON; expected {shape}") from None
