"""Errors as responses of OpenAI's form: {"error": {"message", "type", "param", "code"}}."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from unmask.errors import ConfigError, LogitsError, PromptTooLong, UnmaskError
from unmask.serve.protocol import (
    BAD_REQUEST,
    SERVER,
    UNSUPPORTED,
    Body,
    ChatRequest,
    CompletionRequest,
    ErrorDetail,
    ErrorResponse,
)

_BODIES: dict[str, type[Body]] = {"/v1/chat/completions": ChatRequest, "/v1/completions": CompletionRequest}


class QueueFull(Exception):
    """So many choices wait that one more would wait too long; the client may try again after `seconds`."""

    def __init__(self, waiting: int, seconds: int) -> None:
        super().__init__(f"{waiting} answers wait already: try again in about {seconds} seconds")
        self.seconds = seconds


class TimeLimitExceeded(Exception):
    """A request took longer than the server allows."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the request took longer than {seconds:g} seconds")


def error_response(
    status: int,
    message: str,
    *,
    kind: str,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """The response for an error.

    Args:
        status: of HTTP.
        message: one line that says what was wrong and what would be right.
        kind: OpenAI's `type` of the error.
        param: the field of the body that it is about.
        code: OpenAI's name for the error, if it has one.
        headers: of the response.
    """
    error = ErrorDetail(message=shown(message), type=kind, param=param and shown(param, 100), code=code)
    return JSONResponse(ErrorResponse(error=error).model_dump(), status, headers=dict(headers or {}))


def shown(text: str, most: int = 600) -> str:
    r"""A text that quotes what a client sent, as it may stand in an error or the log: short, its invisible marks spelt out.

    >>> shown("unknown method '" + "x" * 1000 + "'", 40)
    "unknown method 'xx ... xxxxxxxxxxxxxxxx'"
    >>> print(shown("a\u202eb"))
    a\u202eb
    """
    half = (most - 5) // 2
    cut = text if len(text) <= most else f"{text[: most - 5 - half]} ... {text[-half:]}"
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in cut)


# --- handlers of exceptions --------------------------------------------------------------------------------------


def add_error_handlers(app: FastAPI) -> None:
    """Give every exception that an endpoint may raise its response."""
    handlers: dict[type[Exception], Callable[[Request, Any], JSONResponse]] = {
        RequestValidationError: _invalid_body,
        HTTPException: _http_error,
        UnmaskError: _refusal,
        LogitsError: _no_numbers,
        QueueFull: _queue_full,
        TimeLimitExceeded: _time_limit_exceeded,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def _invalid_body(request: Request, error: RequestValidationError) -> JSONResponse:
    message, param = complaint(error.errors(), list(_BODIES.get(request.url.path, ChatRequest).model_fields))
    return error_response(400, message, kind=BAD_REQUEST, param=param)


def _http_error(request: Request, error: HTTPException) -> JSONResponse:
    kind = BAD_REQUEST if error.status_code < 500 else SERVER
    text = {404: f"there is no {request.url.path} here", 405: f"{request.url.path} does not take {request.method}"}
    standard = {404: "Not Found", 405: "Method Not Allowed"}.get(error.status_code)
    message = text[error.status_code] if error.detail == standard else str(error.detail)
    code = "model_not_found" if error.status_code == 404 and error.detail != standard else None
    return error_response(error.status_code, message, kind=kind, code=code, headers=error.headers)


def _refusal(request: Request, error: UnmaskError) -> JSONResponse:
    too_long = isinstance(error, PromptTooLong)
    prompt = "messages" if _BODIES.get(request.url.path) is ChatRequest else "prompt"
    param = "diffusion" if isinstance(error, ConfigError) else prompt if too_long else getattr(error, "param", None)
    code = "context_length_exceeded" if too_long else None
    return error_response(400, str(error), kind=BAD_REQUEST, param=param, code=code)


def _no_numbers(request: Request, error: LogitsError) -> JSONResponse:
    return error_response(500, str(error), kind=SERVER, code="no_numbers")


def _queue_full(request: Request, error: QueueFull) -> JSONResponse:
    headers = {"retry-after": str(error.seconds)}
    return error_response(429, str(error), kind="rate_limit_error", code="queue_full", headers=headers)


def _time_limit_exceeded(request: Request, error: TimeLimitExceeded) -> JSONResponse:
    return error_response(504, str(error), kind=SERVER, code="timeout")


# --- a body that is not of its schema ----------------------------------------------------------------------------


def complaint(errors: Sequence[Mapping[str, Any]], known: Sequence[str]) -> tuple[str, str]:
    """One line about a body that is not of its schema, and the field that the line is about.

    Args:
        errors: pydantic's, of which the first is reported.
        known: names of the body's fields.

    >>> complaint([{"type": "extra_forbidden", "loc": ("body", "temprature"), "msg": ""}], ["temperature"])
    ("temprature is not supported: did you mean 'temperature'?", 'temprature')
    >>> complaint([{"type": "extra_forbidden", "loc": ("body", "logprobs"), "msg": ""}], ["temperature"])
    ('logprobs is not supported: leave it out', 'logprobs')
    >>> complaint([{"type": "model_attributes_type", "loc": ("body",), "msg": "", "input": b'{"prompt": ""}'}], [])
    ('the body was not sent as JSON: send content-type: application/json', 'body')
    """
    error = errors[0]
    field = where(error["loc"])
    if error["type"] == "json_invalid":
        return "the body is not valid JSON", "body"
    if error["type"] == "extra_forbidden":
        # Only a field of the body itself can be a misspelt one of its fields.
        close = difflib.get_close_matches(field, known, n=1) if field not in UNSUPPORTED and "." not in field else []
        return f"{field} is not supported: {f'did you mean {close[0]!r}?' if close else 'leave it out'}", field
    if field == "body" and isinstance(error.get("input"), bytes):  # FastAPI leaves a body of another type as it is
        return "the body was not sent as JSON: send content-type: application/json", field
    if field == "body" and error["type"] in ("missing", "model_attributes_type"):
        return "the body must be a JSON object", field
    said = error["msg"].removeprefix("Value error, ")
    return f"{field or 'the body'}: {said[0].lower()}{said[1:]}", field or "body"


def where(path: Sequence[str | int]) -> str:
    """An error's path as one would write it.

    >>> where(("body", "messages", 0, "content", ":many", 1, "type"))
    'messages[0].content[1].type'
    """
    steps = [step for step in path if isinstance(step, int) or not step.startswith(":")]
    steps = steps[1:] if steps[:1] == ["body"] and len(steps) > 1 else steps
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")
