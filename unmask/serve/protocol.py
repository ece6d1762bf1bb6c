"""What travels over HTTP: OpenAI's schemas, and the little that diffusion adds. pydantic lives here (`deploy` reads with it).

Every field of OpenAI's is kept, or refused by its name; one that says nothing (`frequency_penalty: 0`) is let through,
because clients send it unasked. What is ours stands in `diffusion`, `usage.forwards` and `usage.tokens_per_forward`.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, JsonValue, Tag, model_validator

from unmask.engine.request import Completion, FinishReason

# --- requests ---------------------------------------------------------------------------------------------------------

# The tag of an alternative stands in an error's path; the colon tells it from a field's name (`where` leaves it out).
_ONE, _MANY, _IDS, _LISTS_OF_IDS = ":one", ":many", ":ids", ":lists of ids"


def _one_or_many(value: Any) -> str:
    return _MANY if isinstance(value, list) else _ONE


def _kind_of_prompt(value: Any) -> str:
    if not isinstance(value, list):
        return _ONE
    first = value[0] if value else None
    return _LISTS_OF_IDS if isinstance(first, list) else _IDS if isinstance(first, int) else _MANY


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class TextPart(_Strict):
    type: Literal["text"]
    text: str


class Message(_Strict):
    """A turn of the chat; the four fields that must be null are those of an answer that a client hands back."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        Annotated[str, Tag(_ONE)] | Annotated[list[TextPart], Field(fail_fast=True), Tag(_MANY)], Discriminator(_one_or_many)
    ]
    refusal: None = None
    annotations: None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(_Strict):
    include_usage: bool = False


class Diffusion(BaseModel):
    """How to decode this request alone.

    `method` is a preset's name or a mapping of settings; every further field is an option of the preset
    (`{"method": "r2-dllm", "threshold": 0.8}`), which `unmask.method` checks. `drafts` adds guesses to a stream, `trace`
    what every forward did.
    """

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, JsonValue] = Field(init=False)

    method: str | dict[str, JsonValue] | None = None
    drafts: bool = False
    trace: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__)


# What a client may send as long as it asks for nothing: the value that does.
_NOTHING: Mapping[str, JsonValue] = {
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logit_bias": {},
    "logprobs": False,
    "response_format": {"type": "text"},
    "tools": [],
    "tool_choice": "none",
    "functions": [],
    "function_call": "none",
    "modalities": ["text"],
    "store": False,
    "echo": False,
    "best_of": 1,
    "suffix": "",
}
# What changes nothing about an answer.
_IGNORED = ("user", "metadata", "safety_identifier", "prompt_cache_key", "service_tier", "parallel_tool_calls")


def _is_nothing(value: Any, nothing: JsonValue) -> bool:
    # False is not the number 0: OpenAI's older endpoint takes `logprobs: 0` for the probability of each token.
    return value is None or (value == nothing and isinstance(value, bool) == isinstance(nothing, bool))


