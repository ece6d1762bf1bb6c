"""A decode as plain data: what every forward wrote, by which rule and with which confidence. Page and terminal draw it.

    recorder = Recorder(model, max_new_tokens=128)
    answers = unmask.generate(model, prompts, max_new_tokens=128, observer=recorder)
    trace = recorder.trace(0, prompt=prompts[0], method="r2-dllm", completion=answers[0])

A trace knows neither model nor tokenizer: ids have become pieces of text, positions count from the start of the answer.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Self

from unmask.decode.rule import Look
from unmask.engine.request import Completion, FinishReason, StepRecord
from unmask.errors import ConfigError
from unmask.files import write_atomically
from unmask.methods.table import looks
from unmask.models.denoiser import Denoiser
from unmask.view.text import pieces, written_pieces

KIND, VERSION = "unmask trace", 4
# Version 1 says nothing of how its rules are shown, 2 of tokens that are rewritten or go, 3 of tokens that a grammar refused.
READABLE = (1, 2, 3, VERSION)
# Under this name the fixed text of a canvas is shown, which no rule has written.
FIXED = "fixed"
FIXED_LOOK = Look(label="fixed text", sentence="given from the start", terminal="bright_black", light="#7a7f87", dark="#8b919b")


class Commit(NamedTuple):
    """A token written at position `place`.

    Attributes:
        confidence: None if no forward said one: a checked draft wrote it between two forwards, or it moved from another place.
        text: what it added to the text, if a later forward rewrites the place or empties it; None: the answer's piece.
    """

    place: int
    token: int
    rule: str
    confidence: float | None
    text: str | None = None


class Draft(NamedTuple):
    """The most probable token of a position that stays masked, and its confidence."""

    place: int
    token: int
    text: str
    confidence: float


class Refused(NamedTuple):
    """The token that the model would rather have written at a place, and that the grammar does not allow there."""

    place: int
    token: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Step:
    """One forward.

    Attributes:
        refresh: whether it is the first of its block.
        queried: how many tokens were queries of the model.
        start: where the block begins, or 0 if it begins in the prompt.
        commits: what it wrote, by rising position. A place that an earlier forward wrote is rewritten.
        drafts: the positions of the block that stay masked.
        emptied: the positions that were written and are masked again, because tokens were deleted or moved.
        refused: what a grammar has refused, of the positions that were masked before it.
    """

    refresh: bool
    queried: int
    start: int
    commits: tuple[Commit, ...]
    drafts: tuple[Draft, ...]
    emptied: tuple[int, ...] = ()
    refused: tuple[Refused, ...] = ()


class Cell(NamedTuple):
    """A position as it looks after some forward: written by a rule, drafted (no rule), or masked (no rule, no text).

    `before` is the text that the rule rewrote; None: the position was masked.
    """

    text: str | None
    rule: str | None
    before: str | None = None


@dataclass(frozen=True, kw_only=True)
class Trace:
    """The decode of one answer; until it has ended, the fields of the finished answer are empty.

    Attributes:
        model, method, settings: what decoded; settings as `Method.to_dict` gives them.
        prompt: its text.
        length: tokens of the answer, filler included.
        steps: one per forward.
        pieces: what each position adds to the text: those of the first `tokens` positions join to `text` (and what a stop
            string cut off). Empty for an end of turn, an unwritten position or the first bytes of a character.
        text, tokens, finish_reason, seconds: as in Completion.
        rules: how each rule is shown, by name.
        fixed: the places that hold text from the start, around the holes of a canvas.
    """

    model: str
    method: str
    settings: Mapping[str, Any]
    prompt: str
    length: int
    steps: tuple[Step, ...]
    pieces: tuple[str, ...]
    text: str = ""
    tokens: int = 0
    finish_reason: FinishReason | None = None
    seconds: float = 0.0
    rules: Mapping[str, Look] = field(default_factory=dict)
    fixed: tuple[int, ...] = ()

    @property
    def forwards(self) -> int:
        return len(self.steps)

    def look(self, rule: str) -> Look:
        """How a rule is shown: as the trace says, else as the package's rule of that name is, else in grey."""
        grey = Look(label=rule.replace("_", " "), sentence="", terminal="bright_black", light="#7a7f87", dark="#8b919b")
        return self.rules.get(rule) or looks().get(rule, grey)

    def cells(self, forward: int) -> list[Cell]:
        """Every position after this many forwards."""
        cells = [Cell(None, None)] * self.length
        for place in self.fixed:
            cells[place] = Cell(self.pieces[place], FIXED)
        for step in self.steps[:forward]:
            for place in step.emptied:
                cells[place] = Cell(None, None)
            for commit in step.commits:
                text = self.pieces[commit.place] if commit.text is None else commit.text
                cells[commit.place] = Cell(text, commit.rule, before=cells[commit.place].text)
        for draft in self.steps[forward - 1].drafts if forward else ():
            cells[draft.place] = Cell(draft.text, None)
        return cells

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `from_dict` reads back, also after a round trip through JSON; commits and drafts are lists."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Raises ConfigError, KeyError or TypeError if the data is not a trace."""
        parts = {field.name: data[field.name] for field in fields(cls) if field.name not in ("rules", "fixed")}
        steps = tuple(
            Step(
                refresh=bool(step["refresh"]),
                queried=int(step["queried"]),
                start=int(step["start"]),
                commits=tuple(Commit(*commit) for commit in step["commits"]),
                drafts=tuple(Draft(*draft) for draft in step["drafts"]),
                emptied=tuple(step.get("emptied", ())),
                refused=tuple(Refused(*refused) for refused in step.get("refused", ())),
            )
            for step in parts.pop("steps")
        )
        rules = {name: Look(**look) for name, look in data.get("rules", {}).items()}
        fixed = tuple(data.get("fixed", ()))
        trace = cls(**parts | {"pieces": tuple(parts["pieces"])}, steps=steps, rules=rules, fixed=fixed)
        commits = [commit for step in steps for commit in step.commits]
        if not all(isinstance(rule, str) and rule for rule in (*(commit.rule for commit in commits), *rules)):
            raise ConfigError("a rule without a name")
        marks: list[Commit | Draft] = [*commits, *(draft for step in steps for draft in step.drafts)]
        others = (place for step in steps for place in (*step.emptied, *(refused.place for refused in step.refused)))
        places = [*fixed, *(mark.place for mark in marks), *others]
        if len(trace.pieces) != trace.length or not all(0 <= place < trace.length for place in places):
            raise ConfigError("a place outside the answer")
        if not all(mark.confidence is None or 0 <= mark.confidence <= 1 for mark in marks):
            raise ConfigError("a confidence that is not from 0 to 1")
        return trace


