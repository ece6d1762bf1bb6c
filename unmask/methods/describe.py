"""Methods in words: what each preset is and what its options mean, for `unmask methods` and for readers.

A preset's sentence is the first line of its file; a setting of a base rule that has no sentence here has its rule's.
"""

import inspect
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple, get_args

from unmask.decode.settings import Bound, Child, Choice, Flag, Number, Whole, bounds
from unmask.methods.method import Method
from unmask.methods.options import NEVER, Option, options, preset, setting_of

SENTENCES: Mapping[str, str] = {
    "alpha": "share by which the threshold falls as the block fills",
    "block_active": "share of a block to be written before the next one takes a position per forward, sure or not",
    "block_add": "share of a block to be written before the next block opens",
    "block_length": "tokens per block; none: the whole answer is one",
    "cache": "keys and values kept within a block: of what is before it, around it (dual), exact (block-causal models)",
    "cluster_max_unmasked": "most positions of a window that are written already",
    "cluster_size": "positions of a window that goes as a whole where it is sure on average; none: off",
    "cluster_threshold": "mean confidence of such a window",
    "draft_steps": "states that are guessed and checked in one forward (FreeDave); 1: no drafts",
    "edit_threshold": "confidence at which a written token is rewritten; none: written tokens stay",
    "factor": "commit n tokens where (n + 1) * (1 - confidence) < factor (theorem 1) instead of a fixed threshold",
    "gamma": "entropy, in nats, that the tokens of one forward may have together",
    "max_new_tokens": "tokens of the answer; none: the call's or the model's own number",
    "max_post_steps": "further steps that a complete block may take for edits",
    "minimal_topk": "a block takes at most answer length // minimal_topk steps; none: no cut",
    "mode": "the paper's thresholds: quality 0.7 and 0.5, speed 0.5 and 0",
    "multi_block": "blocks that are decoded at once; 1: one after the other",
    "prompt_interval": "blocks from one recomputation of the prompt to the next; none: it is computed once",
    "radius": "positions around an anchor in which the lower threshold holds",
    "relaxed_threshold": "confidence of a position near an anchor",
    "remasking": "all that are sure but at least a quota, the quota alone, from left to right, or the whole block",
    "schedule": "the same number of tokens at every step (LLaDA), or as many as the time says (Dream)",
    "score": "what ranks the positions",
    "steps": "denoising steps of the whole answer; none: one token per step",
    "sub_block": "tokens of a sub-block, which are decoded one after the other; none: no sub-blocks",
    "sub_block_cache": "query the sub-block alone after its first forward; cheaper, not exact",
    "suffix_tail": "positions of the answer's end that are always seen",
    "suffix_window": "positions seen behind the block; none: all of them",
    "temperature": "0 takes the most probable token; none: the call's",
    "temporal_metric": "confidence that must reach temporal_threshold: the last, the mean or the largest",
    "temporal_steps": "steps for which a prediction must stay to be final; none: off",
    "temporal_threshold": "confidence of a prediction that has stayed",
    "threshold": "confidence from which a position is committed",
    "token_min_length": "length of a run of one prediction",
    "token_pick": "which position of the run is committed",
    "token_threshold": "confidence of the surest position in such a run; none: off",
    "top_k": "sample from so many of the most probable tokens",
    "top_p": "sample from the most probable tokens of this mass",
}


class Described(NamedTuple):
    """An option of a preset in words."""

    name: str
    default: str
    values: str
    meaning: str


def sentence(name: str) -> str:
    """What a preset is, in one line. Raises ConfigError for an unknown name.

    >>> sentence("freedave-official")
    'the published behaviour of freedave, token for token'
    """
    make = preset(name)
    if name.endswith("-official"):
        return f"the published behaviour of {name.removesuffix('-official')}, token for token"
    module = inspect.getmodule(make)
    return (inspect.getdoc(module) or inspect.getdoc(make) or name).splitlines()[0]


def describe(name: str) -> list[Described]:
    """The options of a preset: its own first, then those that every preset takes. Raises ConfigError for an unknown name.

    >>> describe("fast-dllm")[1]
    Described(name='threshold', default='0.9', values='0 to 1', meaning='confidence from which a position is committed')
    """
    make = preset(name)
    usual, arguments = make(), inspect.signature(make).parameters
    return [_described(option, usual, arguments.get(option)) for option in options(name)]


def _described(name: str, usual: Method, argument: inspect.Parameter | None) -> Described:
    option = setting_of(name, usual)
    bound = _bound(option, usual)
    if bound is None and argument is not None:
        choices = [choice for choice in get_args(argument.annotation) if isinstance(choice, str)]
        return Described(name, _word(argument.default), ", ".join(choices) or "a number, or none", _meaning(name, usual))
    return Described(name, _word(_default(option, usual)), _values(bound, option), _meaning(name, usual))


def _bound(option: Option, usual: Method) -> Bound | None:
    """The bound of a setting; of a part that is off, that of the part it would be."""
    _, _, leaf = option.setting.partition(".")
    own = bounds(Method).get(option.part)
    if not leaf:
        return own
    held = usual.parts.get(option.part)
    kind = type(held) if held is not None else own.kind if isinstance(own, Child) else None
    return None if kind is None else bounds(kind).get(leaf)


def _default(option: Option, usual: Method) -> Any:
    """The preset's own value; of a part that is off, the value that turns it off or what it would begin with."""
    _, _, leaf = option.setting.partition(".")
    held = usual.parts.get(option.part)
    if not leaf:
        return getattr(usual, option.setting)
    if held is not None:
        return getattr(held, leaf)
    if option.off is not NEVER:
        return option.off
    own = bounds(Method)[option.part]
    assert isinstance(own, Child)
    return next(field.default for field in fields(own.kind) if field.name == leaf)


def _values(bound: Bound | None, option: Option) -> str:
    ending = ", or none" if bound is not None and (bound.none != "refused" or option.off is None) else ""
    match bound:
        case Number(least=least, most=most):
            return f"{least:g} to {most:g}{ending}"
        case Whole(least=least):
            return f"{least} or more{ending}"
        case Choice(allowed=allowed):
            return ", ".join(allowed) + ending
        case Flag():
            return "true, false"
    return "any"


def _word(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value).lower()


def _meaning(name: str, usual: Method) -> str:
    return SENTENCES.get(name) or usual.commit.look.sentence
