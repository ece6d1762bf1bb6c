"""A Method made concrete for one model and one length of answers: what the loops really ask of it."""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from unmask.context.policy import ContextPolicy, policy
from unmask.decode.proposal import Score
from unmask.decode.rules import Rule
from unmask.decode.step import Ending
from unmask.engine.request import Request
from unmask.methods.method import CacheName
from unmask.models.denoiser import ModelSpec

_ENDINGS: dict[str, Ending] = {
    "every step": "first",
    "after each finished block": "block",
    "after a block of nothing else": "whole block",
}


class Sampled(NamedTuple):
    """Which filters narrow the distribution that tokens are drawn from; the numbers are each row's own."""

    top_p: bool
    top_k: bool


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Plain values, so that rows with equal recipes decide together, whatever their methods are called.

    Attributes:
        length: tokens a block.
        rules, score, one_per_run: as in `select` and `propose`.
        precision: of confidences, or the model's own if that is better.
        sampled: None takes the most probable token.
        cache, suffix, prompt_interval: of the context; suffix is (near, tail).
        lookbehind: how far before its block a query begins.
        branches: states of a block that a forward tries, 1 unless drafting; `subset` is the published match of drafts.
        anchored: a block takes two forwards even where the first has completed it.
        ending: when a row is over before its last block.
        eos_ids: what ends the decode.
        ends: what ends text and counts; the first is the filler behind it.
    """

    length: int
    rules: tuple[Rule, ...]
    score: Score
    one_per_run: bool
    precision: torch.dtype
    sampled: Sampled | None
    cache: CacheName
    suffix: tuple[int, int] | None
    prompt_interval: int | None
    lookbehind: int
    branches: int
    subset: bool
    anchored: bool
    ending: Ending
    eos_ids: tuple[int, ...]
    ends: tuple[int, ...]

    @property
    def filler(self) -> int:
        return self.ends[0]

    def policy(self) -> ContextPolicy:
        return policy(self.cache, self.suffix, self.prompt_interval)


def recipe(request: Request, spec: ModelSpec) -> Recipe:
    """Raises ConfigError if blocks or steps of the method do not come out even for the request's length."""
    method, answer = request.method, request.max_new_tokens
    shifted, stop = spec.lookbehind > 0, method.stop_at_eos
    eos_ids = spec.eos_ids if stop is None or stop.eos_id is None else (stop.eos_id,)
    # Text and counts end alike for every method; the published loops themselves know nothing of a turn's end.
    ends = eos_ids + spec.turn_ids
    return Recipe(
        length=method.block(answer),
        rules=method.rules(answer, shifted=shifted),
        score=method.score,
        one_per_run=method.one_per_run,
        # The published decoders rank by probabilities in float64 (LLaDA) or in the logits' type, where ties fall by chance;
        # float64 tells apart what float32 rounds to the same number.
        precision=torch.float64 if method.official else torch.float32,
        sampled=_sampled(request, spec),
        cache=method.cache,
        suffix=(method.suffix.window, method.suffix.tail) if method.suffix else None,
        prompt_interval=method.refresh.prompt_interval if method.refresh else 1,
        # The published Dream loops query the block alone and so mispredict its first token, which the anchor has fixed.
        lookbehind=0 if method.official else spec.lookbehind,
        branches=method.draft.steps if method.draft else 1,
        subset=method.draft is not None and method.draft.match == "subset",
        anchored=method.anchored(shifted=shifted),
        ending="never" if stop is None else _ENDINGS[stop.check],
        eos_ids=eos_ids if method.official else ends,
        ends=ends,
    )


def _sampled(request: Request, spec: ModelSpec) -> Sampled | None:
    if request.temperature == 0:
        return None
    return Sampled(
        top_p=request.top_p is not None and request.top_p < 1,
        top_k=request.top_k is not None and request.top_k < spec.vocab_size,
    )
