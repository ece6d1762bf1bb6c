"""Answers of random languages, of random methods on random toys, in mixed batches: each is a text of its language.

A text is checked by `re` or by jsonschema, which know nothing of the automata. 160 draws here, 2,000 with `-m slow`.
"""

import json
import random
import re
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

import unmask
from tests.grammar.toys import toy_automaton, written
from unmask.engine.engine import Engine
from unmask.engine.generate import answer
from unmask.engine.request import Request
from unmask.errors import GrammarError
from unmask.grammar.constraint import Grammar
from unmask.grammar.regex import whole
from unmask.grammar.schema import schema
from unmask.models.denoiser import Denoiser
from unmask.models.toy import toy

BLOCK, BATCH = 8, 4
FULL = ("vanilla", "fast-dllm", "streaming-dllm", "r2-dllm", "freedave", "eb-sampler", "localleap")
FULL += ("vanilla-official", "fast-dllm-official", "streaming-dllm-official", "r2-dllm-official", "freedave-official")
BLOCK_CAUSAL = ("vanilla", "fast-dllm", "r2-dllm", "freedave", "sdar", "sdar-official", "llada2", "llada2.1", "fast-dllm-v2")
Language = str | dict[str, Any]  # a regular expression, or a JSON schema


def pattern(draw: random.Random, depth: int = 3) -> str:
    """A regular expression over a, b, 0 and 1, of a finite or an infinite language."""
    if depth == 0 or draw.random() < 0.2:
        return draw.choice(["a", "b", "ab", "[ab]", "[01]", "1", "true", "12"])
    inner = [pattern(draw, depth - 1) for _ in range(draw.randint(1, 3))]
    kind = draw.choice(["together", "one of", "repeated", "counted"])
    if kind == "one of":
        return f"({'|'.join(inner)})"
    if kind == "together":
        return "".join(inner)
    low = draw.randint(0, 2)
    return f"({inner[0]})" + (draw.choice("*+?") if kind == "repeated" else f"{{{low},{low + draw.randint(0, 3)}}}")


def document(draw: random.Random, depth: int = 2) -> dict[str, Any]:
    """A JSON schema of at most two levels; what stands behind a required key makes the middle of an answer certain."""
    scalars: list[dict[str, Any]] = [{"type": "boolean"}, {"type": "integer"}, {"type": "number"}, {"type": "null"}]
    scalars += [{"enum": draw.sample(["a", "ab", 0, 11, None, True], 3)}, {"type": "integer", "minimum": 0, "maximum": 12}]
    scalars += [{"type": "string", "maxLength": 3}, {"type": "string", "pattern": "^a+$"}]
    if depth == 0:
        return draw.choice(scalars)
    kind = draw.choice(["object", "object", "array", "one of"])
    if kind == "array":
        low = draw.randint(0, 2)
        return {"type": "array", "items": document(draw, depth - 1), "minItems": low, "maxItems": low + draw.randint(0, 2)}
    if kind == "one of":
        return {"anyOf": [document(draw, depth - 1), draw.choice(scalars)]}
    keys = draw.sample(["a", "b", "ab"], draw.randint(1, 3))
    needed = [key for key in keys if draw.random() < 0.7]
    return {"type": "object", "properties": {key: document(draw, depth - 1) for key in keys}, "required": needed}


def method_of(draw: random.Random, denoiser: Denoiser) -> unmask.Method:
    """A preset, with a cache, drafts and windows of its own where it lets them be changed."""
    block_causal = denoiser.spec.block is not None
    name = draw.choice(BLOCK_CAUSAL if block_causal else FULL)
    changes: dict[str, Any] = {} if block_causal else {"block_length": BLOCK}
    if not name.endswith("-official") and not block_causal:
        changes["cache"] = draw.choice(["none", "prefix", "dual"])
    if name in ("vanilla", "fast-dllm", "r2-dllm") and draw.random() < 0.3:
        shifted = block_causal and denoiser.spec.lookbehind > 0  # decodes one block after the other
        changes |= {"draft_steps": 2} if shifted else draw.choice([{"draft_steps": 2}, {"multi_block": 2}])
    return unmask.method(name, **changes)


def request_of(draw: random.Random, denoiser: Denoiser, language: Language, method: unmask.Method) -> Request:
    """One request whose answer may be as short as the shortest text; one token less is refused before the first forward."""
    automaton = toy_automaton(whole(language) if isinstance(language, str) else schema(language))
    least = max(1, automaton.least())
    limit = least + draw.choice([0, 0, 1, 5, 20])
    request = Request(
        prompt=tuple(range(1 + draw.randrange(9))),
        method=method,
        max_new_tokens=-(-limit // BLOCK) * BLOCK,
        limit=limit,
        temperature=float(draw.randrange(2)),
        seed=draw.randrange(99),
        constraint=Grammar(automaton=automaton, limit=limit),
    )
    if automaton.least() > 1:
        short = Request(
            prompt=(1,), method=method, max_new_tokens=BLOCK, constraint=Grammar(automaton=automaton, limit=least - 1)
        )
        if least - 1 <= BLOCK:
            with pytest.raises(GrammarError):
                Engine(denoiser).check(short)
    return request


def expect_texts(number: int) -> None:
    draw = random.Random(number)
    family = draw.choice(["llada", "dream", "sdar", "llada2", "fast_dllm_v2"])
    block_causal = family not in ("llada", "dream")
    denoiser = toy(family, seed=draw.randrange(5), sharpness=3, **({"block": BLOCK} if block_causal else {}))
    languages = [pattern(draw) if draw.random() < 0.4 else document(draw) for _ in range(BATCH)]
    requests = [request_of(draw, denoiser, one, method_of(draw, denoiser)) for one in languages]
    free = Request(prompt=(1, 2), method=method_of(draw, denoiser), max_new_tokens=2 * BLOCK)
    *done, _ = answer(denoiser, [*requests, free])
    for language, request, row in zip(languages, requests, done, strict=True):
        text = written(row.token_ids)
        assert row.finish_reason == "stop"
        assert row.forwards <= 3 * request.max_new_tokens + 4, (language, request.method)
        if isinstance(language, str):
            assert re.fullmatch(language, text), (language, text)
        else:
            jsonschema.validate(json.loads(text), language)


@seed(18)
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32))
def test_every_answer_is_a_text_of_its_language(number: int) -> None:
    expect_texts(number)


@pytest.mark.slow
@seed(19)
@settings(max_examples=500, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32))
def test_every_one_of_two_thousand_answers_is_a_text_of_its_language(number: int) -> None:
    expect_texts(number)
