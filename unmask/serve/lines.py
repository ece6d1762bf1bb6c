"""A dataset's lines: the request of each, and its answer.

    {"prompt": "Name a prime."}
    {"id": "q7", "messages": [{"role": "user", "content": "Name a prime."}], "max_new_tokens": 64, "method": "vanilla"}
    {"token_ids": [41, 7, 23], "temperature": 1, "seed": 3}
    {"canvas": ["A prime is ", {"hole": 2}, "."], "messages": [{"role": "user", "content": "Name a prime."}]}
    {"prompt": "Name a prime.", "regex": "[0-9]+"}    or "json_schema": {...}, or "choice": ["two", "three"]

It knows neither the engine that answers nor the file of the answers.
"""

import hashlib
import json
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from unmask.engine.generate import canvas_length, make_request
from unmask.engine.holes import from_json
from unmask.engine.own import completed, default_new_tokens
from unmask.engine.prompt import chat
from unmask.engine.request import Completion, Request
from unmask.errors import ConfigError, RequestError, unknown
from unmask.grammar.language import Language, choice, json_schema, regex
from unmask.methods import from_client
from unmask.methods.method import Method
from unmask.methods.recipe import recipe
from unmask.models.denoiser import Denoiser

QUESTIONS = ("prompt", "messages", "token_ids", "canvas")
OPTIONS = ("method", "max_new_tokens", "temperature", "top_p", "top_k", "seed", "stop")
LANGUAGES: Mapping[str, Callable[[Any], Language]] = {"regex": regex, "json_schema": json_schema, "choice": choice}
KEYS = ("id", *QUESTIONS, *OPTIONS, *LANGUAGES, "blind")
ANSWER = ("text", "token_ids", "tokens", "forwards", "tokens_per_forward", "seconds", "finish_reason")


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that an answer depends on besides its line.

    Attributes:
        model, dtype, weights, adapter: as for `unmask.load`.
        method, max_new_tokens, temperature, top_p, top_k, seed, stop: as for `generate`; a line may have its own.
        keep: keys of a line, unknown ones too, that its answer repeats.
        chat_template, add_bos: how a text becomes a prompt, as for `unmask.load`.
        steps: whether an answer tells of each of its tokens the forward that wrote it, the rule and the confidence.
        regex, json_schema: what the answers are to be, one of the two, a schema as its text; a line's own comes first.
    """

    model: str
    method: Method
    dtype: str = "auto"
    weights: str | None = None
    adapter: str | None = None
    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int = 0
    stop: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    chat_template: bool = True
    add_bos: bool = False
    steps: bool = False
    regex: str | None = None
    json_schema: str | None = None

    def __post_init__(self) -> None:
        """Raises ConfigError where an answer could not be told from what is kept of its line, or a number is wrong."""
        taken = {"id", "error", *ANSWER} & set(self.keep)
        if taken:
            raise ConfigError(f"keep {sorted(taken)[0]}: every answer has a field of that name; give the line's another one")
        self._method()

    def check(self, model: Denoiser) -> None:
        """Raises ConfigError or RequestError where no line could be answered by this model.

        Its steps do not come out even, or what the answers are to be is broken.
        """
        asked = _language(asdict(self))
        if asked is not None:
            asked.expression()
        method = completed(model, self._method())
        length = canvas_length(model, method, method.max_new_tokens or default_new_tokens(model))
        recipe(method, model.spec, answer_length=length, head=model.head)

    def _method(self) -> Method:
        """The method with the job's own numbers. Raises ConfigError where one is wrong."""
        given = {name: getattr(self, name) for name in ("max_new_tokens", "temperature", "top_p", "top_k")}
        return self.method.change(**{name: value for name, value in given.items() if value is not None})

    def to_dict(self) -> dict[str, Any]:
        """Plain data that tells one job from another."""
        told = asdict(self) | {"method": self.method.to_dict()}
        # Not in the files of earlier versions.
        usual: dict[str, Any] = {"steps": False, "chat_template": True, "add_bos": False}
        usual |= dict.fromkeys(("weights", "adapter", "regex", "json_schema"))
        return {name: value for name, value in told.items() if name not in usual or value != usual[name]}


# --- the file -----------------------------------------------------------------------------------------------------


class Source(NamedTuple):
    """Where the lines of a file are: line i, counted from 0, lies between `starts[i]` and `starts[i + 1]`."""

    path: Path
    digest: str
    starts: "array[int]"

    def __len__(self) -> int:
        return len(self.starts) - 1


def scan(path: Path, keep: Sequence[str]) -> Source:
    """Read every line once; eight bytes of memory per line.

    Raises ConfigError where the file cannot be read, or where a line has a key that is neither known nor in
    `keep`: a mistake in the command or in the whole dataset, not in a line.
    """
    starts, digest, known = array("q", [0]), hashlib.sha256(), {*KEYS, *keep}
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                digest.update(line)
                starts.append(starts[-1] + len(line))
                for key in _readable(line):
                    if key not in known:
                        raise ConfigError(f"{path}:{number}: {unknown('key', key, known)}; --keep {key} carries it along")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    return Source(path, digest.hexdigest(), starts)


