"""Errors as OpenAI's clients read them: {"error": {"message", "type", "param", "code"}}."""

from collections.abc import Mapping

from starlette.responses import JSONResponse

from unmask.errors import ConfigError, PromptTooLong, UnmaskError
from unmask.serve.protocol import BAD_REQUEST, Problem, ProblemAnswer


def problem(
    status: int,
    message: str,
    *,
    kind: str,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """The response that tells of an error."""
    told = ProblemAnswer(error=Problem(message=message, type=kind, param=param, code=code))
    return JSONResponse(told.model_dump(), status, headers=dict(headers or {}))


def refused(error: UnmaskError, asked: str) -> JSONResponse:
    """What the engine says about a request that it cannot answer, whose prompt stands in the field `asked`: a 400."""
    too_long = isinstance(error, PromptTooLong)
    param = "diffusion" if isinstance(error, ConfigError) else asked if too_long else None
    return problem(400, str(error), kind=BAD_REQUEST, param=param, code="context_length_exceeded" if too_long else None)
