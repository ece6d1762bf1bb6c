"""Strict readers of the tasks' data files: JSON lines, one JSON list, CSV or parquet, gzipped or not, of a folder or the hub.

    rows = read(path, {"question": str, "answer": str})

Every error is one line that names the file, the entry and the field, and what was expected there.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from unmask.data import layout
from unmask.data.records import records
from unmask.errors import ConfigError

KINDS: Mapping[type, str] = {str: "text", int: "whole number", float: "number", Decimal: "number", list: "list"}


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


def files(data: Path | None, *patterns: str, split: str = "test", configs: Sequence[str] = ()) -> list[Path]:
    """The data files that a task reads: `data` itself if it is a file, or what a folder or a data set on the hub holds.

    Args:
        data: file, folder, or id of a data set (owner/name, owner/name@revision, owner/name/config).
        patterns: the task's own files, which come first, cd9 before cd10.
        split, configs: what is read of a folder or data set that is laid out as the hub does it (data/layout.py).

    Raises ConfigError if there are none.
    """
    names = " or ".join(patterns)
    if data is None:
        raise ConfigError(f"name the data with --data: {names}, or its folder")
    if not data.exists() and data.is_absolute():
        raise ConfigError(f"{data}: no such file or folder; expected {names}, or its folder")
    found = layout.files(data, split, own=patterns, configs=configs)
    if not found:
        where = "this folder" if data.is_dir() else "this data set"
        raise ConfigError(f"{data}: {where} holds no {names}, nor files of a split {split} (parquet, JSON lines, JSON or CSV)")
    return found


def split_files(data: Path | None, *patterns: str, split: str = "test", configs: Sequence[str] = ()) -> list[Path]:
    """The same of a task whose own files are alternatives: the first of them, or all files of the split."""
    found = files(data, *patterns, split=split, configs=configs)
    return found[:1] if found[0].name in patterns else found


def read(place: Path | Sequence[Path], fields: Mapping[str, type], *, unique: str | None = None) -> list[Row]:
    """The rows of a file, or of several one after the other, every one with every field.

    Args:
        place: the file or files, as data/records.py reads them.
        fields: name -> type: str (not blank), int, float (whole numbers too), Decimal (a number, or the text of one) or list.
        unique: a field whose values differ between all rows.

    Raises:
        ConfigError: a file cannot be read or there are no rows; a row is malformed, lacks a field or repeats the unique one.
    """
    paths = [place] if isinstance(place, Path) else place
    shape = "{" + ", ".join(f'"{name}": {KINDS[kind]}' for name, kind in fields.items()) + "}"
    rows, seen = list[Row](), set[Any]()
    for record in (record for path in paths for record in records(path)):
        row = Row(values=record.values, where=record.where)
        if record.error is not None:
            raise ConfigError(f"{record.where}: {record.error}; expected {shape}")
        if (fault := _fault(record.values, fields)) is not None:
            raise row.expected(f"{shape}, but {fault}")
        if unique is not None:
            if row[unique] in seen:
                raise row.expected(f'another "{unique}" in every row, but {row[unique]!r} came before')
            seen.add(row[unique])
        rows.append(row)
    if not rows:
        raise ConfigError(f"{', '.join(map(str, paths))}: empty; expected rows of {shape}")
    return rows


def _fault(values: Mapping[str, Any], fields: Mapping[str, type]) -> str | None:
    """What is wrong with the first field that is not as it should be."""
    for name, kind in fields.items():
        if name not in values:
            close = next((other for other in values if other.lower() == name.lower()), None)
            return f'there is no "{name}"' + (f', only "{close}"' if close else "")
        if not _is(values[name], kind):
            blank = kind is str and isinstance(values[name], str)
            return f'"{name}" is ' + ("blank" if blank else f"{values[name]!r:.60}, which is no {KINDS[kind]}")
    return None


def _is(value: object, kind: type) -> bool:
    if isinstance(value, str):
        return (kind is str and bool(value.strip())) or (kind is Decimal and number(value) is not None)
    if isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
        return False
    return isinstance(value, int | float if kind in (float, Decimal) else kind)


def number(value: float | str) -> Decimal | None:
    """A number, or the text of one with or without commas, as an exact number; None for anything else.

    >>> number(145.0) == number("145") == 145, number("1,450.5"), number("many"), number("nan")
    (True, Decimal('1450.5'), None, None)
    """
    try:
        found = Decimal(str(value).replace(",", ""))
    except InvalidOperation:
        return None
    return found.normalize() if found.is_finite() else None