def _readable(line: bytes) -> dict[str, Any]:
    """The line's object; an empty one where the line cannot be read, which its answer will say."""
    try:
        return parse(line)
    except RequestError:
        return {}


def parse(line: bytes) -> dict[str, Any]:
    """The object of a line. Raises RequestError where it is none."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise RequestError(f"not JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise RequestError(f"not JSON: {error}") from None
    if not isinstance(row, dict):
        raise RequestError(f'expected an object such as {{"prompt": "..."}}, got {row!r:.60}')
    return row


# --- a line's request ---------------------------------------------------------------------------------------------


def request(model: Denoiser, row: Mapping[str, Any], job: Job) -> Request:
    """The engine's request for a line. Raises ConfigError or RequestError where it cannot be answered.

    >>> from unmask.methods import load
    >>> from unmask.models.toy import toy
    >>> job = Job(model="toy", method=load("vanilla"), temperature=1.0, max_new_tokens=64)
    >>> made = request(toy(), {"token_ids": [1, 2], "max_new_tokens": 32}, job)
    >>> made.prompt, made.max_new_tokens, made.temperature
    ((1, 2), 32, 1.0)
    """
    asked = [name for name in QUESTIONS if row.get(name) is not None]
    if "canvas" in asked:
        return _canvas(model, row, job, asked)
    if len(asked) != 1:
        raise RequestError(f"a line has one of {', '.join(QUESTIONS)}; this one has {' and '.join(asked) or 'none'}")
    options = {name: getattr(job, name) if row.get(name) is None else row[name] for name in OPTIONS}
    options |= {"method": _method(options["method"]), "language": _language(row) or _language(asdict(job))}
    return make_request(model, _prompt(model, asked[0], row[asked[0]]), **options)


def _language(said: Mapping[str, Any]) -> Language | None:
    """What a line, or the job, says that an answer is to be; None: nothing. Raises RequestError where it says two things."""
    asked = [name for name in LANGUAGES if said.get(name) is not None]
    if len(asked) > 1:
        raise RequestError(f"{' and '.join(asked)}: an answer can be held to one of them")
    return LANGUAGES[asked[0]](said[asked[0]]) if asked else None


def _canvas(model: Denoiser, row: Mapping[str, Any], job: Job, asked: Sequence[str]) -> Request:
    """Of a canvas, by itself or as the answer to `messages` or a `prompt`; the job's number of tokens is not for it."""
    if "token_ids" in asked or len(asked) > 2:
        raise RequestError(f"a canvas answers messages, or a prompt, or stands alone; this line has {' and '.join(asked)}")
    chat = None if row.get("messages") is None else _turns(row["messages"])
    canvas = from_json(row["canvas"], chat=chat or row.get("prompt"), blind=row.get("blind", False))
    options = {name: getattr(job, name) if row.get(name) is None else row[name] for name in OPTIONS}
    options |= {"method": _method(options["method"]), "max_new_tokens": row.get("max_new_tokens")}
    return make_request(model, canvas, **options, language=_language(row) or _language(asdict(job)))


def _prompt(model: Denoiser, kind: str, value: Any) -> str | Sequence[int]:
    """A string, or token ids."""
    if kind == "messages":
        return chat(model, _turns(value))
    if kind == "prompt":
        if not isinstance(value, str):
            raise RequestError(f"prompt must be a string, got {value!r:.60}; token ids go under token_ids")
        return value
    if not isinstance(value, list) or not all(type(token) is int for token in value):
        raise RequestError("token_ids must be a list of whole numbers")
    return value


def _turns(messages: Any) -> list[dict[str, str]]:
    if not isinstance(messages, list) or not all(_is_turn(turn) for turn in messages):
        raise RequestError('messages must be a list of {"role": "...", "content": "..."}')
    return messages


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and set(turn) == {"role", "content"} and all(isinstance(part, str) for part in turn.values())


def _method(value: Any) -> Method:
    """The job's own method, or a line's: a preset by its name, or settings; nothing that a line names is imported."""
    return value if isinstance(value, Method) else from_client(value)


# --- a line's answer ----------------------------------------------------------------------------------------------


def answer(completion: Completion, *, steps: bool = False) -> dict[str, Any]:
    """The fields of `unmask generate --json` that belong to the answer; a canvas's holes, and what is told of each token."""
    holes = {"holes": completion.holes} if completion.holes else {}
    told = {"steps": completion.steps} if steps else {}
    return {name: getattr(completion, name) for name in ANSWER} | holes | told


def refusal(error: Exception) -> dict[str, Any]:
    """The fields in place of an answer."""
    return {"error": " ".join(str(error).split())}


def label(number: int, row: Mapping[str, Any], keep: Sequence[str]) -> dict[str, Any]:
    """The first fields of an answer: the line's own id, or its number counted from 1, and the keys in `keep`."""
    own = row.get("id")
    return {"id": number + 1 if own is None else own} | {key: row[key] for key in keep if key in row}
