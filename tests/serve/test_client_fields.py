"""What clients of OpenAI, vLLM and others send by default changes nothing, so it is let through."""

from typing import Any

import pytest
from pydantic import ValidationError

from tests.serve.live import CHAT, Live
from unmask.serve.protocol import ChatRequest, CompletionRequest

NOTHING: list[dict[str, Any]] = [
    {"top_logprobs": None, "prediction": None, "web_search_options": None, "modalities": None},
    {"top_logprobs": 0, "logprobs": False, "tool_choice": "auto", "tools": [], "reasoning_effort": None},
    {"min_p": 0, "repetition_penalty": 1.0, "ignore_eos": False, "stop_token_ids": [], "top_k": -1},
    {"min_p": 0.0, "repetition_penalty": 1, "top_k": 0, "length_penalty": 1.0, "min_tokens": 0, "use_beam_search": False},
    {"a_field_of_next_year": None, "diffusion": None, "stream_options": None},
    {"stream_options": {"include_usage": None, "continuous_usage_stats": False, "include_obfuscation": None}},
    {"max_tokens": 32.0, "n": 1.0, "seed": None, "user": "me", "metadata": {"a": "b"}},
]


@pytest.mark.parametrize("fields", NOTHING)
def test_a_field_that_says_nothing_changes_nothing(fields: dict[str, Any]) -> None:
    given = {"messages": CHAT, "max_tokens": 32, **fields}
    body = ChatRequest.model_validate(given)
    assert body.max_tokens == 32
    assert CompletionRequest.model_validate({**given, "prompt": "Mia", "messages": None}).max_tokens == 32


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "user", "content": "Hi", "name": "ann"},
        {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]},
        {"role": "user", "content": "Hi", "cache_control": {"type": "ephemeral"}, "tool_calls": [], "reasoning_content": None},
        {"role": "assistant", "content": "Hi", "annotations": [], "refusal": None, "audio": None, "reasoning": ""},
    ],
)
def test_a_turn_with_more_than_its_text_reads_the_same(turn: dict[str, Any]) -> None:
    assert ChatRequest.model_validate({"messages": [turn]}).messages[0].text == "Hi"


def test_a_silent_turn_of_the_assistant_is_an_empty_one() -> None:
    turns = [{"role": "assistant", "content": None}, {"role": "user", "content": "Hi"}]
    assert [message.text for message in ChatRequest.model_validate({"messages": turns}).messages] == ["", "Hi"]


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": None}]},
        {"messages": [{"role": "user", "content": "Hi", "tool_calls": [{"id": "1"}]}]},
        {"messages": [{"role": "user", "content": "Hi", "reasoning_content": "thought"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi", "bold": True}]}]},
        {"min_p": 0.1},
        {"repetition_penalty": 1.1},
        {"ignore_eos": True},
        {"stop_token_ids": [5]},
        {"top_logprobs": 3},
        {"logprobs": 0},
        {"top_k": -2},
        {"tool_choice": "auto", "tools": [{"type": "function"}]},
        {"max_tokens": 64.5},
    ],
)
def test_a_field_that_asks_for_something_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ChatRequest.model_validate({"messages": CHAT, **fields})


def test_the_server_takes_them_and_top_k_is_obeyed(live: Live) -> None:
    plain = live.chat().json()["choices"]
    assert live.chat(**{name: value for fields in NOTHING for name, value in fields.items()}).json()["choices"] == plain
    assert live.chat(messages=[{**CHAT[0], "name": "ann"}]).json()["choices"] == plain
    greedy = live.chat(top_k=1, temperature=2.0, seed=1)
    assert greedy.json()["diffusion"]["settings"]["top_k"] == 1
    sampled = [live.chat(top_k=size, temperature=2.0, seed=1).json()["choices"] for size in (None, 0, -1)]
    assert sampled[0] == sampled[1] == sampled[2]


def test_a_field_inside_a_turn_gets_no_hint_of_another_kind(live: Live) -> None:
    message = live.chat(messages=[{**CHAT[0], "names": "ann"}]).json()["error"]["message"]
    assert message == "messages[0].names is not supported: leave it out"
