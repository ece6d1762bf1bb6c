"""Streams: text that stays, held back where it must be, and drafts beside it on demand."""

from typing import Any

import pytest

import unmask
from tests.serve.live import CHAT, QUESTION, Live, Serving, events
from unmask.engine.engine import Limits
from unmask.models.denoiser import Denoiser


def deltas(live: Live, **fields: Any) -> tuple[list[str], str | None]:
    """The texts of a stream with the official client, and how it ended."""
    texts, reason = [], None
    for chunk in live.client().chat.completions.create(model="unmask-tiny", messages=CHAT, stream=True, **fields):
        choice = chunk.choices[0]
        assert reason is None, "something came after the end"
        if choice.delta.content:
            texts.append(choice.delta.content)
        reason = choice.finish_reason
    return texts, reason


@pytest.mark.parametrize("method", ["vanilla", "r2-dllm", "freedave", "streaming-dllm-official"])
def test_the_deltas_are_the_answer(live: Live, method: str) -> None:
    texts, reason = deltas(live, max_tokens=64, extra_body={"diffusion": {"method": method}})
    alone = unmask.generate(live.model, [QUESTION], method=method, max_new_tokens=64)[0]
    assert "".join(texts) == alone.text
    assert len(texts) > 1
    assert reason == alone.finish_reason


def test_a_stream_is_of_openais_form(live: Live) -> None:
    with (
        live.http() as client,
        client.stream(
            "POST", "/v1/chat/completions", json={"messages": CHAT, "stream": True, "stream_options": {"include_usage": True}}
        ) as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        chunks = events(response)
    assert {event["object"] for event in chunks} == {"chat.completion.chunk"}
    assert len({event["id"] for event in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["forwards"] == unmask.generate(live.model, [QUESTION])[0].forwards
    ends = [event["choices"][0]["finish_reason"] for event in chunks[:-1]]
    assert ends == [None] * (len(ends) - 1) + ["stop"]
    assert all("usage" not in event for event in chunks[:-1])


def test_a_text_completion_streams_too(live: Live) -> None:
    create, prompts = live.client().completions.create, ["Mia", "Ben has"]
    chunks = list(create(model="unmask-tiny", prompt=prompts, n=2, temperature=1.0, seed=3, max_tokens=32, stream=True))
    texts = ["".join(chunk.choices[0].text for chunk in chunks if chunk.choices[0].index == index) for index in range(4)]
    plain = create(model="unmask-tiny", prompt=prompts, n=2, temperature=1.0, seed=3, max_tokens=32)
    assert texts == [choice.text for choice in plain.choices]
    assert sum(chunk.choices[0].finish_reason is not None for chunk in chunks) == 4


def test_stop_strings_that_straddle_commits(live: Live) -> None:
    """Of every place where one delta ends and the next begins: a stop string over it ends both ways of asking alike."""
    method = {"diffusion": {"method": "vanilla"}}
    texts, _ = deltas(live, max_tokens=64, extra_body=method)
    whole, seams = "".join(texts), 0
    forwards = unmask.generate(live.model, [QUESTION], method="vanilla", max_new_tokens=64)[0].forwards
    for place in range(1, len(texts)):
        before = "".join(texts[:place])
        stop = before[-3:] + texts[place][:3]
        cut = whole[: whole.index(stop)]
        for stops in (stop, [stop], ["never said", stop, stop + "?"]):
            streamed, reason = deltas(live, max_tokens=64, stop=stops, extra_body=method)
            assert ("".join(streamed), reason) == (cut, "stop")
        plain = live.client().chat.completions.create(
            model="unmask-tiny", messages=CHAT, max_tokens=64, stop=stop, extra_body=method
        )
        assert plain.choices[0].message.content == cut
        assert plain.usage is not None
        if seams == 0:
            assert plain.usage.forwards < forwards
        seams += 1
    assert seams > 1


def test_letters_of_several_tokens_come_whole(bytewise: Denoiser, serving: Serving) -> None:
    letters = 0
    with serving(bytewise) as live:
        for first in range(10):
            body = {"prompt": [first, 1, 2], "max_tokens": 64, "stream": True, "diffusion": {"method": "vanilla"}}
            with live.http() as client, client.stream("POST", "/v1/completions", json=body) as response:
                texts = [event["choices"][0]["text"] for event in events(response)]
            alone = unmask.generate(bytewise, [[first, 1, 2]], method="vanilla", max_new_tokens=64)[0]
            assert "".join(texts) == alone.text
            letters += sum(text.count(letter) for text in texts for letter in "é€")
    assert letters > 10


def test_drafts_are_beside_the_text_and_end_in_it(live: Live) -> None:
    body = {"messages": CHAT, "max_tokens": 64, "stream": True, "diffusion": {"drafts": True}}
    with live.http() as client, client.stream("POST", "/v1/chat/completions", json=body) as response:
        chunks = events(response)
    text, forwards, drafts = "", [], 0
    for event in chunks:
        choice, draft = event["choices"][0], event.get("diffusion")
        text += choice["delta"].get("content", "")
        if draft is None:
            continue
        drafts += 1
        assert choice["delta"] == {}
        assert choice["finish_reason"] is None
        assert set(draft) == {"event", "start", "text", "masked", "forward"}
        assert draft["event"] == "draft"
        assert draft["start"] == len(text)
        assert draft["masked"] == sorted(set(draft["masked"]))
        forwards.append(draft["forward"])
    assert drafts > 1
    assert forwards == sorted(set(forwards))
    assert text == unmask.generate(live.model, [QUESTION], max_new_tokens=64)[0].text
    # A client that knows nothing of drafts sees the same stream as without them.
    texts, reason = deltas(live, max_tokens=64, extra_body={"diffusion": {"drafts": True}})
    assert ("".join(texts), reason) == (text, "stop")
    assert texts == deltas(live, max_tokens=64)[0]


@pytest.mark.parametrize("method", ["r2-dllm", "fast-dllm", "freedave"])
def test_a_trace_says_what_every_forward_did(live: Live, method: str) -> None:
    body = {"messages": CHAT, "max_tokens": 64, "stream": True, "diffusion": {"method": method, "trace": True}}
    with live.http() as client, client.stream("POST", "/v1/chat/completions", json=body) as response:
        chunks = events(response)
    steps = [event["diffusion"] for event in chunks if "diffusion" in event]
    alone = unmask.generate(live.model, [QUESTION], method=method, max_new_tokens=64)[0]
    assert [step["forward"] for step in steps] == list(range(alone.forwards))
    assert sum(step["queried"] for step in steps) == alone.query_tokens
    shown: dict[int, list[Any]] = {}
    for step in steps:
        for place, cell in enumerate(step["cells"], step["start"]):
            assert len(cell) == 3
            if place in shown and shown[place][1] is not None:
                assert cell[1] == shown[place][1], "a written place keeps its rule"
            shown[place] = cell
    rules = [cell[1] for cell in shown.values() if cell[1] is not None]
    assert len(rules) == sum(alone.commits.values())
    assert "".join(shown[place][0] for place in range(alone.tokens)) == alone.text


def test_streams_that_wait_begin_as_soon_as_there_is_room(serving: Serving, tiny: Denoiser) -> None:
    with serving(tiny, Limits(rows=1)) as live:
        create = live.client().completions.create
        streams = [create(model="unmask-tiny", prompt="Mia has 4 apples.", max_tokens=64, stream=True) for _ in range(3)]
        texts = {"".join(chunk.choices[0].text for chunk in stream) for stream in streams}
        assert len(texts) == 1
