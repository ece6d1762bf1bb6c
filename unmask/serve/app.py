"""The HTTP application: OpenAI's endpoints over one engine, a page that shows a decode, health and metrics.

app = create_app(Engine(unmask.load("unmask-tiny")))    # any ASGI server runs it; `unmask serve` has `server.run`
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

from unmask import __version__
from unmask.engine.aio import AsyncEngine
from unmask.engine.engine import Engine
from unmask.serve.errors import add_error_handlers
from unmask.serve.guard import Guard
from unmask.serve.options import Options
from unmask.serve.page import page, protection
from unmask.serve.protocol import (
    Body,
    ChatRequest,
    ChatResponse,
    CompletionRequest,
    CompletionResponse,
    ErrorResponse,
    Health,
    ModelInfo,
    ModelList,
)
from unmask.serve.responses import response
from unmask.serve.service import Service

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse} for status in (400, 401, 404, 405, 408, 413, 429, 500, 503, 504)
}
_EVENTS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}

routes = APIRouter()


def create_app(engine: Engine, options: Options | None = None) -> FastAPI:
    """The application; the engine's thread runs from its start to its end."""
    options = (options or Options()).of(engine.model)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service: Service = app.state.service
        usual, first = options.forward_limits
        await asyncio.to_thread(service.warm_up)
        async with (
            AsyncEngine(engine, service.observe, forward_seconds=usual, first_forward_seconds=first) as async_engine,
            service.watching(),
        ):
            service.start(async_engine)
            yield

    app = FastAPI(
        title="unmask",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses=_ERRORS,
    )
    app.state.service = Service(engine, options)
    app.include_router(routes)
    add_error_handlers(app)
    app.add_middleware(Guard, options=options, metrics=app.state.service.metrics)
    return app


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


# --- completions


@routes.post("/v1/chat/completions", response_model=ChatResponse, responses=_EVENTS)
async def chat(body: ChatRequest, request: Request) -> Response:
    """Answer a chat."""
    return await _respond(body, request)


@routes.post("/v1/completions", response_model=CompletionResponse, responses=_EVENTS)
async def completions(body: CompletionRequest, request: Request) -> Response:
    """Continue a text, or several."""
    return await _respond(body, request)


async def _respond(body: Body, http: Request) -> Response:
    service = _service(http)
    request = await service.accept(body, http.state.log, key=http.state.key, cache_scope=http.state.cache_scope)
    if body.stream:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}  # nginx would hold the stream back
        return StreamingResponse(service.events(request), media_type="text/event-stream", headers=headers)
    completions = await service.complete(request, http)
    return JSONResponse(response(request, completions).model_dump())


@routes.get("/v1/models", response_model=ModelList)
async def models(request: Request) -> ModelList:
    """The one model that is served."""
    return ModelList(data=[_service(request).model_info])


@routes.get("/v1/models/{name:path}", response_model=ModelInfo)
async def model(name: str, request: Request) -> ModelInfo:
    """The model of this name."""
    _service(request).check_model(name)
    return _service(request).model_info


# --- operation


@routes.head("/health", include_in_schema=False)
@routes.get("/health", response_model=Health, responses={503: {"model": Health}})
async def health(request: Request) -> Response:
    """Whether the server takes requests: 200 or 503. Any response says that it is alive (`/health/live`)."""
    health = _service(request).health
    return JSONResponse(health.model_dump(), 200 if health.ready else 503)


@routes.head("/health/live", include_in_schema=False)
@routes.get("/health/live", response_model=Health, responses={503: {"model": Health}})
async def alive(request: Request) -> Response:
    """Whether the process has to be restarted: 503 where its engine has died or a forward does not end, else 200."""
    health = _service(request).health
    return JSONResponse(health.model_dump(), 503 if health.status in ("failed", "stuck") else 200)


@routes.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """The server's metrics in Prometheus' text format."""
    service = _service(request)
    service.measure()
    return Response(service.metrics.render(), media_type=service.metrics.content_type)


@routes.head("/", include_in_schema=False)
@routes.get("/", response_class=HTMLResponse)
async def live_page(request: Request) -> HTMLResponse:
    """The page that shows a decode live."""
    html = page(_service(request))
    return HTMLResponse(html, headers=protection(html))
