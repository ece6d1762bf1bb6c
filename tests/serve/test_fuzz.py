"""Whatever is sent: no 500, no hang, every error in OpenAI's form, and the server idle afterwards."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.serve.live import CHAT, Live, running
from unmask.engine.engine import Limits
from unmask.methods import options
from unmask.models.denoiser import Denoiser
from unmask.serve.options import Options

PATHS = ("/v1/chat/completions", "/v1/completions")


@pytest.fixture(scope="module")
def small(tiny: Denoiser) -> Iterator[Live]:
    """A server with little memory, so that much of what is asked for has to wait or is refused."""
    with running(tiny, Limits(memory=16 * tiny.page_bytes, rows=8), Options(queue=16)) as live:
        yield live


@pytest.fixture(scope="module")
def api(small: Live) -> Any:
    return schemathesis.openapi.from_url(f"{small.url}/openapi.json")


OPERATIONS = [("POST", path) for path in PATHS] + [("GET", "/v1/models/{name}"), ("GET", "/v1/models"), ("GET", "/health")]


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_requests_of_the_schema_get_answers_of_the_schema(api: Any, method: str, path: str) -> None:
    """Found by schemathesis, without its pytest plugin, which does not know this pytest."""
    operation = api[path][method]

    @settings(max_examples=60 if method == "POST" else 5, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def test(case: schemathesis.Case) -> None:
        checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
        case.call_and_validate(checks=checks, timeout=120)

    test()


def send(live: Live, path: str, content: bytes, kind: str = "application/json") -> None:
    with live.http(**{"content-type": kind}) as client:
        response = client.post(path, content=content)
    assert response.status_code in (200, 400, 404, 413, 429)
    if response.status_code != 200:
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
        assert "\n" not in error["message"]


HOSTILE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([2**31, 2**63 - 1, 2**63, 2**64])
    | st.floats()
    | st.sampled_from(
        ["", " ", "\0", "a\0b", "\ud800", "\u202e", "<|mask|>", "<|eos|>", "é" * 50, "x" * 5000, "user", "vanilla"]
    ),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "\0"]), inner)
    ),
    max_leaves=8,
)
FIELDS = ["messages", "prompt", "model", "max_tokens", "temperature", "top_p", "n", "seed", "stop", "stream", "stream_options"]
FIELDS += ["diffusion", "logprobs", "tools", "user", "nonsense"]


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(path=st.sampled_from(PATHS), fields=st.dictionaries(st.sampled_from(FIELDS), HOSTILE, max_size=3))
def test_hostile_values_in_any_field(small: Live, path: str, fields: dict[str, Any]) -> None:
    sound = {"messages": CHAT} if "chat" in path else {"prompt": "Mia"}
    send(small, path, json.dumps({**sound, "max_tokens": 32, **fields}).encode())
    assert small.is_idle()


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(["method", "drafts", "trace", "\0", *options("r2-dllm"), *options("vanilla")]),
    value=HOSTILE,
)
def test_hostile_settings_of_a_method(small: Live, name: str, value: Any) -> None:
    send(small, PATHS[0], json.dumps({"messages": CHAT, "max_tokens": 32, "diffusion": {name: value}}).encode())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe\x00",
        b'{"messages": NaN}',
        b'{"messages": 1e999}',
        b'{"max_tokens": ' + b"9" * 6000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
        b'{"messages": [], "messages": [{"role": "user", "content": "Mia"}], "n": 1, "n": 2, "max_tokens": 32}',
        b'{"messages": "' + b"x" * (10 * 2**20) + b'"}',
    ],
    ids=lambda content: f"{content[:16]!r} of {len(content)}",
)
@pytest.mark.parametrize("kind", ["application/json", "text/plain", "multipart/form-data", "nonsense"])
def test_bodies_that_are_none(small: Live, content: bytes, kind: str) -> None:
    for path in PATHS:
        send(small, path, content, kind)
    assert small.is_idle()


def test_afterwards_it_is_as_good_as_new(small: Live) -> None:
    small.wait_until_idle()
    assert small.chat().status_code == 200
    with small.http() as client:
        assert client.get("/health").json()["status"] == "ready"
