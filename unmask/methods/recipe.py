"""A Method made concrete for one model and one length of answers: what a decode really asks of it."""

import functools
import warnings
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import NamedTuple

import torch

from unmask.decode.commit_head import CommitHead
from unmask.decode.forced import Forced
from unmask.decode.multi_block import ONE, MultiBlock
from unmask.decode.numbers import structure
from unmask.decode.spec import Keeping, ModelSpec
from unmask.decode.step import Ending, Seed, StepSettings
from unmask.errors import ConfigError
from unmask.methods.method import Method
from unmask.methods.parts import CacheName

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
class Structure(StepSettings):
    """What rows that decide together have in common, whatever their methods are called.

    Attributes:
        length: tokens per block.
        sampled: None takes the most probable token.
        block: tokens per block of the grid of a block-causal model; None: full attention.
        lookbehind: how far before its block a query begins.
        branches: states of a block that a forward tries, 1 unless drafting.
        anchored: a block takes two forwards even where the first has completed it.
        eos_ids: what ends the decode.
    """

    length: int
    sampled: Sampled | None
    block: int | None
    lookbehind: int
    branches: int
    anchored: bool
    eos_ids: tuple[int, ...]

    @property
    def leaves(self) -> bool:
        """Whether a row whose block is complete, or holds the answer's end, never takes another step of that block."""
        return not (self.anchored or self.edits or self.moves or self.blocks.count > 1)

    @property
    def width(self) -> int:
        """Tokens of a window: of all blocks that are decoded at once."""
        return self.length * self.blocks.count

    @property
    def constrained(self) -> bool:
        """Whether a constraint says what the answers must be."""
        return any(isinstance(rule, Forced) for rule in self.rules)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:  # asked for at every step of every row
        return hash(tuple(getattr(self, field.name) for field in fields(self)))


@dataclass(frozen=True, kw_only=True)
class Recipe(Structure):
    """Plain values: all that a decode of a request asks of the engine.

    Attributes:
        cache, suffix, prompt_interval: of the context policy; suffix is (near, tail).
        keeping: how the keys and values of its finished blocks become final; None: nothing is kept.
        sub_block: tokens of a sub-block that forwards query alone; None: the whole block is queried.
        whole: the last block is decoded to its end though the answer ends inside it.
        ends: what ends text and counts; the first is the filler behind it.
    """

    cache: CacheName
    suffix: tuple[int, int] | None
    prompt_interval: int | None
    keeping: Keeping | None
    sub_block: int | None
    whole: bool
    ends: tuple[int, ...]

    @property
    def structure(self) -> Structure:
        """What it has in common with rows that decide with it: all but their own numbers, and what no decision asks for."""
        return _one(structure(Structure(**{field.name: getattr(self, field.name) for field in fields(Structure)})))

    @property
    def finds_final(self) -> bool:
        """Whether a forward that changes nothing of a complete block leaves its keys and values final.

        Not where the next block's first token is to be predicted by the block's last row, in a forward with that block.
        """
        return self.keeping is not None and self.sub_block is None and self.seed is None

    @property
    def closes(self) -> bool:
        """Whether a finished block takes a forward of its own, the last one of an answer too."""
        return self.keeping in ("own", "one by one") and self.seed is None

    @property
    def confirms(self) -> bool:
        """Whether it takes another one: SGLang's loop says that a block is done in the forward after nothing has changed."""
        return self.keeping == "one by one" and self.edits and not self.moves

    @property
    def filler(self) -> int:
        """The token that stands behind an answer's end."""
        return self.ends[0]


@functools.lru_cache(maxsize=256)
def _one(made: Structure) -> Structure:
    """The same object for equal structures, so that rows are told apart quickly."""
    return made


def recipe(
    method: Method,
    spec: ModelSpec,
    *,
    answer_length: int,
    temperature: float = 0.0,
    top_p: float | None = None,
    top_k: int | None = None,
    head: CommitHead | None = None,
    holes: bool = False,
    alternatives: int = 0,
    constrained: bool = False,
) -> Recipe:
    """What the method comes to for answers of this many tokens, on this model and its commit head, sampled like this.

    With `holes` in fixed text no end of an answer ends the decode, and no token moves. `alternatives` as in `StepSettings`.
    `constrained`: whether a constraint says what the answer must be.

    Raises ConfigError if blocks or steps of the method do not come out even for the length, or if a setting that was named
    means nothing to the model, or a rule asks a head that is not there.
    """
    stop, ends = method.stop_at_eos, answer_ends(method, spec)
    sampled = Sampled(
        top_p=top_p is not None and top_p < 1,
        top_k=top_k is not None and top_k < spec.vocab_size,
    )
    context = _full(method, spec, answer_length) if spec.block is None else _block_causal(method, spec)
    # On a grid no query begins before its block: where row i - 1 predicts token i, the block's first token is a seed.
    shifted = spec.lookbehind > 0 and context.block is None
    marks = () if holes else spec.marks
    rules = method.rules(answer_length, shifted=shifted, block=context.block, marks=marks, head=head)
    return Recipe(
        **context._asdict(),
        rules=(*rules, Forced()) if constrained else rules,
        never=() if (method.commit.moves or method.official) and not holes else spec.marks,
        score=method.score,
        one_per_run=method.one_per_run,
        # The published decoders rank by probabilities in float64 (LLaDA) or in the logits' type, where ties fall by chance;
        # float64 tells apart what float32 rounds to the same number.
        precision=torch.float64 if method.official else torch.float32,
        sampled=None if temperature == 0 else sampled,
        branches=method.draft.steps if method.draft else 1,
        subset=method.draft is not None and method.draft.match == "subset",
        anchored=method.anchored(shifted=shifted),
        seed=_seed(spec, context),
        sub_block=_sub_block(method, spec, context),
        blocks=_blocks(method, spec, context, answer_length),
        # Of Fast-dLLM v2's loops, which write seeds, the answer's last token may be one.
        whole=method.official and spec.lookbehind == 0,
        ending="never" if stop is None or holes else _ENDINGS[stop.check],
        hole_ends=ends if holes else (),
        alternatives=alternatives,
        eos_ids=ends[: len(ends) - len(spec.turn_ids)] if method.official else ends,
        ends=ends,
    )


