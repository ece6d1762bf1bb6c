"""The schemas of requests and responses: OpenAI's, and what diffusion adds. pydantic is used here and in `deploy`.

Every field of OpenAI's is supported or refused by its name; a field that says nothing is accepted, because clients send such
fields by default: null, or the value that changes nothing (`frequency_penalty: 0`). Additions are `diffusion` in a
request, `usage.forwards`, `usage.tokens_per_forward` and `diffusion` (what decoded it) in a response.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
    model_validator,
)

from unmask.engine.request import Completion, FinishReason
from unmask.methods.method import Method
from unmask.serve.formats import JsonFormat, SchemaFormat, Strict, TextFormat, Tool, ToolCall, ToolChoice
from unmask.serve.messages import MANY, ONE, Message, one_or_many, said

# --- requests ----------------------------------------------------------------------------------------------------

_IDS, _LISTS_OF_IDS, _WORD = ":ids", ":lists of ids", ":word"


def _word_or_one(value: Any) -> str:
    return _WORD if isinstance(value, str) else ONE


def _kind_of_prompt(value: Any) -> str:
    if not isinstance(value, list):
        return ONE
    first = value[0] if value else None
    return _LISTS_OF_IDS if isinstance(first, list) else _IDS if isinstance(first, int) else MANY


class StreamOptions(Strict):
    include_usage: bool = False

    @model_validator(mode="before")
    @classmethod
    def _drop_what_says_nothing(cls, data: Any) -> Any:
        return said(data, ())


class Diffusion(BaseModel):
    """How to decode this request alone.

    `method` is a preset's name or a mapping of settings; every further field is an option of the preset
    (`{"method": "r2-dllm", "threshold": 0.8}`), which `unmask.method` checks. `drafts` adds the guesses of every
    forward to a stream, `trace` what every forward did. `regex` or `choice` says what the answer is to be; `depth` is how
    deep JSON may nest where its schema has no bound. `canvas` makes the answer of a chat fixed text with holes:
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
    regex: str | None = None
    choice: list[str] | None = None
    depth: int | None = None

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__)


# Fields of OpenAI's and of other servers that are not supported everywhere, each with the value that changes nothing.
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
    "prediction": None,
    "reasoning_effort": "none",
    "top_logprobs": 0,
    "verbosity": "medium",
    "web_search_options": None,
    # of vLLM, SGLang, llama.cpp and Ollama
    "allowed_token_ids": [],
    "bad_words": [],
    "chat_template": None,
    "chat_template_kwargs": {},
    "early_stopping": False,
    "ignore_eos": False,
    "include_stop_str_in_output": False,
    "length_penalty": 1,
    "min_p": 0,
    "min_tokens": 0,
    "mirostat": 0,
    "prompt_logprobs": None,
    "repeat_penalty": 1,
    "repetition_penalty": 1,
    "skip_special_tokens": True,
    "stop_token_ids": [],
    "tfs_z": 1,
    "typical_p": 1,
    "use_beam_search": False,
}
# Fields that change nothing about a response.
_IGNORED = ("user", "metadata", "safety_identifier", "prompt_cache_key", "service_tier", "parallel_tool_calls")


# Whole numbers, which some clients write as 64.0.
_WHOLE = ("max_tokens", "max_completion_tokens", "n", "seed", "top_k")


def _changes_nothing(name: str, value: Any, tools: Any) -> bool:
    if value is None or name in _IGNORED:
        return True
    if name == "tool_choice":
        return not tools and value in ("auto", "none")
    neutral = UNSUPPORTED.get(name)
    # False is not the number 0: OpenAI's older endpoint takes `logprobs: 0` for the probability of each token.
    return name in UNSUPPORTED and value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


def _as_whole(name: str, value: Any) -> Any:
    return int(value) if name in _WHOLE and isinstance(value, float) and value.is_integer() else value


_Stop = Annotated[str, Field(min_length=1, max_length=1000)]


class Body(Strict):
    """The fields of both endpoints. By default the server's method decides, and decoding is greedy."""

    model: str | None = None
    max_tokens: int | None = Field(None, ge=1, le=2**20)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=2**31 - 1)  # -1 and 0: of all tokens
    n: int | None = Field(None, ge=1, le=128)
    seed: int | None = Field(None, ge=0, lt=2**63 - 128)
    stop: (
        Annotated[
            Annotated[_Stop, Tag(ONE)] | Annotated[list[_Stop], Field(max_length=16), Tag(MANY)],
            Discriminator(one_or_many),
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
        tools = data.get("tools")
        return {name: _as_whole(name, value) for name, value in data.items() if not _changes_nothing(name, value, tools)}

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class ChatRequest(Body):
    """`POST /v1/chat/completions`; `logprobs` are of the forward that committed each token."""

    messages: list[Message] = Field(min_length=1, fail_fast=True)
    response_format: Annotated[JsonFormat | SchemaFormat | TextFormat, Discriminator("type")] | None = None
    tools: list[Tool] | None = Field(None, max_length=128)
    tool_choice: (
        Annotated[
            Annotated[Literal["auto", "none", "required"], Tag(_WORD)] | Annotated[ToolChoice, Tag(ONE)],
            Discriminator(_word_or_one),
        ]
        | None
    ) = None
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
        Annotated[str, Tag(ONE)]
        | Annotated[list[str], Field(min_length=1, max_length=128, fail_fast=True), Tag(MANY)]
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
        return given if _kind_of_prompt(given) in (MANY, _LISTS_OF_IDS) else [given]


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
    content: str | None
    refusal: None = None
    tool_calls: list[ToolCall] | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Clients tell an answer without calls from one with calls by whether the field is there."""
        fields: dict[str, Any] = dump(self)
        if self.tool_calls is None:
            del fields["tool_calls"]
        return fields


class ChatChoice(BaseModel):
    index: int
    message: ResponseMessage
    finish_reason: FinishReason | Literal["tool_calls"]
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
    """`ready`: the server takes requests and answers them.

    `failing`: the last forwards failed; `stuck`: one does not end; `failed`: the engine has died.
    """

    status: Literal["starting", "ready", "busy", "closing", "failing", "stuck", "failed"]
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
