"""What a stream with a trace tells of every forward adds up to the answer, whatever the method and however odd the text."""

import json
from typing import Any

import pytest

import unmask
from tests.serve.live import CHAT, QUESTION
from unmask.engine.engine import Engine
from unmask.engine.generate import make_request
from unmask.engine.request import Completion
from unmask.methods import TABLE
from unmask.methods.table import looks
from unmask.serve.log import LogEntry
from unmask.serve.protocol import ChatRequest
from unmask.serve.requests import ApiRequest
from unmask.serve.stream import EventStream
from unmask.view.text import pieces

MODEL = unmask.load("unmask-tiny")


def watched(**chosen: Any) -> tuple[list[dict[str, Any]], Completion]:
    """The steps of one answer as a client reads them, and the answer."""
    choice = make_request(MODEL, QUESTION, **{"max_new_tokens": 64, **chosen})
    request = ApiRequest(
        body=ChatRequest.model_validate({"messages": CHAT, "diffusion": {"trace": True}}),
        model="unmask-tiny",
        choices=[choice],
        prompt_tokens=len(choice.prompt),
        log=LogEntry(request_id="test", method="POST", path="/v1/chat/completions"),
    )
    stream, engine, steps = EventStream(request, MODEL), Engine(MODEL), []
    engine.submit(choice, watch=stream.watch)
    while True:
        for progress in engine.step():
            events = [json.loads(event.removeprefix("data: ")) for event in stream.events_for(0, progress)]
            steps += [event["diffusion"] for event in events if "diffusion" in event]
            if progress.completion is not None:
                return steps, progress.completion


def kept(steps: list[dict[str, Any]]) -> dict[int, tuple[str, str | None]]:
    """Text and rule of every place after these steps, later ones over earlier ones."""
    return {place: (text, rule) for step in steps for place, (text, rule, _) in enumerate(step["cells"], step["start"])}


@pytest.mark.parametrize("name", TABLE)
def test_steps_add_up_to_the_answer(name: str) -> None:
    steps, done = watched(method=name)
    assert [step["forward"] for step in steps] == list(range(done.forwards))
    places = kept(steps)
    assert list(places) == list(range(len(places)))
    assert "".join(places[place][0] for place in range(done.tokens)) == done.text
    assert {rule for place, (_, rule) in places.items() if place < done.tokens} <= set(looks())


@pytest.mark.parametrize("seed", range(4))
def test_characters_that_straddle_blocks_are_told_once(seed: int) -> None:
    """Hot samples of a model that writes bytes are full of characters cut in two."""
    steps, done = watched(method=unmask.method("vanilla", block_length=4), max_new_tokens=32, temperature=30.0, seed=seed)
    assert "\ufffd" in done.text
    assert [text for text, _ in kept(steps).values()] == pieces(MODEL.tokenizer, done.token_ids)


def test_a_checked_draft_has_no_confidence_to_tell() -> None:
    steps, _ = watched(method="freedave")
    commits = [[cell for cell in step["cells"] if cell[1] is not None and cell[2] is not None] for step in steps]
    several = [step for step, sure in zip(steps, commits, strict=True) if not step["refresh"] and len(sure) > 1]
    assert not several
    assert any(commits)
