"""From the body of an HTTP request to the engine's requests. What cannot be served raises before anything runs."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from unmask.engine.generate import make_request
from unmask.engine.holes import CanvasPrompt, canvas, from_json, hole
from unmask.engine.own import completed, default_new_tokens
from unmask.engine.prompt import chat, plain
from unmask.engine.request import UNNAMED, Completion, Owner, Request
from unmask.errors import ConfigError, RequestError
from unmask.grammar.language import Language
from unmask.methods import from_client, load
from unmask.methods.method import Method
from unmask.methods.options import layered
from unmask.models.denoiser import Denoiser
from unmask.serve.log import LogEntry
from unmask.serve.options import Options
from unmask.serve.protocol import Body, ChatRequest, CompletionRequest, Diffusion, Usage
from unmask.serve.structure import calls_tools
from unmask.serve.told import chat_logprobs, completion_logprobs


@dataclass(frozen=True, kw_only=True, eq=False)
class ApiRequest:
    """An accepted request of the API: the engine's requests, one per choice, and what their response carries.

    Attributes:
        body: as it was sent.
        model: the model's name in the API.
        tokenizer: the model's.
        choices: the engine's requests.
        prompt_tokens: of all prompts, each counted once whatever `n` is.
        log: the request's entry in the log, to be filled in.
        created: Unix time in seconds.
        began: where the time limit begins (`time.perf_counter`).
    """

    body: Body
    model: str
    choices: Sequence[Request]
    prompt_tokens: int
    log: LogEntry
    tokenizer: Any = None
    created: int = field(default_factory=lambda: int(time.time()))
    began: float = field(default_factory=time.perf_counter)

    @property
    def is_chat(self) -> bool:
        return isinstance(self.body, ChatRequest)

    @property
    def tells(self) -> bool:
        """Whether the probabilities of tokens are asked for."""
        return asks_logprobs(self.body)

    def logprobs(self, completion: Completion) -> dict[str, Any] | None:
        """The probabilities of a completion's tokens, where they are asked for."""
        if not self.tells:
            return None
        return (chat_logprobs if self.is_chat else completion_logprobs)(completion, self.tokenizer)

    @property
    def calls_tools(self) -> bool:
        """Whether an answer may be the call of a tool."""
        return calls_tools(self.body)

    @property
    def id(self) -> str:
        return f"{'chatcmpl' if self.is_chat else 'cmpl'}-{self.log.request_id}"

    def usage(self, completions: Sequence[Completion]) -> Usage:
        return Usage.of(self.prompt_tokens, completions, n=self.body.n or 1)


def asks_logprobs(body: Body) -> bool:
    """Whether the probabilities of tokens are asked for."""
    if isinstance(body, ChatRequest):
        return body.logprobs
    return isinstance(body, CompletionRequest) and body.logprobs is not None


class TooMuch(RequestError):
    """More than this server takes of one request; `param` is the field that asks for it."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


def choose(asked: Diffusion, options: Options) -> Method:
    """The method of a request. Raises ConfigError that names an unknown method or option.

    Nothing that the client names is imported; the operator's own method may come from outside the package.

    >>> choose(Diffusion(cache="prefix"), Options(settings={"threshold": 0.8})).commit
    Threshold(threshold=0.8)
    """
    if asked.method is None:
        return load(options.preset, **layered(options.settings, asked.settings))
    if isinstance(asked.method, dict) and asked.settings:
        raise ConfigError(f"diffusion.{next(iter(asked.settings))}: put it into diffusion.method, which is a mapping")
    return from_client(asked.method, **asked.settings)


def engine_requests(
    body: Body,
    model: Denoiser,
    options: Options,
    *,
    language: Language | None = None,
    owner: Owner = UNNAMED,
    cache_scope: str = "",
) -> list[Request]:
    """One request per choice: every prompt `n` times, choice i of a prompt with the seed `seed + i`.

    `language` is what the body says that its answers are to be.
    A body without a seed gets a random one.
    Raises ConfigError or RequestError.
    """
    n, prompts = body.n or 1, len(body.prompts) if isinstance(body, CompletionRequest) else 1
    most = min(options.choices, options.queue)
    if n * prompts > most:
        each = f" ({n} of each of {prompts} prompts)" if prompts > 1 else ""
        raise TooMuch(f"{n * prompts} choices at once{each}: this server takes up to {most}", "n")
    method = completed(model, choose(body.diffusion, options))
    if method.draft is not None and method.draft.steps > options.draft_steps:
        raise TooMuch(f"draft_steps {method.draft.steps}: this server takes up to {options.draft_steps}", "diffusion")
    seed = secrets.randbits(62) if body.seed is None else body.seed
    wanted = body.max_tokens or method.max_new_tokens or options.max_new_tokens or default_new_tokens(model)
    made = [
        make_request(
            model,
            prompt,
            method=method,
            max_new_tokens=None if isinstance(prompt, CanvasPrompt) else wanted,
            temperature=body.temperature,
            top_p=body.top_p,
            top_k=max(0, body.top_k or 0) or None,
            seed=seed,
            stop=body.stops,
            language=language,
        )
        for prompt in _prompts(body, model, wanted)
    ]
    if isinstance(body, CompletionRequest) and body.suffix:  # the answer is the hole alone
        made = [replace(request, layout=request.layout and request.layout.hidden) for request in made]
    if isinstance(body, ChatRequest | CompletionRequest):
        most, tells = min(body.alternatives, model.spec.vocab_size), bool(body.stream) and asks_logprobs(body)
        tells = tells and not calls_tools(body)  # a call comes whole
        made = [replace(request, alternatives=most, tells=tells and request.layout is None) for request in made]
    return [replace(request, seed=seed + place, owner=owner, cache_scope=cache_scope) for request in made for place in range(n)]


def _prompts(body: Body, model: Denoiser, wanted: int) -> Sequence[Sequence[int] | CanvasPrompt]:
    asked = body.diffusion
    if isinstance(body, ChatRequest):
        turns = [{"role": message.role.replace("developer", "system"), "content": message.text} for message in body.messages]
        if asked.canvas is not None:
            if body.max_tokens is not None:
                raise ConfigError("a canvas says by its holes how many tokens are decoded: leave max_tokens out")
            return [from_json(asked.canvas, chat=turns, blind=asked.blind)]
        tools = [tool.model_dump(exclude_none=True) for tool in body.tools or ()] if calls_tools(body) else None
        return [chat(model, turns, tools=tools)]
    assert isinstance(body, CompletionRequest)
    if asked.canvas is not None:
        raise ConfigError("diffusion.canvas is the answer of a chat: here give prompt and suffix")
    if body.suffix:
        between = hole(wanted, end="early")
        return [canvas(prompt, between, body.suffix, blind=asked.blind) for prompt in body.prompts]
    return [plain(model, prompt) if isinstance(prompt, str) else prompt for prompt in body.prompts]
