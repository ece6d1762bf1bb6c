"""The answers to a dataset's lines on disk: in any order while they come, in the lines' order when all are there.

OUT.journal grows while OUT is made, and OUT appears whole. What stays of the journal then says what made OUT, so that the
same command finds its work done and any other one is refused.
"""

import json
import os
from array import array
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from unmask.errors import ConfigError
from unmask.files import Journal, write_atomically


class Totals(NamedTuple):
    """What a file of answers holds; tokens and forwards are those of all lines together."""

    lines: int
    errors: int
    tokens: int
    forwards: int


class Ledger:
    """Answers by the number of their line, counted from 0; eight bytes of memory per line, whatever it holds.

    Raises ConfigError where `path` cannot be written, is not from here, is from other settings, or is being written.
    """

    def __init__(self, path: Path, provenance: Mapping[str, Any], lines: int) -> None:
        self.path, journal = path, path.with_name(path.name + ".journal")
        self._places = array("q", [-1]) * lines  # where in the journal each line's answer is
        self.totals: Totals | None = None  # once it is finished
        if path.exists() and not journal.exists():
            raise ConfigError(f"{path} is there already and has no journal: use another output or delete it")

        def deleted(first: Mapping[str, Any]) -> bool:
            return "finished" in first and not path.exists()

        self._journal = Journal(journal, provenance, "made", name=path, obsolete=deleted)
        try:
            self._find()
        except ConfigError:
            self._journal.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._journal.close()

    @property
    def missing(self) -> "array[int]":
        """The numbers of the lines without an answer, rising."""
        return array("q", (number for number, place in enumerate(self._places) if place < 0 and self.totals is None))

    def append(self, answers: Iterable[tuple[int, str]]) -> None:
        """Add answers, each a line's number and an object of JSON; they are on disk when this returns."""
        rows = [{"line": number, "answer": json.loads(text)} for number, text in answers]
        for row, place in zip(rows, self._journal.append(rows), strict=True):
            self._places[row["line"]] = place

    def finish(self) -> Totals:
        """Write the output, in the order of the lines, every one of which must have its answer."""
        if self.totals is None:
            assert not self.missing, "every line has its answer"
            totals = write_atomically(self.path, self._write)
            self._journal.replace([{"finished": totals._asdict()}])
            self.totals = totals
        return self.totals

    def _find(self) -> None:
        """Take down where the journal's answers are, or what it says of a finished output."""
        for number, (place, row) in enumerate(self._journal, start=2):
            try:
                if "finished" in row:
                    self.totals = Totals(**row["finished"])
                else:
                    self._places[_line_of(row, len(self._places))] = place
            except (KeyError, TypeError, IndexError):
                raise ConfigError(f"{self._journal.path}:{number}: this line is no answer of this file: remove it") from None

    def _write(self, place: Path) -> Totals:
        errors = tokens = forwards = 0
        with place.open("w") as out:
            for begin in self._places:
                answer = self._journal.read(begin)["answer"]
                errors += "error" in answer
                tokens += answer.get("tokens", 0)
                forwards += answer.get("forwards", 0)
                out.write(json.dumps(answer) + "\n")
            out.flush()
            os.fsync(out.fileno())  # from here on the journal's answers are no longer needed
        return Totals(len(self._places), errors, tokens, forwards)


def _line_of(row: Mapping[str, Any], lines: int) -> int:
    """The line that a row answers. Raises an error of looking up where it answers none."""
    number, answer = row["line"], row["answer"]
    if type(number) is not int or not 0 <= number < lines or not isinstance(answer, dict):
        raise IndexError(number)
    return number
