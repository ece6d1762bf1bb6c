r"""Canvases: fixed text with holes in it, as a value to ask for and as the layout of an answer.

    unmask.canvas("def add(a, b):\n", unmask.hole(32), "\nprint(add(1, 2))")

A canvas stands wherever a prompt may and is taken as it is, or with `chat` as the assistant's turn. What stands before its
first hole is the request's prompt; the rest is the answer, of which only the holes are decoded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Self

from unmask.decode.holes import Gap
from unmask.decode.settings import one_of, whole
from unmask.engine.text import Answer, read
from unmask.engine.text import settled as _settled
from unmask.errors import ConfigError, unknown

End = Literal["filled", "early"]
Turns = Sequence[Mapping[str, str]]
_LOOK_BACK = 16  # tokens


# --- what a caller writes ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hole:
    """Tokens that are to be decoded; see `hole`."""

    tokens: int
    end: End = "filled"

    def __post_init__(self) -> None:
        whole("hole", self.tokens, 1, required=True)
        one_of("hole: end", self.end, ("filled", "early"))


@dataclass(frozen=True)
class CanvasPrompt:
    """Fixed text and holes; see `canvas`."""

    parts: tuple[str | tuple[int, ...] | Hole, ...]
    chat: str | tuple[Mapping[str, str], ...] | None = None
    blind: bool = False


def hole(tokens: int, *, end: End = "filled") -> Hole:
    """A hole of that many tokens for `canvas`.

    Args:
        tokens: at least 1.
        end: "filled": every token is written, and none of them ends the text. "early": the hole is over at its first end of
            text, and what lies behind that is no text.

    Raises ConfigError for any other number or word.

    >>> hole(32, end="early")
    Hole(tokens=32, end='early')
    """
    return Hole(tokens, end)


def canvas(*parts: str | Sequence[int] | Hole, chat: str | Turns | None = None, blind: bool = False) -> CanvasPrompt:
    """Fixed text with holes in it, which stands wherever a prompt may (`generate`).

    Args:
        parts: strings, lists of token ids and holes, in the order of the text. Strings are encoded one by one.
        chat: a question, or turns of `role` and `content`, of which the canvas is the assistant's answer. None: the canvas
            is taken as it is, without a template.
        blind: fill the holes though the model cannot see the text behind them. A block-causal model sees nothing behind a
            hole's own block; of it a canvas with text behind a hole is refused unless this is said.

    Raises ConfigError for a part of another kind, or where there is none.

    >>> canvas("So ", hole(2), [7, 8]).parts
    ('So ', Hole(tokens=2, end='filled'), (7, 8))
    """
    found = tuple(part if isinstance(part, str | Hole) else _ids(part) for part in parts)
    if not any(part for part in found if not isinstance(part, Hole)) and not any(isinstance(part, Hole) for part in found):
        raise ConfigError('a canvas is empty: give it text or a hole, as canvas("The answer is ", hole(3), ".")')
    if not isinstance(blind, bool):
        raise ConfigError(f"canvas: blind must be true or false, got {blind!r}")
    return CanvasPrompt(found, chat if chat is None or isinstance(chat, str) else _turns(chat), blind)


def _turns(chat: Any) -> tuple[Mapping[str, str], ...]:
    listed = isinstance(chat, Sequence) and all(isinstance(turn, Mapping) for turn in chat)
    if not listed or not all(isinstance(turn.get(key), str) for turn in chat for key in ("role", "content")):
        raise ConfigError(f"canvas: chat is a question, or a list of turns of role and content, got {chat!r:.60}")
    return tuple(chat)


def from_json(parts: Any, *, chat: str | Turns | None = None, blind: bool = False) -> CanvasPrompt:
    """A canvas as plain data has it: strings, lists of token ids and holes such as `{"hole": 32, "end": "early"}`.

    Raises ConfigError for anything else.

    >>> from_json(["So ", {"hole": 2}]) == canvas("So ", hole(2))
    True
    """
    if not isinstance(parts, list):
        raise ConfigError(f'canvas must be a list of strings and {{"hole": 32}}, got {parts!r:.60}')
    return canvas(*(_hole(part) if isinstance(part, dict) else part for part in parts), chat=chat, blind=blind)


def _hole(part: Mapping[str, Any]) -> Hole:
    for key in part:
        if key not in ("hole", "end"):
            raise unknown("key of a hole", key, ("hole", "end"))
    return hole(part.get("hole"), end=part.get("end", "filled"))  # type: ignore[arg-type]  # `hole` checks them


def _ids(part: Any) -> tuple[int, ...]:
    listed = isinstance(part, Sequence) and not isinstance(part, bytes)
    if not listed or not all(isinstance(token, int) and not isinstance(token, bool) for token in part):
        raise ConfigError(f"a part of a canvas is a string, a list of token ids or a hole, got {part!r:.60}")
    return tuple(part)


# --- what a request holds ---------------------------------------------------------------------------------------------


class Piece(NamedTuple):
    """A part of a canvas in token ids: fixed ones with the text that they stand for, or a hole."""

    ids: tuple[int, ...] = ()
    text: str = ""
    hole: Hole | None = None


class Laid(NamedTuple):
    """A canvas as a request has it: what stands before its first hole, and behind that the fixed tokens and the layout."""

    prompt: tuple[int, ...]
    fixed: dict[int, int]
    layout: "Layout"
    length: int  # tokens from the first hole on


@dataclass(frozen=True)
class Layout:
    """The holes of an answer and the texts around them.

    Attributes:
        gaps: the holes, in order.
        texts: before, between and behind them, one more than there are gaps.
        begin: where the canvas begins in the prompt; before that stands a chat, or a first token that is no text.
    """

    gaps: tuple[Gap, ...]
    texts: tuple[str, ...]
    begin: int = 0

    def read(
        self,
        prompt: Sequence[int],
        answer: Sequence[int],
        tokenizer: Any,
        ends: Sequence[int],
        stop: Sequence[str] = (),
        *,
        settled: bool = False,
    ) -> Answer:
        """The text of the canvas as far as `answer` has it: fixed text as it was given, and what the holes' tokens add.

        A hole that may end early does so at its first end, or before the first stop string in its text. With `settled` only
        the text that no further token can change.
        """
        text, over, used, stopped = self.texts[0], list[str](), list[int](), True
        before, place = list(prompt[self.begin :]), 0
        for number, gap in enumerate(self.gaps):
            before += answer[place : gap.start]
            ids = answer[gap.start : gap.end]
            behind = None if tokenizer is None else Behind(tokenizer, before)
            ending = (ends, stop) if gap.early else ((), ())
            hole = read(ids, behind, *ending)
            if len(answer) < gap.end and not hole.stopped:
                part = _settled(ids, behind, *ending) if settled else hole.text
                return Answer(text + part, sum(used) + hole.tokens, False, tuple(over), tuple(used))
            over.append(hole.text)
            used.append(hole.tokens)
            stopped = stopped and (hole.stopped or not gap.early)
            text += hole.text + self.texts[number + 1]
            before += ids[: hole.tokens]
            place = gap.end
        return Answer(text, sum(used), stopped, tuple(over), tuple(used), complete=True)

    @property
    def hidden(self) -> Self:
        """The same holes, whose texts alone are read."""
        return replace(self, texts=("",) * len(self.texts))

    def filled(self, answer: Sequence[int], used: Sequence[int], filler: int) -> list[int]:
        """The whole answer with filler behind the tokens that each hole has used."""
        made = list(answer)
        for gap, tokens in zip(self.gaps, used, strict=True):
            made[gap.start + tokens : gap.end] = [filler] * (gap.end - gap.start - tokens)
        return made

    def places(self, used: Sequence[int]) -> list[int]:
        """The places in the answer of the tokens that the holes have used."""
        return [gap.start + inside for gap, tokens in zip(self.gaps, used, strict=False) for inside in range(tokens)]


class Behind:
    """A tokenizer that says what tokens add to the text of those before them.

    Decoders look back a little: a space is due between some tokens, and a character may be spread over several.
    """

    def __init__(self, tokenizer: Any, before: Sequence[int]) -> None:
        self._tokenizer, self._before = tokenizer, list(before[-_LOOK_BACK:])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool) -> str:
        shown, whole = (
            self._tokenizer.decode([*self._before, *ids], skip_special_tokens=skip_special_tokens) for ids in ((), token_ids)
        )
        differ = (place for place, (one, other) in enumerate(zip(shown, whole, strict=False)) if one != other)
        text: str = whole[next(differ, min(len(shown), len(whole))) :]
        return text


def lay_out(pieces: Sequence[Piece], *, context: Sequence[int] = ()) -> Laid:
    """The request's parts of a canvas, behind a `context` that is no text of it: a chat, or a first token.

    >>> laid = lay_out([Piece((5,), "a"), Piece(hole=Hole(2)), Piece((6, 7), "bc")], context=[1])
    >>> laid.prompt, laid.fixed, laid.length, laid.layout.texts
    ((1, 5), {2: 6, 3: 7}, 4, ('a', 'bc'))
    """
    prompt, texts = list(context), [""]
    fixed: dict[int, int] = {}
    gaps: list[Gap] = []
    place = 0
    for piece in pieces:
        if piece.hole is not None:
            gaps.append(Gap(place, place + piece.hole.tokens, piece.hole.end == "early"))
            texts.append("")
            place += piece.hole.tokens
            continue
        texts[-1] += piece.text
        if gaps:
            fixed |= dict(enumerate(piece.ids, place))
            place += len(piece.ids)
        else:
            prompt += piece.ids
    return Laid(tuple(prompt), fixed, Layout(tuple(gaps), tuple(texts), len(context)), place)
