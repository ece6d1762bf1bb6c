"""What is told of each token: the forward that wrote it last, the rule, and how sure the model was there."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

import unmask
from unmask.engine.generate import answer, make_request
from unmask.models.toy import toy


@pytest.mark.parametrize("family", ["llada", "dream", "sdar"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vanilla", {}),
        ("r2-dllm", {}),
        ("fast-dllm", {"draft_steps": 4}),
        ("fast-dllm", {"blocks": {"count": 3, "add": 0.2}}),
        ("llada2.1", {}),
    ],
)
def test_steps_are_what_the_records_say(name: str, options: dict[str, Any], family: str) -> None:
    model = toy(family, seed=5, sharpness=3, dtype=torch.float64)
    asked = make_request(model, [1, 2, 3], method=unmask.method(name, **options), max_new_tokens=32)
    records: list[unmask.StepRecord] = []
    (done,) = answer(model, [asked], records.append)
    told, plain = answer(model, [replace(asked, alternatives=3), make_request(model, [4], max_new_tokens=32)])
    assert [step[:2] for step in told.steps] == [step[:2] for step in done.steps]
    assert [step.confidence for step in told.steps] == pytest.approx([step.confidence for step in done.steps])
    assert told.token_ids == done.token_ids
    assert (plain.alternatives, len(plain.steps)) == ([], plain.tokens)
    assert len(done.steps) == len(told.alternatives) == len(done.places) == done.tokens > 0
    written = {
        position: (record.forward, rule, token)
        for record in records
        for position, rule, token in zip(record.committed[0], record.rule[0], record.tokens[0], strict=True)
    }
    for place, (forward, rule, confidence), top in zip(done.places, done.steps, told.alternatives, strict=True):
        assert written[3 + place] == (forward, rule, done.token_ids[place])
        record = records[forward]
        assert confidence is not None
        if "draft_steps" not in options:
            assert confidence == record.confidence[0][3 + place - record.start[0]]
        # Greedy: the token is the most probable one that is not the mask.
        assert (top[0].token, math.exp(top[0].logprob)) == (done.token_ids[place], pytest.approx(confidence))
        assert [one.logprob for one in top] == sorted((one.logprob for one in top), reverse=True)


def test_drafts_tell_what_the_plain_decode_tells() -> None:
    model = toy("llada", seed=3, sharpness=4, dtype=torch.float64)
    base, drafted = (
        unmask.generate(model, [[1, 2, 3]], method=unmask.method("fast-dllm", **options), max_new_tokens=32)[0]
        for options in ({"cache": "none"}, {"cache": "none", "draft_steps": 4})
    )
    assert drafted.forwards < base.forwards
    assert [step.confidence for step in drafted.steps] == pytest.approx([step.confidence for step in base.steps])
    assert [step.rule for step in drafted.steps] == [step.rule for step in base.steps]


def test_of_a_canvas_the_steps_are_of_its_holes() -> None:
    model = toy("llada", seed=5, sharpness=3)
    canvas = unmask.canvas([1, 2], unmask.hole(4), [3, 3], unmask.hole(9, end="early"), [5])
    (done,) = unmask.generate(model, [canvas], method="fast-dllm")
    assert done.places[:4] == [0, 1, 2, 3]
    assert all(6 <= place < 15 for place in done.places[4:])
    assert len(done.steps) == done.tokens
    assert all(0 <= step.forward < done.forwards and step.rule == "threshold" for step in done.steps)
