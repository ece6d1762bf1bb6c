"""Canvases and what is told of each token, over HTTP with the official client."""

import math
from typing import Any

import openai
import pytest

import unmask
from tests.serve.live import CHAT, QUESTION, Live
from unmask.serve.told import chat_logprobs
from unmask.view.trace import told

BEFORE, AFTER = "Mia starts with 23 apples. On Monday Mia buys 8, so", " So Mia has 31 apples. The answer is 31."


def test_a_suffix_asks_for_what_stands_between(live: Live) -> None:
    client = live.client()
    canvas = unmask.canvas(BEFORE, unmask.hole(20, end="early"), AFTER)
    (expected,) = unmask.generate(live.model, [canvas])
    asked: dict[str, Any] = {"model": "unmask-tiny", "prompt": BEFORE, "suffix": AFTER, "max_tokens": 20}
    response = client.completions.create(**asked)
    (choice,) = response.choices
    assert choice.text == expected.holes[0]
    assert choice.finish_reason == expected.finish_reason
    assert response.usage is not None
    encode = live.model.tokenizer.encode
    assert response.usage.prompt_tokens == len(encode(BEFORE)) + len(encode(AFTER))
    assert response.usage.completion_tokens == expected.tokens
    streamed = "".join(event.choices[0].text for event in client.completions.create(**asked, stream=True))
    assert streamed == choice.text
    assert client.completions.create(**{**asked, "prompt": ""}).choices[0].finish_reason in ("stop", "length")
    assert client.completions.create(**{**asked, "suffix": ""}).usage


def test_a_canvas_is_the_assistants_turn(live: Live) -> None:
    client = live.client()
    parts = ["Mia has", {"hole": 3}, " apples.", {"hole": 12, "end": "early"}]
    canvas = unmask.canvas("Mia has", unmask.hole(3), " apples.", unmask.hole(12, end="early"), chat=QUESTION)
    (expected,) = unmask.generate(live.model, [canvas])
    asked: dict[str, Any] = {"model": "unmask-tiny", "messages": CHAT, "extra_body": {"diffusion": {"canvas": parts}}}
    response = client.chat.completions.create(**asked)
    assert response.choices[0].message.content == expected.text
    streamed = [event.choices[0].delta.content or "" for event in client.chat.completions.create(**asked, stream=True)]
    assert "".join(streamed) == expected.text


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"diffusion": {"canvas": ["a", {"hole": 3}]}}, "max_tokens"),
        ({"diffusion": {"canvas": ["a", {"holes": 3}]}, "max_tokens": None}, "did you mean 'hole'"),
        ({"diffusion": {"canvas": [3]}, "max_tokens": None}, "a string, a list of token ids or a hole"),
        ({"diffusion": {"canvas": []}, "max_tokens": None}, "empty"),
        ({"diffusion": {"canvas": ["a", {"hole": 9999}]}, "max_tokens": None}, "exceed"),
        ({"diffusion": {"canvas": ["a", {"hole": 3}]}, "max_tokens": None, "stop": ["b"]}, "early"),
        ({"top_logprobs": 3}, "needs logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "20"),
        ({"suffix": "a"}, "suffix is not supported"),
    ],
)
def test_what_cannot_be_is_one_line(live: Live, fields: dict[str, Any], words: str) -> None:
    response = live.chat(**fields)
    assert response.status_code == 400
    message = response.json()["error"]["message"]
    assert words in message
    assert "\n" not in message


def test_probabilities_are_those_of_the_forward_that_committed(live: Live) -> None:
    client = live.client()
    (expected,) = unmask.generate(live.model, [QUESTION], max_new_tokens=64)
    asked: dict[str, Any] = {
        "model": "unmask-tiny",
        "messages": CHAT,
        "max_tokens": 64,
        "extra_body": {"diffusion": {"tokens": True}},
        "logprobs": True,
        "top_logprobs": 2,
    }
    response = client.chat.completions.create(**asked)
    (choice,) = response.choices
    assert choice.logprobs is not None
    content = choice.logprobs.content
    assert content is not None
    assert "".join(one.token for one in content) == choice.message.content == expected.text
    assert [one.logprob for one in content] == pytest.approx([math.log(step.confidence or 0) for step in expected.steps])
    assert all(one.top_logprobs[0].logprob == pytest.approx(one.logprob, abs=1e-4) for one in content)
    assert all(len(one.top_logprobs) == 2 for one in content)
    document = response.model_dump()["diffusion"]["tokens"]
    assert document == [told(expected, live.model.tokenizer)]
    assert [one["forward"] for one in document[0]] == [step.forward for step in expected.steps]
    streamed, text = [], ""
    for event in client.chat.completions.create(**asked, stream=True):
        text += event.choices[0].delta.content or ""
        if event.choices[0].logprobs:
            streamed += event.choices[0].logprobs.content or []
            assert text.startswith("".join(one.token for one in streamed))  # never before its text
            behind = len(text) - sum(len(one.token) for one in streamed)
            assert behind == 0 or event.choices[0].finish_reason is None
    assert [(one.token, pytest.approx(one.logprob, abs=1e-4), one.top_logprobs) for one in streamed] == [
        (one.token, one.logprob, one.top_logprobs) for one in content
    ]
    with client.chat.completions.stream(**asked) as stream:
        for _ in stream:
            pass
        whole = stream.get_final_completion().choices[0].logprobs
    assert whole is not None
    assert [one.token for one in whole.content or []] == [one.token for one in content]
    assert chat_logprobs(expected, live.model.tokenizer)["content"][0]["top_logprobs"] == []


def test_the_older_endpoint_has_its_own_form(live: Live) -> None:
    response = live.client().completions.create(model="unmask-tiny", prompt=BEFORE, max_tokens=32, logprobs=1)
    (choice,) = response.choices
    logprobs = choice.logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert "".join(logprobs.tokens) == choice.text
    assert logprobs.token_logprobs is not None
    assert logprobs.top_logprobs is not None
    assert logprobs.text_offset is not None
    for token, sure, top, offset in zip(
        logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, logprobs.text_offset, strict=True
    ):
        assert choice.text[offset:].startswith(token)
        assert max(top.values()) == pytest.approx(sure, abs=1e-4)
    stream = live.client().completions.create(model="unmask-tiny", prompt=BEFORE, max_tokens=32, logprobs=1, stream=True)
    parts = [event.choices[0].logprobs for event in stream if event.choices[0].logprobs]
    assert len(parts) > 1
    assert [token for part in parts for token in part.tokens or []] == logprobs.tokens
    assert [offset for part in parts for offset in part.text_offset or []] == logprobs.text_offset
    with pytest.raises(openai.BadRequestError, match="prompt and suffix"):
        live.client().completions.create(
            model="unmask-tiny", prompt="a", extra_body={"diffusion": {"canvas": ["a", {"hole": 3}]}}
        )
