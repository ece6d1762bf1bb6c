"""Every choice counts from its admission to its completion, wherever the request ends."""

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.engine.request import Request
from unmask.methods import load
from unmask.serve.admission import Admission
from unmask.serve.errors import QueueFull
from unmask.serve.log import LogEntry
from unmask.serve.protocol import CompletionRequest
from unmask.serve.requests import ApiRequest

CHOICE = Request(prompt=(1, 2), method=load("vanilla"))


def request(choices: int = 1) -> ApiRequest:
    return ApiRequest(
        body=CompletionRequest(prompt="Mia"),
        model="toy",
        choices=[CHOICE] * choices,
        prompt_tokens=2,
        log=LogEntry(request_id="test", method="POST", path="/v1/completions"),
    )


def test_choices_count_from_admission_to_completion() -> None:
    admission, one = Admission(limit=4), request(choices=3)
    admission.admit(one, running=0)
    assert (admission.open, admission.waiting(running=0), admission.waiting(running=2)) == (3, 3, 1)
    with admission.held(one):
        admission.complete(one)
        assert admission.open == 2
    assert admission.open == 0


def test_a_choice_too_many_is_refused_and_not_counted() -> None:
    admission, first = Admission(limit=3), request(choices=2)
    admission.admit(first, running=0)
    with pytest.raises(QueueFull, match="2 answers wait already: try again in about 1 seconds"):
        admission.admit(request(choices=2), running=0)
    assert admission.open == 2
    assert not admission.is_full(running=0)
    admission.admit(second := request(), running=0)
    assert admission.is_full(running=0)
    assert not admission.is_full(running=1)
    del second


def test_how_long_to_wait_follows_the_completions() -> None:
    admission, one = Admission(limit=1), request()
    admission.admit(one, running=0)
    for _ in range(100):
        admission.took(30.0)
    with pytest.raises(QueueFull) as full:
        admission.admit(request(), running=0)
    assert full.value.seconds == 30


def test_a_request_that_is_given_up_before_its_first_progress_leaves_with_its_last_reference() -> None:
    admission, one = Admission(limit=1), request()
    admission.admit(one, running=0)
    del one
    gc.collect()
    assert admission.open == 0


@given(st.lists(st.integers(1, 4), max_size=20))
def test_never_more_wait_than_the_limit(sizes: list[int]) -> None:
    admission, kept = Admission(limit=8), []
    for size in sizes:
        one = request(size)
        try:
            admission.admit(one, running=0)
            kept.append(one)
        except QueueFull:
            assert admission.open + size > 8
        assert admission.open == sum(len(each.choices) for each in kept) <= 8
