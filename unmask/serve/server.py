"""The server process: uvicorn around the application, shut down gracefully and in bounded time."""

import signal
import socket
import threading
from types import FrameType

import uvicorn
from fastapi import FastAPI

from unmask.engine.aio import GRACE
from unmask.errors import ConfigError
from unmask.serve.connections import Config
from unmask.serve.log import LOG


class Server(uvicorn.Server):
    """uvicorn, which at SIGTERM or Ctrl-C finishes what runs and then ends; at a second signal it ends at once.

    Meanwhile /health says "closing" on connections that are still open. Whatever hangs, a forward or a thread, the process
    ends when its time is over.
    """

    def __init__(self, config: Config, *, drain_seconds: int) -> None:
        super().__init__(config)
        self._drain_seconds = drain_seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to shut down at a signal."""
        if self.should_exit:
            _leave("ended by a second signal", sig)
        app = self.config.app
        assert isinstance(app, FastAPI)
        app.state.service.closing = True
        super().handle_exit(sig, frame)
        last = threading.Timer(
            self._drain_seconds + 2 * GRACE, _leave, ("something does not end: the process ends without it", signal.SIGKILL)
        )
        last.daemon = True
        last.start()


def _leave(why: str, sig: int) -> None:
    """Let a signal end the process, whatever its threads do: nothing of a server is to be saved."""
    LOG.error(why)
    if sig != signal.SIGKILL:
        signal.signal(sig, signal.SIG_DFL)
    signal.raise_signal(sig)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at this address; port 0 takes a free one. Raises ConfigError where that fails."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen at {host}:{port}: {error}; choose another --host or --port") from None


def server(app: FastAPI, *, drain_seconds: int) -> Server:
    """A server of the application, with the limits of its options."""
    options = app.state.service.options
    config = Config(app, header_seconds=options.header_seconds, connections=options.connections, drain_seconds=drain_seconds)
    return Server(config, drain_seconds=drain_seconds)


def run(app: FastAPI, at: socket.socket, *, drain_seconds: int) -> None:
    """Serve until a signal ends it; requests that still run `drain_seconds` after the signal are broken off."""
    server(app, drain_seconds=drain_seconds).run(sockets=[at])
