"""A request's line in the log: which status counts, and which fields it has in which order."""

import json
import logging

import pytest

from unmask.serve.log import JsonLines, LogEntry
from unmask.serve.protocol import CLIENT_LEFT, Usage

USAGE = Usage(prompt_tokens=7, completion_tokens=12, total_tokens=19, forwards=4, tokens_per_forward=3.0)


def entry() -> LogEntry:
    return LogEntry(request_id="mine-1", method="POST", path="/v1/completions")


@pytest.mark.parametrize(
    ("sent", "outcome", "status"),
    [(None, None, CLIENT_LEFT), (200, None, 200), (200, 504, 504), (200, CLIENT_LEFT, CLIENT_LEFT), (400, None, 400)],
)
def test_an_outcome_counts_more_than_what_was_sent(sent: int | None, outcome: int | None, status: int) -> None:
    log = entry()
    log.sent, log.outcome = sent, outcome
    assert log.status == status


def test_fields_of_a_line(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("unmask"), "propagate", True)
    log = entry()
    with caplog.at_level(logging.INFO, "unmask.serve"):
        log.write(0.123456)
        log.sent, log.decoding, log.usage = 200, "vanilla", USAGE
        log.write(0.5)
    first, second = (json.loads(JsonLines().format(record)) for record in caplog.records)
    begin = ["time", "level", "message", "request_id", "method", "path", "status", "seconds"]
    assert list(first) == begin
    assert (first["status"], first["seconds"]) == (CLIENT_LEFT, 0.1235)
    usage = ["prompt_tokens", "completion_tokens", "forwards", "tokens_per_forward", "cached_tokens"]
    assert list(second) == [*begin, "decoding", *usage]
    assert (second["status"], second["decoding"], second["tokens_per_forward"]) == (200, "vanilla", 3.0)


def test_an_error_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "unmask.serve"):
        try:
            raise MemoryError("too much")
        except MemoryError:
            entry().write_error("a request failed")
    (line,) = (json.loads(JsonLines().format(record)) for record in caplog.records)
    assert (line["level"], line["message"], line["request_id"]) == ("error", "a request failed", "mine-1")
    assert line["error"].endswith("MemoryError: too much")