class Body(_Strict):
    """What both endpoints take. Unless the request says otherwise the server's method decides, and decodes greedily."""

    model: str | None = None
    max_tokens: int | None = Field(None, ge=1, le=2**20)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    n: int | None = Field(None, ge=1, le=128)
    seed: int | None = Field(None, ge=0, lt=2**63 - 128)
    stop: (
        Annotated[
            Annotated[Annotated[str, Field(min_length=1)], Tag(_ONE)]
            | Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=16), Tag(_MANY)],
            Discriminator(_one_or_many),
        ]
        | None
    ) = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    diffusion: Diffusion = Field(default_factory=Diffusion)

    @model_validator(mode="before")
    @classmethod
    def _leave_out_what_says_nothing(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        try:
            json.dumps(data, ensure_ascii=False).encode()
        except UnicodeEncodeError:  # JSON can write it (\ud800), but neither a tokenizer nor an answer can
            raise ValueError("a string holds half of a surrogate pair, which is not Unicode") from None
        return {
            name: value
            for name, value in data.items()
            if name not in _IGNORED and not (name in _NOTHING and _is_nothing(value, _NOTHING[name]))
        }

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class ChatRequest(Body):
    """`POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1, fail_fast=True)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**20)

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        self.max_tokens = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        return self


# Lists end their check at the first mistake: a megabyte of mistakes would take seconds to tell, and one is told.
_Ids = Annotated[list[int], Field(fail_fast=True)]


class CompletionRequest(Body):
    """`POST /v1/completions`: the prompt goes to the model as it is, no chat template around it."""

    prompt: Annotated[
        Annotated[str, Tag(_ONE)]
        | Annotated[list[str], Field(min_length=1, max_length=128, fail_fast=True), Tag(_MANY)]
        | Annotated[_Ids, Tag(_IDS)]
        | Annotated[list[_Ids], Field(min_length=1, max_length=128, fail_fast=True), Tag(_LISTS_OF_IDS)],
        Discriminator(_kind_of_prompt),
    ]

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        given: Any = self.prompt
        return given if _kind_of_prompt(given) in (_MANY, _LISTS_OF_IDS) else [given]


def complaint(errors: Sequence[Mapping[str, Any]], known: Sequence[str]) -> tuple[str, str]:
    """One line about a body that is not of its schema, and the field that it is about. `known` are the body's own fields.

    >>> complaint([{"type": "extra_forbidden", "loc": ("body", "temprature"), "msg": ""}], ["temperature"])
    ("temprature is not supported: did you mean 'temperature'?", 'temprature')
    >>> complaint([{"type": "extra_forbidden", "loc": ("body", "logprobs"), "msg": ""}], ["temperature"])
    ('logprobs is not supported: leave it out', 'logprobs')
    """
    error = errors[0]
    field = where(error["loc"])
    if error["type"] == "json_invalid":
        return "the body is not valid JSON", "body"
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(field, known, n=1) if field not in _NOTHING else []
        return f"{field} is not supported: {f'did you mean {close[0]!r}?' if close else 'leave it out'}", field
    said = error["msg"].removeprefix("Value error, ")
    return f"{field or 'the body'}: {said[0].lower()}{said[1:]}", field or "body"


def where(path: Sequence[str | int]) -> str:
    """An error's path as one would write it.

    >>> where(("body", "messages", 0, "content", ":many", 1, "type"))
    'messages[0].content[1].type'
    """
    steps = [step for step in path if isinstance(step, int) or not step.startswith(":")]
    steps = steps[1:] if steps[:1] == ["body"] and len(steps) > 1 else steps
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")


# --- answers ----------------------------------------------------------------------------------------------------------


class Usage(BaseModel):
    """Tokens are counted to the first EOS or stop string; `forwards` over all choices, refreshes included."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    forwards: int
    tokens_per_forward: float

    @classmethod
    def of(cls, prompt_tokens: int, completions: Sequence[Completion]) -> Self:
        tokens = sum(completion.tokens for completion in completions)
        forwards = sum(completion.forwards for completion in completions)
        return cls(
            prompt_tokens=prompt_tokens,
            completion_tokens=tokens,
            total_tokens=prompt_tokens + tokens,
            forwards=forwards,
            tokens_per_forward=tokens / forwards if forwards else 0.0,
        )


class AnswerMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    index: int
    message: AnswerMessage
    finish_reason: FinishReason
    logprobs: None = None


class ChatAnswer(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class TextChoice(BaseModel):
    index: int
    text: str
    finish_reason: FinishReason
    logprobs: None = None


class TextAnswer(BaseModel):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["unmask"] = "unmask"


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(BaseModel):
    """`ready`: takes requests. A process that answers at all is alive."""

    status: Literal["starting", "ready", "busy", "closing", "failed"]
    ready: bool
    waiting: int
    running: int


BAD_REQUEST, SERVER = "invalid_request_error", "server_error"  # types of problems
CLIENT_LEFT = 499  # nginx's number for it; a status that nobody receives


class Problem(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ProblemAnswer(BaseModel):
    """How every error is told."""

    error: Problem
