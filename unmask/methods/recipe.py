"""A Method made concrete for one model and one length of answers: what a decode really asks of it."""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from unmask.decode.spec import ModelSpec
from unmask.decode.step import Ending, StepSettings
from unmask.methods.method import CacheName, Method

_ENDINGS: dict[str, Ending] = {
    "every step": "first",
    "every step that writes one": "written",
    "after each finished block": "block",
    "after a block of nothing else": "whole block",
}


class Sampled(NamedTuple):
    """Which filters narrow the distribution that tokens are drawn from; the numbers are each request's own."""

    top_p: bool
    top_k: bool


@dataclass(frozen=True, kw_only=True)
class Recipe(StepSettings):
    """Plain values, so that requests with equal recipes decide together, whatever their methods are called.

    Attributes:
        length: tokens per block.
        sampled: None takes the most probable token.
        cache, suffix, prompt_interval: of the context policy; suffix is (near, tail).
        lookbehind: how far before its block a query begins.
        branches: states of a block that a forward tries, 1 unless drafting.
        anchored: a block takes two forwards even where the first has completed it.
        eos_ids: what ends the decode.
        ends: what ends text and counts; the first is the filler behind it.
    """

    length: int
    sampled: Sampled | None
    cache: CacheName
    suffix: tuple[int, int] | None
    prompt_interval: int | None
    lookbehind: int
    branches: int
    anchored: bool
    eos_ids: tuple[int, ...]
    ends: tuple[int, ...]

    @property
    def filler(self) -> int:
        """The token that stands behind an answer's end."""
        return self.ends[0]


def recipe(
    method: Method,
    spec: ModelSpec,
    *,
    answer_length: int,
    temperature: float = 0.0,
    top_p: float | None = None,
    top_k: int | None = None,
) -> Recipe:
    """What the method comes to for answers of this many tokens, on this model, sampled like this.

    Raises ConfigError if blocks or steps of the method do not come out even for the length.
    """
    shifted, stop = spec.lookbehind > 0, method.stop_at_eos
    eos_ids = spec.eos_ids if stop is None else stop.ids(spec.eos_ids)
    # Text and counts end alike for every method; the published loops themselves look for no turn's end.
    ends = eos_ids + spec.turn_ids
    sampled = Sampled(
        top_p=top_p is not None and top_p < 1,
        top_k=top_k is not None and top_k < spec.vocab_size,
    )
    return Recipe(
        length=spec.block or method.block(answer_length),
        rules=method.rules(answer_length, shifted=shifted),
        score=method.score,
        one_per_run=method.one_per_run,
        # The published decoders rank by probabilities in float64 (LLaDA) or in the logits' type, where ties fall by chance;
        # float64 tells apart what float32 rounds to the same number.
        precision=torch.float64 if method.official else torch.float32,
        sampled=None if temperature == 0 else sampled,
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
