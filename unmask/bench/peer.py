"""A peer: a command that decodes the same weights and answers lines of JSON, in a process of its own.

It loads its model once, then reads one line per turn from stdin and writes one line to stdout:

    {"prompts": [[ids], ...], "max_new_tokens": 64, "method": {settings}, "mask_id": 2, "eos_ids": [1]}
    {"tokens": [[ids], ...], "forwards": [number, ...], "cpu_seconds": 0.5}

Tokens are those of the answers, as many as asked for; forwards the model calls in which each prompt took part; cpu_seconds
the processor time of all of them, loading and reading left out. "note" may say what a reader of the table must know.
A peer's command is split as a shell would, without one; "{model}" stands for the checkpoint's folder.
"""

import asyncio
import contextlib
import json
import math
import os
import re
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from unmask.errors import ConfigError

Line = dict[str, Any]
LONGEST = 2**26  # bytes of an answer
SHOWN = 80  # characters of what was wrong


class PeerError(Exception):
    """What a peer did wrong, in one line; it takes no further turn."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A peer's answers: ids and forwards per prompt, its processor seconds, and the seconds until they came."""

    tokens: list[list[int]]
    forwards: list[int]
    cpu_seconds: float
    seconds: float
    note: str = ""

    @classmethod
    def all(cls, turns: Sequence[Self]) -> Self:
        """Several as one."""
        return cls(
            tokens=[ids for turn in turns for ids in turn.tokens],
            forwards=[number for turn in turns for number in turn.forwards],
            cpu_seconds=sum(turn.cpu_seconds for turn in turns),
            seconds=sum(turn.seconds for turn in turns),
            note=turns[-1].note,
        )


@dataclass(frozen=True)
class Command:
    """A peer as it is written: `NAME=COMMAND`, or a command whose name is itself."""

    name: str
    words: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ConfigError where there is no command.

        >>> Command.parse("plain=python loop.py 'a b'")
        Command(name='plain', words=('python', 'loop.py', 'a b'))
        >>> Command.parse("python loop.py --steps=4").name
        'python loop.py --steps=4'
        """
        named = re.match(r"([\w.-]+)=(.*)", text, re.DOTALL)
        name, command = named.groups() if named else (text, text)
        try:
            words = tuple(shlex.split(command))
        except ValueError as error:
            raise ConfigError(f"--peer {text}: {error}") from None
        if not words:
            raise ConfigError(f"--peer {text}: write NAME=COMMAND, for example loop=python loop.py {{model}}")
        return cls(name, words)


class Peer:
    """A peer's process, started by the first line that it is asked."""

    def __init__(self, command: Command, folder: Path, *, limit: float) -> None:
        """`limit` is the seconds of one turn, loading included; `folder` is the checkpoint's."""
        self.name, self.limit = command.name, limit
        python = {"python": sys.executable}  # the one that runs this, which has what we have
        words = [word.replace("{model}", str(folder)) for word in command.words]
        self._words = [python.get(words[0], words[0]), *words[1:]]
        self._process: asyncio.subprocess.Process | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # `close` closes it

    async def turn(self, lines: Sequence[Line]) -> Turn:
        """Answers to some lines, one after the other. Raises PeerError, after which the process is gone."""
        try:
            async with asyncio.timeout(self.limit):
                return Turn.all([await self._ask(line) for line in lines])
        except TimeoutError:
            reason = f"gave no answer within {self.limit:g} s (--time-limit); a peer answers each line at once and flushes"
        except PeerError as error:
            reason = str(error)
        await self.close()
        raise PeerError(f"peer {self.name} {reason}")

    async def _ask(self, line: Line) -> Turn:
        began = time.perf_counter()
        if self._process is None:
            self._process = await self._start()
        reader, writer = self._process.stdout, self._process.stdin
        assert reader is not None
        assert writer is not None
        try:
            writer.write(json.dumps(line).encode() + b"\n")
            await writer.drain()
            answer = await reader.readline()
        except ConnectionError:
            answer = b""
        except ValueError:
            raise PeerError(f"wrote a line of more than {LONGEST >> 20} MB") from None
        if not answer.endswith(b"\n"):
            code = await self._process.wait()
            raise PeerError(f"ended with exit status {code} before it answered{self._last_words()}")
        return _read(answer, line, time.perf_counter() - began)

    async def _start(self) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        try:
            return await asyncio.create_subprocess_exec(
                *self._words, stdin=pipe, stdout=pipe, stderr=self._log, limit=LONGEST, process_group=0
            )
        except OSError as error:
            raise PeerError(f"cannot be started: {self._words[0]}: {error.strerror}") from None

    def _last_words(self) -> str:
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - 4096))
        lines = self._log.read().decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return f": {said[-1][:200]}" if said else ""

    async def close(self) -> None:
        """End the process and those that it started."""
        self._log.close()
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]  # its pipes; asyncio has no public way


def _read(answer: bytes, asked: Line, seconds: float) -> Turn:
    """Raises PeerError where the line is not the answer to what was asked."""
    shown = answer.decode(errors="replace").strip()[:SHOWN]
    try:
        row = json.loads(answer)
    except ValueError:
        raise PeerError(f"wrote {shown!r}, which is not JSON; what is no answer belongs on stderr") from None
    if not isinstance(row, dict) or (missing := [key for key in ("tokens", "forwards", "cpu_seconds") if key not in row]):
        lacks = ", ".join(missing) if isinstance(row, dict) else "tokens, forwards, cpu_seconds"
        raise PeerError(f"wrote {shown!r}, which lacks {lacks}")
    count, length = len(asked["prompts"]), asked["max_new_tokens"]
    for key, right in (("tokens", lambda ids: isinstance(ids, list) and all(map(_whole, ids))), ("forwards", _whole)):
        if not isinstance(row[key], list) or len(row[key]) != count or not all(map(right, row[key])):
            what = "lists of token ids" if key == "tokens" else "whole numbers"
            raise PeerError(f"must answer {count} prompts with {count} {what} in {key!r}: {shown!r}")
    if short := next((ids for ids in row["tokens"] if len(ids) != length), None):
        raise PeerError(f"wrote an answer of {len(short)} tokens; {length} were asked for")
    spent = row["cpu_seconds"]
    if isinstance(spent, bool) or not isinstance(spent, int | float) or not 0 < spent < math.inf:
        raise PeerError(f"wrote cpu_seconds {spent!r}; it must be a number above 0")
    note = str(row.get("note", ""))[:SHOWN]
    return Turn(tokens=row["tokens"], forwards=row["forwards"], cpu_seconds=float(spent), seconds=seconds, note=note)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
