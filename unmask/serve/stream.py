"""Responses as server-sent events. Pure: no engine, no clock.

`delta.content` holds text that can no longer change and nothing else, so clients that know nothing of diffusion see an
ordinary stream. Drafts and traces are in chunks with an empty delta and a field `diffusion` beside it. A token's `logprobs`
come with the chunk that completes its text, those of a canvas or a call with the choice's end, as `diffusion.tokens` does.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from unmask.engine.request import Completion, Draft, FinishReason, Progress, Request, StepRecord
from unmask.methods.method import Method
from unmask.models.denoiser import Denoiser
from unmask.serve.protocol import SERVER, ErrorDetail, ErrorResponse
from unmask.serve.requests import ApiRequest
from unmask.serve.structure import CallStream
from unmask.serve.told import LogprobStream
from unmask.view.trace import Recorder, told


class EventStream:
    """The events of one response, in order; every event is a string ready to be sent."""

    def __init__(self, request: ApiRequest, model: Denoiser) -> None:
        diffusion = request.body.diffusion
        self._request, self._drafts = request, diffusion.drafts
        self._calls = [CallStream() for _ in request.choices] if request.calls_tools else []
        kept, chat = model.tokenizer, request.is_chat
        self._logprobs = [LogprobStream(kept, chat=chat) for _ in request.choices] if request.tells else []
        self._recorders = [_recorder(model, choice) for choice in request.choices if diffusion.trace]

    @property
    def watch(self) -> bool:
        """Whether the engine's progress must carry drafts and records."""
        return self._drafts or bool(self._recorders)

    def opening(self) -> Iterator[str]:
        """In a chat, the role of each choice's message."""
        if self._request.is_chat:
            for index in range(len(self._request.choices)):
                yield self._chunk(index, {"role": "assistant", "content": ""})

    def events_for(self, index: int, progress: Progress) -> Iterator[str]:
        """One forward of choice `index`: its step, the text that became final, the draft after it, the end."""
        if self._recorders and progress.record is not None:
            method = self._request.choices[index].method
            yield self._chunk(index, {}, diffusion=_step(self._recorders[index], progress.record, method))
        text = self._calls[index].text(progress.text) if self._calls else progress.text
        if text:
            sure = self._logprobs[index].fresh(progress.told) if self._logprobs and progress.told else None
            yield self._chunk(index, {"content": text}, logprobs=sure)
        if self._drafts and progress.draft is not None:
            yield self._chunk(index, {}, diffusion=_draft(progress.draft))
        if progress.completion is not None:
            calls = list(self._calls[index].deltas()) if self._calls else []
            for delta in calls:
                yield self._chunk(index, delta)
            if self._request.body.diffusion.tokens:
                tokens = told(progress.completion, self._request.tokenizer)
                yield self._chunk(index, {}, diffusion={"event": "tokens", "tokens": tokens})
            reason: FinishReason | Literal["tool_calls"] = "tool_calls" if calls else progress.completion.finish_reason
            rest = self._logprobs[index].rest(progress.completion) if self._logprobs else None
            yield self._chunk(index, {}, reason=reason, logprobs=rest)

    def closing(self, completions: Sequence[Completion]) -> Iterator[str]:
        """The usage, where the request asks for it, and the end."""
        options = self._request.body.stream_options
        if options is not None and options.include_usage:
            yield self._event([], usage=self._request.usage(completions).model_dump())
        yield "data: [DONE]\n\n"

    def failure(self, message: str) -> str:
        """The last event of a stream that failed."""
        return _line(ErrorResponse(error=ErrorDetail(message=message, type=SERVER)).model_dump())

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        reason: FinishReason | Literal["tool_calls"] | None = None,
        diffusion: dict[str, Any] | None = None,
        logprobs: dict[str, Any] | None = None,
    ) -> str:
        content: dict[str, Any] = {"delta": delta} if self._request.is_chat else {"text": delta.get("content", "")}
        extra = {} if diffusion is None else {"diffusion": diffusion}
        return self._event([{"index": index, **content, "logprobs": logprobs, "finish_reason": reason}], **extra)

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> str:
        request = self._request
        kind = "chat.completion.chunk" if request.is_chat else "text_completion"
        head = {"id": request.id, "object": kind, "created": request.created, "model": request.model}
        return _line({**head, "choices": choices, **more})


def _line(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


def _draft(draft: Draft) -> dict[str, Any]:
    return {
        "event": "draft",
        "start": draft.start,
        "text": draft.text,
        "masked": draft.masked,
        "forward": draft.forward,
    }


def _recorder(model: Denoiser, choice: Request) -> Recorder:
    if choice.layout is None:
        return Recorder(model, choice.max_new_tokens)
    return Recorder(model, choice.limit or 0, fixed=choice.fixed)


def _step(recorder: Recorder, record: StepRecord, method: Method) -> dict[str, Any]:
    """What one forward did to its block: the text, the rule (null: a draft) and the confidence of each position.

    `rewritten` are the positions whose token it replaced, and the text that stood there before. A position without text
    and rule is masked. Of a block that begins in the prompt only the answer's positions are there.
    `refused` are the positions at which the grammar did not allow what the model would rather have written, and that text.
    Where a character continues over the border of two blocks, the last position of the block before is included:
    its text has moved into this block.
    """
    recorder(record)
    trace = recorder.trace(settings=method.to_dict())
    step = trace.steps[-1]
    confidence: dict[int, float | None] = {commit.place: commit.confidence for commit in step.commits}
    confidence |= {draft.place: draft.confidence for draft in step.drafts}
    cells = trace.cells(trace.forwards)[: record.start[0] + len(record.block[0]) - record.prompt[0]]
    before = [(commit.place, cells[commit.place].before) for commit in step.commits]
    start = step.start - 1 if step.start and cells[step.start - 1].text == "" else step.start
    shown = enumerate(cells[start:], start)
    return {
        "event": "step",
        "forward": record.forward,
        "refresh": step.refresh,
        "queried": step.queried,
        "start": start,
        "cells": [[cell.text, cell.rule, confidence.get(place)] for place, cell in shown],
        "rewritten": [[place, text] for place, text in before if text is not None],
        "refused": [[refused.place, refused.text] for refused in step.refused],
    }
