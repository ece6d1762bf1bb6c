"""The HTTP application: OpenAI's endpoints over one engine, a page that shows a decode, health and metrics.

app = create_app(Engine(unmask.load("unmask-tiny")))         # any ASGI server runs it; `server.run` is ours
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from unmask import __version__
from unmask.engine.aio import AsyncEngine
from unmask.engine.engine import Engine
from unmask.errors import UnmaskError
from unmask.serve.guard import Guard
from unmask.serve.options import Options
from unmask.serve.page import page
from unmask.serve.problem import problem, refused
from unmask.serve.protocol import (
    BAD_REQUEST,
    SERVER,
    Body,
    ChatAnswer,
    ChatRequest,
    CompletionRequest,
    Health,
    ModelCard,
    ModelList,
    ProblemAnswer,
    TextAnswer,
    complaint,
)
from unmask.serve.service import Full, Service, TimeLimit

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemAnswer} for status in (400, 401, 404, 405, 408, 413, 429, 500, 503, 504)
}
_EVENTS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}
_BODIES: dict[str, type[Body]] = {"/v1/chat/completions": ChatRequest, "/v1/completions": CompletionRequest}

routes = APIRouter()


def create_app(engine: Engine, options: Options | None = None) -> FastAPI:
    """The application; the engine's thread lives from its start to its end."""
    options = options or Options()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service: Service = app.state.service
        async with AsyncEngine(engine, service.observe) as running:
            service.start(running)
            yield

    app = FastAPI(title="unmask", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, responses=_PROBLEMS)
    app.state.service = Service(engine, options)
    app.include_router(routes)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(StarletteHTTPException, _http_error)
    app.add_exception_handler(UnmaskError, _refused)
    app.add_exception_handler(Full, _full)
    app.add_exception_handler(TimeLimit, _too_slow)
    app.add_middleware(Guard, options=options, metrics=app.state.service.metrics)
    return app


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


# --- answers


@routes.post("/v1/chat/completions", response_model=ChatAnswer, responses=_EVENTS)
async def chat(body: ChatRequest, request: Request) -> Response:
    """Answer a chat."""
    return await _answer(body, request)


@routes.post("/v1/completions", response_model=TextAnswer, responses=_EVENTS)
async def completions(body: CompletionRequest, request: Request) -> Response:
    """Go on with a text, or with several."""
    return await _answer(body, request)


async def _answer(body: Body, request: Request) -> Response:
    service = _service(request)
    asked = await service.ask(body, request.state.request_id)
    told = request.state.told
    if body.stream:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}  # nginx would hold the stream back
        stream = service.events(asked, body, told)
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)
    done = await service.complete(asked, request, told)
    return JSONResponse(asked.answer(done).model_dump())


@routes.get("/v1/models", response_model=ModelList)
async def models(request: Request) -> ModelList:
    """The one model that is served."""
    return ModelList(data=[_service(request).card])


@routes.get("/v1/models/{name:path}", response_model=ModelCard)
async def model(name: str, request: Request) -> ModelCard:
    """The model of this name."""
    _service(request).know(name)
    return _service(request).card


# --- operation


@routes.get("/health", response_model=Health, responses={503: {"model": Health}})
async def health(request: Request) -> Response:
    """Whether the server takes requests: 200 or 503. That it answers at all says that it is alive (`/health/live`)."""
    health = _service(request).health
    return JSONResponse(health.model_dump(), 200 if health.ready else 503)


@routes.get("/health/live", response_model=Health, responses={503: {"model": Health}})
async def alive(request: Request) -> Response:
    """Whether the process has to be started anew: 503 where its engine has died, else 200 (or no answer)."""
    health = _service(request).health
    return JSONResponse(health.model_dump(), 503 if health.status == "failed" else 200)


@routes.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """The server's numbers in Prometheus' text format."""
    service = _service(request)
    service.measure()
    return Response(service.metrics.render(), media_type=service.metrics.content_type)


@routes.get("/", response_class=HTMLResponse)
async def live_page(request: Request) -> HTMLResponse:
    """The page that shows a decode live."""
    return HTMLResponse(page(_service(request)))


# --- errors


def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    body = _BODIES.get(request.url.path, ChatRequest)
    message, param = complaint(error.errors(), list(body.model_fields))
    return problem(400, message, kind=BAD_REQUEST, param=param)


def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StarletteHTTPException)
    kind = BAD_REQUEST if error.status_code < 500 else SERVER
    text = {404: f"there is no {request.url.path} here", 405: f"{request.url.path} does not take {request.method}"}
    standard = {404: "Not Found", 405: "Method Not Allowed"}.get(error.status_code)
    message = text[error.status_code] if error.detail == standard else str(error.detail)
    code = "model_not_found" if error.status_code == 404 and error.detail != standard else None
    return problem(error.status_code, message, kind=kind, code=code, headers=error.headers)


def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, UnmaskError)
    return refused(error, "messages" if request.url.path == "/v1/chat/completions" else "prompt")


def _full(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Full)
    headers = {"retry-after": str(error.seconds)}
    return problem(429, str(error), kind="rate_limit_error", code="queue_full", headers=headers)


def _too_slow(request: Request, error: Exception) -> JSONResponse:
    return problem(504, str(error), kind=SERVER, code="timeout")
