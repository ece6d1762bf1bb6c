"""What the engine must make of a request: the reference loop's answer, and of its forwards those before a stop or a limit."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import pytest

import unmask
from unmask.context.policy import windows
from unmask.engine import simple
from unmask.engine.engine import Engine
from unmask.engine.request import Completion, Request
from unmask.engine.text import read
from unmask.methods.recipe import Recipe, recipe
from unmask.models.denoiser import Denoiser


def forwards_of(model: Denoiser, request: Request) -> simple.Decoded:
    """The reference loop's decode of a request, which knows no stop strings and no limit."""
    return simple.decode(
        model,
        request.prompt,
        request.method,
        max_new_tokens=request.max_new_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        seed=request.seed,
        fixed=request.fixed,
        constraint=request.constraint,
        gaps=() if request.layout is None else request.layout.gaps,
    )


def alone(model: Denoiser, request: Request, forwards: list[simple.Forward] | None = None) -> Completion:
    """The completion of a request that is decoded alone, `seconds` being 0; `forwards` gets those that it took."""
    decoded = forwards_of(model, request)
    made = recipe(
        request.method,
        model.spec,
        answer_length=request.max_new_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        head=model.head,
        holes=request.layout is not None,
        constrained=request.constraint is not None,
    )
    if request.layout is not None:
        return _canvas(model, request, decoded, made)
    limit = request.limit or request.max_new_tokens
    kept, ids = _until_enough(model, request, decoded, made)
    answer = read(ids[:limit], model.tokenizer, made.ends, request.stop, request.fixed)
    token_ids = ids[:limit]
    if made.ending == "first":
        end = answer.tokens + (answer.tokens < len(token_ids) and token_ids[answer.tokens] in made.ends)
        token_ids = token_ids[:end]
    if forwards is not None:
        forwards += kept
    commits = Counter(rule for forward in kept for rule in forward.rule)
    return Completion(
        text=answer.text,
        token_ids=token_ids + [made.filler] * (limit - len(token_ids)),
        tokens=answer.tokens,
        forwards=len(kept),
        query_tokens=sum(len(forward.query_tokens) for forward in kept),
        finish_reason="stop" if answer.stopped or request.constraint is not None else "length",
        seconds=0.0,
        method=request.method,
        commits={rule.name: commits[rule.name] for rule in made.rules},
    )


def _canvas(model: Denoiser, request: Request, decoded: simple.Decoded, made: Recipe) -> Completion:
    """Of a canvas, which no end of text and no limit ends."""
    assert request.layout is not None
    ids = decoded.token_ids[: request.limit]
    answer = request.layout.read(request.prompt, ids, model.tokenizer, made.ends)
    commits = Counter(rule for forward in decoded.forwards for rule in forward.rule)
    return Completion(
        text=answer.text,
        token_ids=ids,
        tokens=answer.tokens,
        forwards=len(decoded.forwards),
        query_tokens=sum(len(forward.query_tokens) for forward in decoded.forwards),
        finish_reason="stop" if answer.stopped else "length",
        seconds=0.0,
        method=request.method,
        commits={rule.name: commits[rule.name] for rule in made.rules},
        holes=list(answer.holes),
    )


def _until_enough(
    model: Denoiser, request: Request, decoded: simple.Decoded, made: Recipe
) -> tuple[list[simple.Forward], list[int]]:
    """The forwards up to the one after which a stop string or the limit ends the answer, and the answer then.

    Where rules edit, what ends it must stand in a finished block.
    """
    limit, mask_id, begin = request.limit or request.max_new_tokens, model.spec.mask_id, len(request.prompt)
    blocks = windows(begin, request.max_new_tokens, made.length, block=made.block)
    start = begin
    if made.ending == "first" and (request.stop or limit < request.max_new_tokens):
        answer = [request.fixed.get(offset, mask_id) for offset in range(request.max_new_tokens)]
        for count, forward in enumerate(decoded.forwards, start=1):
            for position, token in zip(forward.committed, forward.tokens, strict=True):
                if position - begin < len(answer):  # a grammar forces the end of a block that reaches behind the answer
                    answer[position - begin] = token
                start = max(window.start for window in blocks if window.start <= position)
            written = answer[: answer.index(mask_id)] if mask_id in answer else answer
            final = written[: max(0, start - begin)] if made.edits else written
            if len(final) >= limit or read(final[:limit], model.tokenizer, made.ends, request.stop, request.fixed).stopped:
                return decoded.forwards[:count], written
    return decoded.forwards, decoded.token_ids


def same_forward(record: unmask.StepRecord, forward: simple.Forward) -> bool:
    """Whether a record of one row tells of the reference loop's forward."""
    (refresh,), (query_tokens,), (committed,) = record.refresh, record.query_tokens, record.committed
    (tokens,), (rule,) = record.tokens, record.rule
    return simple.Forward(refresh, query_tokens, committed, tokens, rule) == forward


def timeless(completion: Completion) -> Completion:
    """Without its time, which no two decodes have in common."""
    return dataclasses.replace(completion, seconds=0.0)


def as_alone(engine: Engine, asked: Sequence[Request], monkeypatch: pytest.MonkeyPatch) -> None:
    """All answers are those of the reference loop, which replays nothing and has nothing of what the engine has."""
    answers = engine.generate(asked)
    with monkeypatch.context() as plain:
        plain.setattr(Denoiser, "replayable", False)
        for request, done in zip(asked, answers, strict=True):
            assert timeless(done) == alone(engine.model, request)
