"""Whether a request can be answered at all, by its prompt and its fixed text."""

import functools
import math
from collections.abc import Sequence
from typing import Any

from unmask.decode.spec import ModelSpec
from unmask.engine.request import Request
from unmask.errors import EmptyPrompt, GrammarError, MaskInPrompt, PromptTooLong, RequestError
from unmask.methods.recipe import Recipe, recipe
from unmask.models.denoiser import Denoiser


def check_size(text: str, model: Denoiser) -> None:
    """Raises PromptTooLong where a text is too long whatever its tokens are, before seconds and memory go into them.

    >>> from unmask.models.toy import toy
    >>> check_size("any text", toy())
    """
    most = model.spec.max_length * _longest(model.tokenizer)
    if len(text) > most:
        raise PromptTooLong(
            f"a text of {len(text)} letters exceeds the model's {model.spec.max_length} tokens, "
            f"which hold {most} letters at most: shorten the prompt"
        )


@functools.lru_cache(maxsize=8)
def _longest(tokenizer: Any) -> float:
    """Letters of the longest token, a byte counted as one; a tokenizer that lists no tokens sets no limit."""
    tokens = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else ()
    return max(map(len, tokens), default=math.inf)


def check(prompt: Sequence[int], answer: int, spec: ModelSpec, *, empty: bool = False) -> None:
    """Raises a RequestError that says what is wrong with a prompt for `answer` tokens and what would be right.

    `empty`: whether there may be none, because the answer is a canvas.
    """
    if not prompt and not empty:
        raise EmptyPrompt("the prompt is empty: give it at least one token")
    if spec.mask_id in prompt:
        place = prompt.index(spec.mask_id)
        raise MaskInPrompt(f"the prompt holds the mask id {spec.mask_id} at position {place}: it stands for an unwritten token")
    odd = [token for token in prompt if not 0 <= token < spec.vocab_size]
    if odd:
        raise RequestError(f"the prompt holds the id {odd[0]}: ids run from 0 to {spec.vocab_size - 1}")
    surplus = len(prompt) + answer - spec.max_length
    if surplus > 0:
        raise PromptTooLong(
            f"{len(prompt)} prompt tokens and {answer} new ones exceed the model's "
            f"{spec.max_length} by {surplus}: shorten the prompt or ask for fewer new tokens"
        )


def check_fixed(request: Request, spec: ModelSpec) -> None:
    """Raises a RequestError where fixed text does not fit into the answer, or leaves nothing to decode."""
    for offset, token in request.fixed.items():
        if not 0 <= offset < request.max_new_tokens:
            raise RequestError(f"fixed text at {offset}: the answer's positions run from 0 to {request.max_new_tokens - 1}")
        if not 0 <= token < spec.vocab_size or token == spec.mask_id:
            raise RequestError(f"fixed text holds the id {token}: ids run from 0 to {spec.vocab_size - 1}, the mask's excepted")
    if len(request.fixed) == request.max_new_tokens and request.layout is None:
        raise RequestError("every token of the answer is fixed: leave at least one open")


def check_constraint(request: Request, answer: Sequence[int]) -> None:
    """Raises GrammarError where no answer of these positions, masked or fixed, is what it must be."""
    if request.constraint is not None and not request.constraint.possible(answer):
        fixed = " with the fixed text in it" if request.fixed else ""
        raise GrammarError(f"no answer of {len(answer)} tokens{fixed} is what the grammar asks for: raise max_new_tokens")


def checked(request: Request, model: Denoiser) -> Recipe:
    """What the request's method comes to on the model.

    Raises RequestError, ConfigError or ModelError where the request cannot be answered.
    """
    spec, holes = model.spec, request.layout is not None
    check(request.prompt, request.max_new_tokens, spec, empty=holes and spec.lookbehind == 0)
    check_fixed(request, spec)
    return recipe(
        request.method,
        spec,
        answer_length=request.max_new_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        head=model.head,
        holes=holes,
        constrained=request.constraint is not None,
        alternatives=request.alternatives,
    )
