"""Connections that a client opens and does not use: they end in time, and there are only so many.

uvicorn ends a connection that is idle after a response, and none that never sends a request. h11, unlike the faster
httptools, bounds the size of a header.
"""

import asyncio
import resource

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

_HEADER_BYTES = 2**16
_FILES = 64  # that the process needs beside its connections
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\nconnection: close\r\n\r\n"
    b'{"error": {"message": "too many connections: try again", "type": "server_error", "param": null, "code": null}}'
)


class Config(uvicorn.Config):
    """uvicorn's, with limits of our own."""

    def __init__(self, app: object, *, header_seconds: float, connections: int, drain_seconds: int) -> None:
        """A request's header must be there `header_seconds` after a connection was opened, or after the last response."""
        super().__init__(
            app,  # type: ignore[arg-type]
            http=Protocol,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            h11_max_incomplete_event_size=_HEADER_BYTES,
            timeout_keep_alive=int(header_seconds) + 1,
            timeout_graceful_shutdown=drain_seconds,
        )
        self.header_seconds = header_seconds
        self.connections = max(1, min(connections, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _FILES))


class Protocol(H11Protocol):
    """HTTP/1.1 on one connection."""

    config: Config
    _waits: asyncio.TimerHandle | None = None  # for a header

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come; it is sent away where there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.config.connections:
            transport.write(_FULL)
            transport.close()
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        """Some bytes of a request have come."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """The next request may come."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left, or was sent away."""
        super().connection_lost(exc)
        self._stop_waiting()

    def _watch(self) -> None:
        """Wait for a header while no request is served, from the last response on, whatever comes of it meanwhile."""
        if self.transport.is_closing() or (self.cycle is not None and not self.cycle.response_complete):
            self._stop_waiting()
        elif self._waits is None:
            self._waits = self.loop.call_later(self.config.header_seconds, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._waits is not None:
            self._waits.cancel()
            self._waits = None
