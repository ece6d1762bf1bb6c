"""What a server refuses, and how it says so: one line in OpenAI's form that names what was wrong."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

import unmask
from tests.serve.live import CHAT, Live, Serving
from unmask.engine.engine import Limits
from unmask.models.denoiser import Denoiser
from unmask.serve.options import Options

PARTS = [{"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}}]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"temprature": 1.0}, "temprature", "temprature is not supported: did you mean 'temperature'?"),
        ({"temperature": 2.5}, "temperature", "less than or equal to 2"),
        ({"temperature": -0.1}, "temperature", "greater than or equal to 0"),
        ({"temperature": "hot"}, "temperature", "valid number"),
        ({"temperature": True}, "temperature", "valid number"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"top_p": 1.5}, "top_p", "less than or equal to 1"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 12.5}, "max_tokens", "valid integer"),
        ({"max_tokens": 1024}, "messages", "exceed the model's 512"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 129}, "n", "less than or equal to 128"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
        ({"seed": 2**70}, "seed", "less than"),
        ({"stop": ""}, "stop", "at least 1 character"),
        ({"stop": ["a", ""]}, "stop[1]", "at least 1 character"),
        ({"stop": 7}, "stop", "valid string"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "not supported: leave it out"),
        ({"store": True}, "store", "not supported: leave it out"),
        ({"response_format": {"type": "xml"}}, "response_format", "json_object"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "required"),
        ({"stream_options": {"include_usage": True, "every": 2}}, "stream_options.every", "not supported"),
        ({"messages": []}, "messages", "at least 1 item"),
        ({"messages": None}, "messages", "required"),
        ({"messages": [{"role": "user", "content": " "}]}, None, "the chat holds no text"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "'user'"),
        ({"messages": [{"role": "user", "content": PARTS}]}, "messages[0].content[0].type", "'text'"),
        ({"messages": [{"role": "user", "content": "Mia\ud800"}]}, "body", "half of a surrogate pair"),
        ({"diffusion": {"method": "\udfff"}}, "body", "half of a surrogate pair"),
        ({"messages": [{"role": "user", "content": "a <|mask|> b"}]}, None, "mask id"),
        ({"diffusion": {"method": "r2dllm"}}, "diffusion", "did you mean 'r2-dllm'?"),
        ({"diffusion": {"method": "settings.yaml"}}, "diffusion", "unknown method"),
        ({"diffusion": {"treshold": 0.5}}, "diffusion", "did you mean 'threshold'?"),
        ({"diffusion": {"threshold": 7}}, "diffusion", "from 0 to 1"),
        ({"diffusion": {"method": {"commit": {"rule": "luck"}}}}, "diffusion", "unknown commit rule 'luck'"),
        ({"diffusion": {"method": {}, "cache": "dual"}}, "diffusion", "diffusion.cache: put it into diffusion.method"),
        ({"diffusion": {"drafts": "yes"}}, "diffusion.drafts", "valid boolean"),
        ({"diffusion": []}, "diffusion", "valid dictionary"),
    ],
)
def test_a_bad_field_is_a_400_that_names_it(live: Live, fields: dict[str, Any], param: str | None, words: str) -> None:
    response = live.chat(**fields)
    assert response.status_code == 400
    error = response.json()["error"]
    assert words in error["message"]
    assert "\n" not in error["message"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert live.is_idle()


@pytest.mark.parametrize("kind", [None, "application/x-www-form-urlencoded", "text/plain"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_body_without_jsons_content_type_names_the_right_one(live: Live, path: str, kind: str | None) -> None:
    """As of a plain `curl -d`."""
    with live.http(**({} if kind is None else {"content-type": kind})) as client:
        response = client.post(path, content=json.dumps({"messages": CHAT}).encode())
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["message"] == "the body was not sent as JSON: send content-type: application/json"
    assert (error["type"], error["param"]) == ("invalid_request_error", "body")


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"7", b'"Mia"'])
def test_a_body_that_is_no_object_says_so(live: Live, content: bytes) -> None:
    with live.http(**{"content-type": "application/json"}) as client:
        response = client.post("/v1/completions", content=content)
    assert (response.status_code, response.json()["error"]["message"]) == (400, "the body must be a JSON object")


def test_what_asks_for_nothing_is_let_through(live: Live) -> None:
    nothing = {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "logprobs": False, "tools": [], "user": "me"}
    assert live.chat(**nothing, response_format={"type": "text"}).json()["choices"] == live.chat().json()["choices"]


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/v1/chat/completions", 405, "/v1/chat/completions does not take GET"),
        ("POST", "/v1/embeddings", 404, "there is no /v1/embeddings here"),
        ("GET", "/v1/models/gpt-4o", 404, "no model 'gpt-4o' here"),
    ],
)
def test_paths_that_are_not_there(live: Live, method: str, path: str, status: int, words: str) -> None:
    with live.http() as client:
        response = client.request(method, path, json={} if method == "POST" else None)
    assert response.status_code == status
    assert words in response.json()["error"]["message"]


def test_a_key_opens_the_api_and_nothing_else_needs_one(serving: Serving, tiny: Denoiser) -> None:
    with serving(tiny, options=Options(api_keys=("first", "second"))) as live:
        for key in ("first", "second"):
            assert live.client(key).models.list().data
        for key in ("third", "firs", "first first"):
            with live.http(authorization=f"Bearer {key}") as client:
                response = client.get("/v1/models")
            assert response.status_code == 401
            assert response.json()["error"]["code"] == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError, match="Authorization: Bearer KEY"):
            live.client("third").chat.completions.create(model="unmask-tiny", messages=CHAT)
        with live.http() as client:
            assert [client.get(path).status_code for path in ("/", "/health", "/metrics", "/v1/models")] == [200, 200, 200, 401]


def test_a_large_body_is_refused_whether_it_says_so_or_not(serving: Serving, tiny: Denoiser) -> None:
    with serving(tiny, options=Options(body_bytes=1000)) as live, live.http() as client:
        body = json.dumps({"messages": [{"role": "user", "content": "x" * 2000}]}).encode()
        for content in (body, iter([body[:500], body[500:]])):
            response = client.post("/v1/chat/completions", content=content, headers={"content-type": "application/json"})
            assert response.status_code == 413
            assert "larger than the 1000 bytes" in response.json()["error"]["message"]
        assert live.chat().status_code == 200


def test_a_body_that_does_not_come_is_given_up(serving: Serving, tiny: Denoiser) -> None:
    def slowly() -> Any:
        yield b'{"messages": '
        time.sleep(1.0)
        yield b"[]}"

    with serving(tiny, options=Options(seconds=0.3)) as live, live.http() as client:
        response = client.post("/v1/chat/completions", content=slowly(), headers={"content-type": "application/json"})
        assert response.status_code == 408
        assert "not complete after 0.3 seconds" in response.json()["error"]["message"]


def test_a_full_queue_tells_when_to_come_back_and_clients_do(serving: Serving, tiny: Denoiser) -> None:
    with serving(tiny, Limits(rows=1), Options(queue=2)) as live:
        body = {"max_tokens": 64, "diffusion": {"method": "vanilla"}}
        with ThreadPoolExecutor(8) as pool:
            responses = list(pool.map(lambda _: live.chat(**body), range(8)))
        refused = [response for response in responses if response.status_code == 429]
        assert {response.status_code for response in responses} == {200, 429}
        for response in refused:
            assert int(response.headers["retry-after"]) >= 1
            assert response.json()["error"]["code"] == "queue_full"
        assert (
            len({response.json()["choices"][0]["message"]["content"] for response in responses if response not in refused}) == 1
        )

        def patiently(_: int) -> Any:
            return live.client(retries=10).chat.completions.create(
                model="unmask-tiny", messages=CHAT, max_tokens=32, extra_body={"diffusion": {"method": "vanilla"}}
            )

        with ThreadPoolExecutor(5) as pool:
            assert len(list(pool.map(patiently, range(5)))) == 5
        response = live.chat(n=3)
        assert response.status_code == 400
        assert "3 choices at once: this server takes up to 2" in response.json()["error"]["message"]


def test_what_takes_too_long_is_ended_and_freed(serving: Serving, tiny: Denoiser) -> None:
    body = {"messages": CHAT, "max_tokens": 384, "diffusion": {"method": "vanilla", "cache": "none"}}
    with serving(tiny, options=Options(seconds=0.25)) as live, live.http() as client:
        response = client.post("/v1/chat/completions", json=body)
        assert response.status_code == 504
        assert "longer than 0.25 seconds" in response.json()["error"]["message"]
        live.wait_until_idle()
        with client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as stream:
            assert stream.status_code == 200
            lines = [line for line in stream.iter_lines() if line]
        assert "longer than 0.25 seconds" in json.loads(lines[-1].removeprefix("data: "))["error"]["message"]
        live.wait_until_idle()


def test_what_can_never_fit_is_refused_and_what_cannot_yet_waits(serving: Serving, tiny: Denoiser) -> None:
    with serving(tiny, Limits(memory=8 * tiny.page_bytes)) as live:  # 128 tokens
        response = live.chat(max_tokens=128)
        assert response.status_code == 400
        assert "the engine's holds 128" in response.json()["error"]["message"]
        with ThreadPoolExecutor(6) as pool:
            answers = [response.json() for response in pool.map(lambda _: live.chat(max_tokens=64), range(6))]
        alone = unmask.generate(tiny, [CHAT[0]["content"]], max_new_tokens=64)[0]
        assert [one["choices"][0]["message"]["content"] for one in answers] == [alone.text] * 6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"queue": 0}, "queue must be a whole number"),
        ({"seconds": 0}, "seconds must be more than 0"),
        ({"method": "r2dllm"}, "did you mean 'r2-dllm'"),
        ({"method": "r2-dllm", "settings": {"treshold": 1}}, "did you mean 'threshold'"),
        ({"api_keys": ("",)}, "API key is empty"),
    ],
)
def test_a_server_says_at_its_start_what_is_wrong(options: dict[str, Any], words: str) -> None:
    with pytest.raises(unmask.ConfigError, match=words):
        Options(**options)


def test_settings_of_the_models_own_method_are_checked_with_the_model(tiny: Denoiser) -> None:
    with pytest.raises(unmask.ConfigError, match="did you mean 'threshold'"):
        Options(settings={"treshold": 1}).of(tiny)
