"""Answers held to a grammar, whatever decodes them: valid, the same in any batch, and unheld rows beside them untouched."""

import dataclasses
import itertools
import json
import random
import re
from typing import Any

import pytest
import torch

import unmask
from tests import test_golden as golden
from tests.engine.test_seams import expect_equal
from tests.grammar.toys import everything, held, sample, toy_automaton, written
from tests.reference import forwards_of
from unmask.engine.engine import Engine
from unmask.engine.generate import answer
from unmask.engine.request import Request
from unmask.errors import GrammarError
from unmask.grammar.constraint import Grammar
from unmask.grammar.dfa import compiled
from unmask.grammar.regex import whole
from unmask.grammar.schema import schema
from unmask.models.denoiser import Denoiser
from unmask.models.toy import EOS, toy

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}}, "required": ["a", "b"]}
PATTERNS = ["(ab)*1", "a{3}|b{5}0", '\\{"a":[01]+\\}\\}?', "[ab01 ]*true", "(a|b|0|1){11}"]
METHODS: list[tuple[str, dict[str, Any]]] = [
    ("vanilla", {"cache": "dual"}),
    ("vanilla-official", {}),
    ("r2-dllm", {"draft_steps": 3}),
    ("fast-dllm", {"cache": "prefix"}),
    ("fast-dllm-official", {}),
    ("streaming-dllm", {}),
    ("freedave-official", {}),
    ("eb-sampler", {"multi_block": 2, "block_add": 0.5}),
]
BLOCK_CAUSAL = [
    ("sdar", "sdar"),
    ("sdar", "sdar-official"),
    ("sdar", "freedave"),
    ("llada2", "llada2.1"),
    ("llada2_2", "llada2.2"),
]
BLOCK_CAUSAL += [("fast_dllm_v2", "fast-dllm-v2"), ("fast_dllm_v2", "fast-dllm-v2-official")]


def requests_of(method: unmask.Method, length: int) -> list[Request]:
    """Of every grammar and of none, at temperatures 0 and 1."""
    limits = [length, length - 3]
    grammars = [None, *(held(whole(pattern), limit) for pattern, limit in zip(PATTERNS, itertools.cycle(limits)))]
    grammars.append(held(schema(SCHEMA), length))
    return [
        Request(
            prompt=tuple(range(1 + place)),
            method=method,
            max_new_tokens=length,
            limit=None if grammar is None or grammar.limit == length else grammar.limit,
            temperature=float(place % 2),
            seed=place,
            constraint=grammar,
        )
        for place, grammar in enumerate(grammars)
    ]


def expect_valid(denoiser: Denoiser, requests: list[Request]) -> None:
    done = expect_equal(denoiser, requests)
    texts = [written(row.token_ids) for row in done]
    for pattern, text, row in zip(PATTERNS, texts[1:], done[1:], strict=False):
        assert re.fullmatch(pattern, text), (pattern, text)
        assert row.finish_reason == "stop"
        assert row.forwards <= 2 * len(row.token_ids) + 8
    value = json.loads(texts[-1])
    assert set(value) == {"a", "b"}
    assert isinstance(value["a"], int)
    assert isinstance(value["b"], bool)


@pytest.mark.parametrize(("name", "options"), METHODS)
def test_answers_are_of_their_grammar(name: str, options: dict[str, Any]) -> None:
    method = unmask.method(name, block_length=8, **options)
    expect_valid(toy("llada", seed=5, sharpness=3, dtype=torch.float64), requests_of(method, 16))


@pytest.mark.parametrize("family", ["dream"])
def test_answers_of_shifted_models_are_of_their_grammar(family: str) -> None:
    expect_valid(
        toy(family, seed=5, sharpness=3, dtype=torch.float64), requests_of(unmask.method("r2-dllm", block_length=8), 16)
    )


@pytest.mark.parametrize(("family", "name"), BLOCK_CAUSAL)
def test_answers_of_block_causal_models_are_of_their_grammar(family: str, name: str) -> None:
    expect_valid(toy(family, seed=5, sharpness=3, dtype=torch.float64, block=8), requests_of(unmask.method(name), 16))


