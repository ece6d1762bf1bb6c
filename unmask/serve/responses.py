"""Responses as whole documents; stream.py has them as events."""

from collections.abc import Sequence
from typing import Any

from unmask.engine.request import Completion
from unmask.serve.protocol import (
    ChatChoice,
    ChatResponse,
    CompletionChoice,
    CompletionResponse,
    Decoded,
    DecodedTokens,
    ResponseMessage,
)
from unmask.serve.requests import ApiRequest
from unmask.serve.structure import called
from unmask.view.trace import told


def response(request: ApiRequest, completions: Sequence[Completion]) -> ChatResponse | CompletionResponse:
    """The document of a request, given the completions of all its choices in order."""
    head: dict[str, Any] = {"id": request.id, "created": request.created, "model": request.model}
    head["usage"] = request.usage(completions)
    head["diffusion"] = Decoded.of(completions[0].method)
    if request.body.diffusion.tokens:
        tokens = [told(completion, request.tokenizer) for completion in completions]
        head["diffusion"] = DecodedTokens(**head["diffusion"].model_dump(), tokens=tokens)
    if request.is_chat:
        return ChatResponse(**head, choices=[_chat_choice(request, *one) for one in enumerate(completions)])
    return CompletionResponse(**head, choices=[_completion_choice(request, *one) for one in enumerate(completions)])


def _chat_choice(request: ApiRequest, index: int, completion: Completion) -> ChatChoice:
    call = called(completion.text) if request.calls_tools else None
    if call is not None:
        message = ResponseMessage(content=None, tool_calls=[call])
        return ChatChoice(index=index, message=message, finish_reason="tool_calls")
    message = ResponseMessage(content=completion.text)
    logprobs = request.logprobs(completion)
    return ChatChoice(index=index, message=message, finish_reason=completion.finish_reason, logprobs=logprobs)


def _completion_choice(request: ApiRequest, index: int, completion: Completion) -> CompletionChoice:
    logprobs = request.logprobs(completion)
    return CompletionChoice(index=index, text=completion.text, finish_reason=completion.finish_reason, logprobs=logprobs)
