"""The server's log: one line of JSON per request, on stderr."""

import json
import logging
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from unmask.serve.errors import shown
from unmask.serve.protocol import CLIENT_LEFT, Usage

LOG = logging.getLogger("unmask.serve")


@dataclass(kw_only=True)
class LogEntry:
    """What the log says of one request, filled in while the request is served.

    Attributes:
        request_id: as the response's header x-request-id has it.
        method, path: of HTTP.
        began: when the request came in (`time.perf_counter`).
        sent: status of the response that was begun; None: there is none.
        outcome: status that counts in its place: a stream that was begun with 200 may end with an error.
        decoding: name of the decoding method.
        usage: of a request whose choices are all complete.
    """

    request_id: str
    method: str
    path: str
    began: float = field(default_factory=time.perf_counter)
    sent: int | None = None
    outcome: int | None = None
    decoding: str | None = None
    usage: Usage | None = None

    @property
    def status(self) -> int:
        """The status that log and metrics name."""
        return self.outcome or self.sent or CLIENT_LEFT

    def write(self, seconds: float) -> None:
        """Write the line; `seconds` from the request to its last byte."""
        about: dict[str, Any] = {"request_id": self.request_id}
        about |= {"method": shown(self.method, 20), "path": shown(self.path, 200)}
        about |= {"status": self.status, "seconds": round(seconds, 4)}
        if self.usage is not None:
            about |= {"decoding": self.decoding}
            about |= self.usage.model_dump(exclude={"total_tokens", "prompt_tokens_details"})
            about |= self.usage.prompt_tokens_details.model_dump()
        LOG.info("request", extra={"about": about})

    def write_error(self, message: str) -> None:
        """Write the error that is being handled, traceback included."""
        LOG.exception(message, extra={"about": {"request_id": self.request_id}})


class JsonLines(logging.Formatter):
    """A log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Time (UTC, ISO 8601), level, message, what the record is about, and the error if there is one."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line = {"time": at, "level": record.levelname.lower(), "message": record.getMessage()}
        line |= getattr(record, "about", {})
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def log_to_stderr() -> None:
    """Write the server's log, uvicorn's errors included, to stderr as lines of JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("unmask", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    logging.getLogger("uvicorn.access").disabled = True  # this log has one line per request already