# --- recording ------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class _Decode:
    start: int  # of the answer: tokens of the prompt
    written: dict[int, int] = field(default_factory=dict)  # place -> token
    steps: list[Step] = field(default_factory=list)


class Recorder:
    """An observer that keeps what a Trace needs; `trace(i)` belongs to prompt i of the batch."""

    def __init__(self, model: Denoiser, max_new_tokens: int, *, fixed: Mapping[int, int] = MappingProxyType({})) -> None:
        """`fixed` are the tokens of a canvas that stand in the answer from the start, by their places."""
        self._model, self._length = model, max_new_tokens
        self._fixed = {place: token for place, token in fixed.items() if place < max_new_tokens}
        self._rows: dict[int, _Decode] = {}
        self._looks: dict[str, Look] = {}
        self._drafts: dict[tuple[int | None, int], str] = {}  # token before, token -> text

    def __call__(self, record: StepRecord) -> None:
        """Take in one forward."""
        for own in record.looks:
            self._looks |= own
        for number, index in enumerate(record.rows):
            row = self._rows.setdefault(index, _Decode(start=record.prompt[number], written=dict(self._fixed)))
            row.steps.append(self._step(record, number, row))

    @property
    def seen(self) -> bool:
        """Whether there was a forward."""
        return bool(self._rows)

    def _step(self, record: StepRecord, number: int, row: _Decode) -> Step:
        """What the forward did to one of its rows, whose `written` is brought up to date."""
        mask_id = self._model.spec.mask_id  # a place that is emptied, and what a forward that guesses nothing leaves
        # A block on a grid may begin in the prompt and reach behind the answer.
        first = record.start[number] - row.start
        guessed = enumerate(zip(record.candidate[number], record.confidence[number], strict=True), first)
        sure = {place: (token, round(confidence, 4)) for place, (token, confidence) in guessed if 0 <= place < self._length}
        taken = zip(record.committed[number], record.tokens[number], record.rule[number], strict=True)
        new = {place - row.start: (token, rule) for place, token, rule in taken if place - row.start < self._length}
        commits = tuple(
            # A token that has moved is not what its place's evidence was of.
            Commit(place, token, rule, sure[place][1] if sure[place][0] == token else None)
            for place, (token, rule) in new.items()
            if token != mask_id
        )
        emptied = tuple(place for place, (token, _) in new.items() if token == mask_id)
        row.written = {place: token for place, token in row.written.items() if place not in emptied}
        row.written |= {commit.place: commit.token for commit in commits}
        # Where tokens have moved, evidence of the places behind them is of other tokens.
        candidates = {} if emptied else {place: mark for place, mark in sure.items() if mark[0] != mask_id}
        standing = {place: token for place, (token, _) in candidates.items()} | row.written
        drafts = tuple(
            Draft(place, token, self._draft(standing.get(place - 1), token), confidence)
            for place, (token, confidence) in candidates.items()
            if place not in row.written
        )
        refused = enumerate(record.refused[number] if record.refused else (), first)
        return Step(
            refresh=record.refresh[number],
            queried=len(record.query_tokens[number]),
            start=max(0, first),
            commits=commits,
            drafts=drafts,
            emptied=emptied,
            refused=tuple(
                Refused(place, token, self._draft(standing.get(place - 1), token))
                for place, token in refused
                if token >= 0 and 0 <= place < self._length
            ),
        )

    def trace(
        self,
        index: int = 0,
        *,
        prompt: str = "",
        method: str = "",
        settings: Mapping[str, Any] | None = None,
        completion: Completion | None = None,
    ) -> Trace:
        """The trace of one row so far; `completion` adds the finished answer."""
        row, settings = self._rows[index], settings or {}
        steps = self._with_rewritten(row.steps)
        trace = Trace(
            model=self._model.name,
            method=method,
            settings=settings,
            prompt=prompt,
            length=self._length,
            steps=tuple(map(_without_guesses, steps)) if settings.get("draft") else steps,
            pieces=tuple(written_pieces(self._model.tokenizer, row.written, self._length)),
            rules=self._looks_of(row),
            fixed=tuple(self._fixed),
        )
        if completion is None:
            return trace
        return replace(
            trace,
            text=completion.text,
            tokens=completion.tokens,
            finish_reason=completion.finish_reason,
            seconds=round(completion.seconds, 4),
        )

    def _with_rewritten(self, steps: Sequence[Step]) -> tuple[Step, ...]:
        """The steps, with the texts of tokens that later ones rewrite or empty."""
        last = {place: number for number, step in enumerate(steps) for place in _touched(step)}
        standing = dict(self._fixed)
        found = []
        for number, step in enumerate(steps):
            standing = {place: token for place, token in standing.items() if place not in step.emptied}
            standing |= {commit.place: commit.token for commit in step.commits}
            commits = tuple(
                commit
                if last[commit.place] == number
                else commit._replace(text=self._draft(standing.get(commit.place - 1), commit.token))
                for commit in step.commits
            )
            found.append(replace(step, commits=commits))
        return tuple(found)

    def _looks_of(self, row: _Decode) -> dict[str, Look]:
        seen = {commit.rule for step in row.steps for commit in step.commits}
        fixed = {FIXED: FIXED_LOOK} if self._fixed else {}
        return fixed | {rule: look for rule, look in self._looks.items() if rule in seen}

    def _draft(self, before: int | None, token: int) -> str:
        if (before, token) not in self._drafts:
            ids = [token] if before is None else [before, token]
            self._drafts[before, token] = pieces(self._model.tokenizer, ids)[-1]
        return self._drafts[before, token]