def grid(method: Method, own: int) -> int:
    """Tokens per block of a block-causal model: its `own`, unless the method names another number."""
    return method.block_length if "block_length" in method.named and method.block_length else own


def answer_ends(method: Method, spec: ModelSpec) -> tuple[int, ...]:
    """The ids that end an answer's text and counts, alike for every method; the published loops look for no turn's end."""
    stop = method.stop_at_eos
    return (spec.eos_ids if stop is None else stop.ids(spec.eos_ids)) + spec.turn_ids


class _Context(NamedTuple):
    """The fields of a recipe that say what a forward sees."""

    length: int
    cache: CacheName
    suffix: tuple[int, int] | None
    prompt_interval: int | None
    lookbehind: int
    block: int | None = None
    keeping: Keeping | None = None


def _full(method: Method, spec: ModelSpec, answer_length: int) -> _Context:
    """The context of a model of full attention."""
    if method.cache == "block":
        raise ConfigError("cache=block needs a model of block-causal attention: use prefix, dual or none")
    if method.prefill is not None and "prefill" in method.named:
        raise ConfigError("prefill=one by one needs a model of block-causal attention: leave it out")
    return _Context(
        length=method.block(answer_length),
        cache=method.cache,
        suffix=(method.suffix.window, method.suffix.tail) if method.suffix else None,
        prompt_interval=method.refresh.prompt_interval if method.refresh else 1,
        # The published Dream loops query the block alone and so mispredict its first token, which the anchor has fixed.
        lookbehind=0 if method.official else spec.lookbehind,
    )


def _block_causal(method: Method, spec: ModelSpec) -> _Context:
    """The context of a block-causal model: exact keys and values, blocks of its own length unless another is named.

    What a preset says of contexts is for other models; what was named and means nothing here is refused.
    """
    assert spec.block is not None
    named = {path.partition(".")[0] for path in method.named}
    refused = {
        "cache=dual": "cache" in named and method.cache == "dual",
        "a suffix window": "suffix" in named and method.suffix is not None,
        "a prompt_interval": "refresh" in named and method.refresh is not None,
    }
    for setting, is_named in refused.items():
        if is_named:
            raise ConfigError(
                f"{setting} means nothing to a block-causal model, which sees nothing behind a block and whose cache is "
                "exact: leave it out, or take cache=block or cache=none"
            )
    length = grid(method, spec.block)
    if length != spec.block:
        if spec.only_block:
            raise ConfigError(f"the model chooses experts per block of {spec.block} tokens: it runs with no other block_length")
        warnings.warn(f"the model was trained with blocks of {spec.block} tokens and runs with {length}", stacklevel=3)
    # A loop that was published without a cache is one here too.
    kept = not (method.cache == "none" and ("cache" in named or method.official))
    return _Context(
        length=length,
        cache="block" if kept else "none",
        suffix=None,
        prompt_interval=1,
        lookbehind=0,
        block=length,
        keeping=_keeping(method) if kept else None,
    )


def _keeping(method: Method) -> Keeping:
    """The published loops spend a forward of its own on each finished block, SGLang's on each of the prompt's too."""
    if not method.official:
        return "along"
    return "one by one" if method.prefill == "one by one" else "own"


def _seed(spec: ModelSpec, context: _Context) -> Seed | None:
    if spec.lookbehind == 0 or context.keeping is None:
        return None
    return "with others" if context.keeping == "along" else "alone"


def _blocks(method: Method, spec: ModelSpec, context: _Context, answer_length: int) -> MultiBlock:
    """Several blocks at once, as many as the answer has."""
    count = 1 if method.blocks is None else min(method.blocks.count, -(-answer_length // context.length))
    if method.blocks is None or count == 1:
        return ONE
    if method.anchored(shifted=spec.lookbehind > 0 and context.block is None):
        raise ConfigError("the published Dream loop decodes one block after the other: take the preset without -official")
    if _seed(spec, context) is not None:
        raise ConfigError(
            "several blocks at once need a model whose row i predicts token i, or cache=none: of this one the first token of "
            "a block is predicted with the block before it"
        )
    return replace(method.blocks, count=count)


def _sub_block(method: Method, spec: ModelSpec, context: _Context) -> int | None:
    """Sub-blocks are queried alone where the method says so and there is a cache to see the others in."""
    parts = method.sub_blocks
    if parts is None or not parts.cache or context.keeping is None or parts.length >= context.length:
        return None
    if spec.only_block:
        raise ConfigError("the model chooses experts per block, which a query must hold whole: take sub_blocks.cache=false")
    if method.draft is not None:
        raise ConfigError("drafts are states of whole blocks: take sub_blocks.cache or draft, not both")
    if context.length % parts.length:
        raise ConfigError(f"sub_blocks.length {parts.length} does not divide the model's block of {context.length} tokens")
    return parts.length
