"""Answers as documents and as server-sent events. Pure: no engine, no clock but a date.

`delta.content` holds text that can no longer change and nothing else, so clients that know nothing of diffusion see an
ordinary stream. Whoever asks for drafts or a trace gets chunks with an empty delta and a field `diffusion` beside it.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from unmask.engine.request import Completion, FinishReason, Progress, Request, StepRecord
from unmask.methods.method import Method
from unmask.models.denoiser import Denoiser
from unmask.serve.protocol import (
    SERVER,
    AnswerMessage,
    ChatAnswer,
    ChatChoice,
    Diffusion,
    Problem,
    ProblemAnswer,
    TextAnswer,
    TextChoice,
    Usage,
)
from unmask.view.trace import Recorder


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """A request of the API on its way: the engine's requests, one a choice, and what their answers carry."""

    id: str
    chat: bool
    model: str
    requests: Sequence[Request]
    prompt_tokens: int
    created: int = field(default_factory=lambda: int(time.time()))
    began: float = field(default_factory=time.perf_counter)

    def usage(self, done: Sequence[Completion]) -> Usage:
        return Usage.of(self.prompt_tokens, done)

    def answer(self, done: Sequence[Completion]) -> ChatAnswer | TextAnswer:
        """All choices in one document."""
        head: dict[str, Any] = {"id": self.id, "created": self.created, "model": self.model, "usage": self.usage(done)}
        choices = list(enumerate(done))
        if self.chat:
            return ChatAnswer(
                **head,
                choices=[
                    ChatChoice(index=index, message=AnswerMessage(content=one.text), finish_reason=one.finish_reason)
                    for index, one in choices
                ],
            )
        return TextAnswer(
            **head, choices=[TextChoice(index=index, text=one.text, finish_reason=one.finish_reason) for index, one in choices]
        )


class Teller:
    """The events of one stream, in order; every event is a string ready to be sent."""

    def __init__(self, asked: Asked, model: Denoiser, diffusion: Diffusion) -> None:
        self._asked, self._drafts = asked, diffusion.drafts
        self._recorders = [Recorder(model, request.max_new_tokens) for request in asked.requests if diffusion.trace]

    @property
    def watches(self) -> bool:
        """Whether the engine has to say more than text."""
        return self._drafts or bool(self._recorders)

    def begin(self) -> Iterator[str]:
        """A chat's choices say who speaks."""
        if self._asked.chat:
            for index in range(len(self._asked.requests)):
                yield self._chunk(index, {"role": "assistant", "content": ""})

    def tell(self, index: int, item: Progress) -> Iterator[str]:
        """One forward of one choice: what it did, the text that it settled, the guess at what follows, the end."""
        if self._recorders and item.record is not None:
            yield self._chunk(
                index, {}, diffusion=_step(self._recorders[index], item.record, self._asked.requests[index].method)
            )
        if item.text:
            yield self._chunk(index, {"content": item.text})
        if self._drafts and item.draft is not None:
            draft = item.draft
            told = {"start": draft.start, "text": draft.text, "masked": draft.masked, "forward": draft.forward}
            yield self._chunk(index, {}, diffusion={"event": "draft", **told})
        if item.completion is not None:
            yield self._chunk(index, {}, reason=item.completion.finish_reason)

    def end(self, done: Sequence[Completion], *, usage: bool) -> Iterator[str]:
        if usage:
            yield self._event([], usage=self._asked.usage(done).model_dump())
        yield "data: [DONE]\n\n"

    def failure(self, message: str) -> str:
        """The last event of a stream that went wrong."""
        return _line(ProblemAnswer(error=Problem(message=message, type=SERVER)).model_dump())

    def _chunk(
        self, index: int, delta: dict[str, str], *, reason: FinishReason | None = None, diffusion: dict[str, Any] | None = None
    ) -> str:
        said: dict[str, Any] = {"delta": delta} if self._asked.chat else {"text": delta.get("content", "")}
        extra = {} if diffusion is None else {"diffusion": diffusion}
        return self._event([{"index": index, **said, "logprobs": None, "finish_reason": reason}], **extra)

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> str:
        kind = "chat.completion.chunk" if self._asked.chat else "text_completion"
        head = {"id": self._asked.id, "object": kind, "created": self._asked.created, "model": self._asked.model}
        return _line({**head, "choices": choices, **more})


def _line(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


def _step(recorder: Recorder, record: StepRecord, method: Method) -> dict[str, Any]:
    """What one forward did to its block: each place's text, the rule that wrote it (null: a guess), and how surely.

    Where a character goes on that the block before began, that block's last place comes along: its text has moved here.
    """
    recorder(record)
    trace = recorder.trace(settings=method.to_dict())
    step = trace.steps[-1]
    sure: dict[int, float | None] = {commit.place: commit.confidence for commit in step.commits}
    sure |= {draft.place: draft.confidence for draft in step.drafts}
    cells = trace.cells(trace.forwards)[: step.start + len(record.block[0])]
    start = step.start - 1 if step.start and cells[step.start - 1].text == "" else step.start
    return {
        "event": "step",
        "forward": record.forward,
        "refresh": step.refresh,
        "queried": step.queried,
        "start": start,
        "cells": [[cell.text, cell.rule, sure.get(place)] for place, cell in enumerate(cells[start:], start)],
    }
