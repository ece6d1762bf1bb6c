"""The schemas of requests and responses: OpenAI's, and what diffusion adds. pydantic is used here and in `deploy`.

Every field of OpenAI's is supported or refused by its name; a field at the value that changes nothing
(`frequency_penalty: 0`) is accepted, because clients send such fields by default. Additions are `diffusion` in a
request, `usage.forwards`, `usage.tokens_per_forward` and `diffusion` (what decoded it) in a response.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, JsonValue, Tag, model_validator

from unmask.engine.request import Completion, FinishReason
from unmask.methods.method import Method

# --- requests ----------------------------------------------------------------------------------------------------

# The tag of an alternative is part of an error's path; its colon tells `errors.where` that it is no field's name.
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
    """A turn of the chat; the fields that must be null are those of a response that is sent back as a turn."""

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
    (`{"method": "r2-dllm", "threshold": 0.8}`), which `unmask.method` checks. `drafts` adds the guesses of every
    forward to a stream, `trace` what every forward did. `canvas` makes the answer of a chat fixed text with holes:
    strings and `{"hole": 32}`, with `"end": "early"` for one that may end before its last token. `blind` allows text behind
    a hole where the model cannot see it. `tokens` tells of each token the forward that wrote it, the rule and the confidence.
    """

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, JsonValue] = Field(init=False)

    method: str | dict[str, JsonValue] | None = None
    drafts: bool = False
    trace: bool = False
    canvas: list[JsonValue] | None = None
    blind: bool = False
    tokens: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__)


# Fields that are not supported everywhere, each with the value that changes nothing, at which it is accepted.
UNSUPPORTED: Mapping[str, JsonValue] = {
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
# Fields that change nothing about a response.
_IGNORED = ("user", "metadata", "safety_identifier", "prompt_cache_key", "service_tier", "parallel_tool_calls")


def _changes_nothing(value: Any, neutral: JsonValue) -> bool:
    # False is not the number 0: OpenAI's older endpoint takes `logprobs: 0` for the probability of each token.
    return value is None or (value == neutral and isinstance(value, bool) == isinstance(neutral, bool))


class Body(_Strict):
    """The fields of both endpoints. By default the server's method decides, and decoding is greedy."""

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
    def _drop_what_changes_nothing(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        try:
            json.dumps(data, ensure_ascii=False).encode()
        except UnicodeEncodeError:  # JSON can write it (\ud800), but neither a tokenizer nor an answer can
            raise ValueError("a string holds half of a surrogate pair, which is not Unicode") from None
        return {
            name: value
            for name, value in data.items()
            if name not in _IGNORED and not (name in UNSUPPORTED and _changes_nothing(value, UNSUPPORTED[name]))
        }

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class ChatRequest(Body):
    """`POST /v1/chat/completions`; `logprobs` are of the forward that committed each token."""

    messages: list[Message] = Field(min_length=1, fail_fast=True)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**20)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        self.max_tokens = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        return self

    @model_validator(mode="after")
    def _probabilities(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self

    @property
    def alternatives(self) -> int:
        """Most probable tokens that are told beside each one."""
        return self.top_logprobs or 0


# A list's check ends at its first mistake: a megabyte of mistakes would take seconds to list, and one is reported.
_Ids = Annotated[list[int], Field(fail_fast=True)]


class CompletionRequest(Body):
    """`POST /v1/completions`: the prompt goes to the model as it is, no chat template around it.

    With a suffix the model fills the hole between both, and sees both.
    """

    prompt: Annotated[
        Annotated[str, Tag(_ONE)]
        | Annotated[list[str], Field(min_length=1, max_length=128, fail_fast=True), Tag(_MANY)]
        | Annotated[_Ids, Tag(_IDS)]
        | Annotated[list[_Ids], Field(min_length=1, max_length=128, fail_fast=True), Tag(_LISTS_OF_IDS)],
        Discriminator(_kind_of_prompt),
    ]
    suffix: str | None = None
    logprobs: int | None = Field(None, ge=0, le=5)

    @property
    def alternatives(self) -> int:
        """Most probable tokens that are told beside each one."""
        return self.logprobs or 0

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        given: Any = self.prompt
        return given if _kind_of_prompt(given) in (_MANY, _LISTS_OF_IDS) else [given]


# --- responses ---------------------------------------------------------------------------------------------------


class PromptTokensDetails(BaseModel):
    """`cached_tokens`: of the prompts, that a prompt's first choice did not compute because another request had."""

    cached_tokens: int = 0


class Usage(BaseModel):
    """Tokens are counted to the first EOS or stop string; `forwards` over all choices, refreshes included."""

    prompt_tokens: int
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()
    completion_tokens: int
    total_tokens: int
    forwards: int
    tokens_per_forward: float

    @classmethod
    def of(cls, prompt_tokens: int, completions: Sequence[Completion], *, n: int) -> Self:
        """Of all choices, `n` per prompt; a prompt's tokens count once."""
        cached = sum(completion.cached_tokens for completion in completions[::n])
        tokens = sum(completion.tokens for completion in completions)
        forwards = sum(completion.forwards for completion in completions)
        return cls(
            prompt_tokens=prompt_tokens,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=cached),
            completion_tokens=tokens,
            total_tokens=prompt_tokens + tokens,
            forwards=forwards,
            tokens_per_forward=tokens / forwards if forwards else 0.0,
        )


class ResponseMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    index: int
    message: ResponseMessage
    finish_reason: FinishReason
    logprobs: dict[str, Any] | None = None


class Decoded(BaseModel):
    """How the choices were decoded: the method's name and its settings, the model's own values filled in."""

    method: str
    settings: dict[str, JsonValue]

    @classmethod
    def of(cls, method: Method) -> Self:
        return cls(method=method.name, settings=method.to_dict())


class DecodedTokens(Decoded):
    """The same with what is told of each choice's tokens."""

    tokens: list[list[dict[str, JsonValue]]]


class ChatResponse(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    diffusion: DecodedTokens | Decoded


class CompletionChoice(BaseModel):
    index: int
    text: str
    finish_reason: FinishReason
    logprobs: dict[str, Any] | None = None


class CompletionResponse(BaseModel):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    diffusion: DecodedTokens | Decoded


class ModelInfo(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["unmask"] = "unmask"


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelInfo]


class Health(BaseModel):
    """`ready`: the server takes requests. A process that responds at all is alive."""

    status: Literal["starting", "ready", "busy", "closing", "failed"]
    ready: bool
    waiting: int
    running: int


BAD_REQUEST, SERVER = "invalid_request_error", "server_error"  # types of errors
CLIENT_LEFT = 499  # nginx's status for it, in logs and metrics; it is never sent


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(BaseModel):
    """The body of every error."""

    error: ErrorDetail