def _touched(step: Step) -> list[int]:
    return [*step.emptied, *(commit.place for commit in step.commits)]


def _without_guesses(step: Step) -> Step:
    """With drafts a forward stands for several steps, and its confidences are the last step's: only a single commit has one."""
    if step.refresh or len(step.commits) < 2:
        return step
    return replace(step, commits=tuple(commit._replace(confidence=None) for commit in step.commits))


def told(completion: Completion, tokenizer: Any) -> list[dict[str, Any]]:
    """Of each token of an answer what a trace says of it, and the forward: the fields of `Commit`, and `forward`."""
    ids = [completion.token_ids[place] for place in completion.places]
    return [
        Commit(place, token, step.rule, step.confidence, text)._asdict() | {"forward": step.forward}
        for place, token, step, text in zip(completion.places, ids, completion.steps, pieces(tokenizer, ids), strict=True)
    ]


# --- files ----------------------------------------------------------------------------------------------------------


def write(path: Path, traces: Sequence[Trace]) -> None:
    """Write traces as one JSON document. Raises OSError if the file cannot be written."""
    document = {"kind": KIND, "version": VERSION, "traces": [trace.to_dict() for trace in traces]}
    text = json.dumps(document, ensure_ascii=False, allow_nan=False)
    write_atomically(path, lambda place: place.write_text(text, encoding="utf-8"))


def read(path: Path) -> tuple[Trace, ...]:
    """The traces of a file. Raises ConfigError, with the reason, if it holds none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError:
        document = None
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise ConfigError(f"{path}: not a trace; `unmask generate PROMPT --trace FILE.json` makes one")
    if document.get("version") not in READABLE:
        raise ConfigError(
            f"{path}: a trace of version {document.get('version')}; this unmask reads version {VERSION} and older ones"
        )
    try:
        traces = tuple(Trace.from_dict(trace) for trace in document["traces"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: a damaged trace ({error})") from None
    if not traces:
        raise ConfigError(f"{path}: holds no trace")
    return traces
