"""Answers that are held to a format, with the official client: response_format, tools, regex and choice, streamed and whole."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import pytest

from tests.serve.live import CHAT, Live

SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "integer"}, "sure": {"type": "boolean"}},
    "required": ["answer", "sure"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA}}
TOOL = {"type": "function", "function": {"name": "add", "description": "Add.", "parameters": SCHEMA}}


def create(live: Live, **fields: Any) -> Any:
    return live.client().chat.completions.create(model="unmask-tiny", messages=CHAT, max_tokens=64, **fields)


def test_an_answer_is_json_of_the_schema(live: Live) -> None:
    for temperature in (0.0, 1.0):
        choice = create(live, response_format=FORMAT, temperature=temperature, seed=1).choices[0]
        jsonschema.validate(json.loads(choice.message.content), SCHEMA)
        assert choice.finish_reason == "stop"
    choice = create(live, response_format={"type": "json_object"}, extra_body={"diffusion": {"depth": 1}}).choices[0]
    assert isinstance(json.loads(choice.message.content), dict)


def test_regex_and_choice(live: Live) -> None:
    pattern = r"(.|\n)*The answer is [0-9]+\."
    text = create(live, extra_body={"diffusion": {"regex": pattern}}).choices[0].message.content
    assert re.fullmatch(pattern, text)
    text = create(live, extra_body={"diffusion": {"choice": ["Tom", "Mia"]}}).choices[0].message.content
    assert text in ("Tom", "Mia")
    done = live.client().completions.create(
        model="unmask-tiny", prompt=["Mia", "Ben has"], max_tokens=32, n=2, extra_body={"diffusion": {"regex": "[a-z ]+"}}
    )
    assert all(re.fullmatch("[a-z ]+", choice.text) for choice in done.choices)


def test_a_tool_is_called(live: Live) -> None:
    for chosen in ("required", {"type": "function", "function": {"name": "add"}}):
        choice = create(live, tools=[TOOL], tool_choice=chosen).choices[0]
        (call,) = choice.message.tool_calls
        assert (choice.finish_reason, choice.message.content, call.function.name) == ("tool_calls", None, "add")
        jsonschema.validate(json.loads(call.function.arguments), SCHEMA)
    for fields in ({}, {"tool_choice": "auto"}, {"tool_choice": "none"}):  # the model may write text, or must
        choice = create(live, tools=[TOOL], **fields).choices[0]
        assert choice.message.tool_calls is None
        assert choice.message.content
    assert "tool_calls" not in live.chat().json()["choices"][0]["message"]


def test_a_call_is_streamed_as_the_official_client_reads_it(live: Live) -> None:
    for fields in ({"tools": [TOOL], "tool_choice": "required"}, {"response_format": FORMAT}):
        with live.client().chat.completions.stream(model="unmask-tiny", messages=CHAT, max_tokens=64, **fields) as stream:  # type: ignore[arg-type]
            for _ in stream:
                pass
            choice = stream.get_final_completion().choices[0]
        text = choice.message.tool_calls[0].function.arguments if "tools" in fields else choice.message.content
        jsonschema.validate(json.loads(text or ""), SCHEMA)
        assert choice.finish_reason == ("tool_calls" if "tools" in fields else "stop")


def test_the_calls_and_results_of_a_chat_may_be_sent_back(live: Live) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    turns = [*CHAT, {"role": "assistant", "content": None, "tool_calls": [call]}, *CHAT]
    assert live.chat(messages=turns).status_code == 200


def test_grammars_are_counted_by_their_kind(live: Live) -> None:
    def counted(name: str) -> float:
        with live.http() as http:
            lines = http.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    names = ['unmask_grammars_total{kind="json_schema"}', "unmask_grammar_seconds_count"]
    before = [counted(name) for name in names]
    create(live, response_format=FORMAT)
    create(live)
    assert [counted(name) for name in names] == [count + 1 for count in before]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"not": {}}}}},
            "at $: not is not supported",
        ),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}}, "pattern"),
        ({"response_format": FORMAT, "max_tokens": 4}, "needs at least"),
        ({"response_format": FORMAT, "stop": "x"}, "stop strings"),
        ({"response_format": FORMAT, "diffusion": {"regex": "a"}}, "one of them"),
        ({"diffusion": {"regex": "a(b"}}, "a ( is not closed"),
        ({"diffusion": {"regex": "a", "depth": 2}}, "diffusion.depth means nothing"),
        ({"diffusion": {"choice": ["a"]}}, "at least two"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "sub"}}}, "no tool 'sub'"),
        ({"tool_choice": "required"}, "tool_choice needs tools"),
        ({"messages": [{"role": "user", "content": None}]}, "content is missing"),
    ],
)
def test_what_cannot_be_held_is_a_400_of_one_line(live: Live, fields: dict[str, Any], words: str) -> None:
    response = live.chat(**fields)
    assert response.status_code == 400
    message = response.json()["error"]["message"]
    assert words in message
    assert "\n" not in message


def test_many_clients_with_mixed_constraints(live: Live) -> None:
    kinds: list[dict[str, Any]] = [{}, {"response_format": FORMAT}, {"extra_body": {"diffusion": {"regex": "[a-z ]{5,40}[.]"}}}]

    def ask(number: int) -> tuple[int, str]:
        client = live.client(retries=5)
        made = client.chat.completions.create(
            model="unmask-tiny", messages=CHAT, max_tokens=32, temperature=number % 2, seed=number, **kinds[number % 3]
        )
        return number % 3, made.choices[0].message.content or ""

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(ask, range(64)))
    for kind, text in answers:
        if kind == 1:
            jsonschema.validate(json.loads(text), SCHEMA)
        if kind == 2:
            assert re.fullmatch("[a-z ]{5,40}[.]", text)
    live.wait_until_idle()