@pytest.mark.parametrize("key", [pytest.param(key, id="-".join(key)) for key in golden.vectors()])
def test_a_grammar_that_allows_everything_decodes_as_published(key: tuple[str, str, str]) -> None:
    """Tokens, forwards and queries of the golden vectors, through an automaton of one state."""
    for vector in golden.vectors()[key][::3]:
        denoiser = golden.model(vector["model"])
        method, queries = unmask.Method.from_dict(vector["settings"]), list[list[int]]()
        length = len(vector["completion"])
        request = Request(
            prompt=tuple(vector["prompt"]),
            method=method,
            max_new_tokens=length,
            temperature=method.temperature or 0.0,
            constraint=everything(length, mask_id=denoiser.spec.mask_id, vocabulary=denoiser.spec.vocab_size),
        )
        (done,) = answer(denoiser, [request], lambda record, queries=queries: queries.append(record.query_tokens[0]))
        assert done.token_ids == vector["completion"], vector["id"]
        assert (done.forwards, queries) == (vector["forwards"], vector["queries"]), vector["id"]


def test_random_schemas_are_kept_to_with_not_a_token_to_spare() -> None:
    """Canvases of exactly the least tokens, one more and many; one less is refused."""
    denoiser, draw = toy("llada", seed=5, sharpness=3), random.Random(18)
    sources = [
        {"type": "object", "properties": {"a": {"enum": ["a", "ab", None]}, "b": SCHEMA}, "required": ["b"]},
        {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 12}, "minItems": 2},
        {"anyOf": [{"type": "boolean"}, {"type": "object", "additionalProperties": {"type": "null"}}]},
    ]
    requests = []
    for source in sources:
        automaton = toy_automaton(schema(source))
        for spare in (0, 1, 20):
            limit = automaton.least() + spare
            blocks = -(-limit // 8) * 8
            method = unmask.method(draw.choice(["r2-dllm", "freedave", "vanilla"]), block_length=8)
            grammar = Grammar(automaton=automaton, limit=limit)
            requests.append(
                Request(
                    prompt=(1, 2), method=method, max_new_tokens=blocks, limit=limit, temperature=spare % 2, constraint=grammar
                )
            )
        short = Grammar(automaton=automaton, limit=automaton.least() - 1)
        with pytest.raises(GrammarError, match="raise max_new_tokens"):
            Engine(denoiser).submit(dataclasses.replace(requests[-1], constraint=short))
    for request, row in zip(requests, expect_equal(denoiser, requests), strict=True):
        assert isinstance(request.constraint, Grammar)
        state = request.constraint.automaton.walk(row.token_ids)
        assert state >= 0
        assert request.constraint.automaton.least(state) == 0


def test_forced_tokens_cost_no_forward_and_are_in_the_records() -> None:
    denoiser, method = toy("llada", seed=5, sharpness=3), unmask.method("vanilla", block_length=8)
    grammar = held(whole("\\{\\}\\[\\]0{8}-\\.(true|null)--\\.\\.-"), 32)
    request = Request(prompt=(1, 2), method=method, max_new_tokens=32, constraint=grammar)
    (row,) = expect_equal(denoiser, [request])
    assert row.forwards == 1
    assert row.commits["forced"] == 31
    forwards = forwards_of(denoiser, request).forwards
    assert sorted(place for forward in forwards for place in forward.committed) == list(range(2, 34))
    records: list[unmask.StepRecord] = []
    answer(denoiser, [request], records.append)
    assert [record.committed[0] for record in records] == [forward.committed for forward in forwards]
    assert [record.rule[0] for record in records] == [forward.rule for forward in forwards]


def test_an_answer_that_is_forced_altogether_takes_one_forward() -> None:
    method = unmask.method("vanilla", block_length=8)
    request = Request(prompt=(1, 2), method=method, max_new_tokens=24, constraint=held(whole("---\\.\\.-----"), 24))
    (row,) = expect_equal(toy("llada", seed=5), [request])
    assert row.forwards == 1
    assert written(row.token_ids) == "---..-----"


def test_fixed_text_and_a_grammar_hold_together_or_are_refused() -> None:
    denoiser, method = toy("llada", seed=5, sharpness=3), unmask.method("r2-dllm", block_length=8)
    request = Request(
        prompt=(1, 2), method=method, max_new_tokens=16, fixed={3: 12, 12: 13}, constraint=held(whole("[ab01]{13,}"), 16)
    )
    (row,) = expect_equal(denoiser, [request])
    assert (row.token_ids[3], row.token_ids[12]) == (12, 13)
    assert re.fullmatch("[ab01]{13,}", written(row.token_ids))
    with pytest.raises(GrammarError, match="fixed text"):
        Engine(denoiser).submit(dataclasses.replace(request, fixed={3: EOS, 12: 13}))


def test_samples_of_an_automaton_are_its_texts() -> None:
    made, draw = compiled(whole(PATTERNS[2])), random.Random(1)
    assert all(re.fullmatch(PATTERNS[2], sample(made, draw)) for _ in range(20))
