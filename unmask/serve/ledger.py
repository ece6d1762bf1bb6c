"""The answers to a dataset's lines on disk: in any order while they come, in the lines' order when all are there.

OUT.journal grows while OUT is made, and OUT appears whole. What stays of the journal then says what made OUT, so that the
same command finds its work done and any other one is refused.
"""

import fcntl
import json
import os
from array import array
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from unmask.errors import ConfigError
from unmask.files import resume, write_atomically


class Totals(NamedTuple):
    """What a file of answers holds; tokens and forwards are those of all lines together."""

    lines: int
    errors: int
    tokens: int
    forwards: int


class Ledger:
    """Answers by the number of their line, counted from 0; eight bytes of memory a line, whatever they hold.

    Raises ConfigError where `path` cannot be written, is not from here, is from other settings, or is being written.
    """

    def __init__(self, path: Path, provenance: Mapping[str, Any], lines: int) -> None:
        self.path, self._journal = path, path.with_name(path.name + ".journal")
        self._places = array("q", [-1]) * lines  # where in the journal each line's answer is
        self.totals: Totals | None = None  # once it is finished
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and not self._journal.exists():
                raise ConfigError(f"{path} is there already and has no journal: use another output or delete it")
            self._file = self._journal.open("a+b")
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written ({error.strerror})") from None
        try:
            self._begin(provenance)
        except ConfigError:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    @property
    def missing(self) -> "array[int]":
        """The numbers of the lines without an answer, rising."""
        return array("q", (number for number, place in enumerate(self._places) if place < 0 and self.totals is None))

    def append(self, answers: Iterable[tuple[int, str]]) -> None:
        """Add answers, each a line's number and an object of JSON; they are on disk when this returns."""
        end = self._file.seek(0, os.SEEK_END)
        for number, text in answers:
            self._places[number] = end
            end += self._file.write(f'{{"line": {number}, "answer": {text}}}\n'.encode())
        self._file.flush()

    def finish(self) -> Totals:
        """Write the output, in the order of the lines, every one of which must have its answer."""
        if self.totals is not None:
            return self.totals
        assert not self.missing, "every line has its answer"
        totals = write_atomically(self.path, self._write)
        self._file.seek(0)
        header, last = self._file.readline(), json.dumps({"finished": totals._asdict()}) + "\n"
        write_atomically(self._journal, lambda place: place.write_bytes(header + last.encode()))
        self.totals = totals
        return totals

    def _begin(self, provenance: Mapping[str, Any]) -> None:
        """Find what the journal holds, or begin it."""
        try:
            # The kernel frees the lock with the process, however that ends.
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{self.path} is being written by another process: wait, or use another output") from None
        if self._read_totals() and not self.path.exists():
            self._file.truncate(0)  # the output has been deleted: nothing to protect any more
        resume(self._file, provenance, "made")
        self.totals = self._read_totals()
        if self.totals is None:
            self._find()

    def _read_totals(self) -> Totals | None:
        """What the journal of a finished output says behind its header."""
        self._file.seek(0)
        self._file.readline()
        line = self._file.readline()
        return Totals(**json.loads(line)["finished"]) if line.startswith(b'{"finished": ') else None

    def _find(self) -> None:
        """Take down where the journal's answers are."""
        self._file.seek(0)
        begin = len(self._file.readline())
        for line in self._file:
            self._places[json.loads(line)["line"]] = begin
            begin += len(line)

    def _write(self, place: Path) -> Totals:
        errors = tokens = forwards = 0
        with place.open("w") as out:
            for begin in self._places:
                self._file.seek(begin)
                answer = json.loads(self._file.readline())["answer"]
                errors += "error" in answer
                tokens += answer.get("tokens", 0)
                forwards += answer.get("forwards", 0)
                out.write(json.dumps(answer) + "\n")
        return Totals(len(self._places), errors, tokens, forwards)
