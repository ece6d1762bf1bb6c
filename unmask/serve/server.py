"""The server process: uvicorn around the application, shut down gracefully."""

import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from unmask.errors import ConfigError


class Server(uvicorn.Server):
    """uvicorn, which at SIGTERM or Ctrl-C finishes what runs and then ends; at a second signal it ends at once.

    Meanwhile /health says "closing" on connections that are still open.
    """

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to shut down at a signal."""
        app = self.config.app
        assert isinstance(app, FastAPI)
        app.state.service.closing = True
        self.force_exit = self.should_exit  # uvicorn itself takes only Ctrl-C for a second signal
        super().handle_exit(sig, frame)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at this address; port 0 takes a free one. Raises ConfigError where that fails."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen at {host}:{port}: {error}; choose another --host or --port") from None


def run(app: FastAPI, at: socket.socket, *, drain_seconds: int) -> None:
    """Serve until a signal ends it; requests that still run `drain_seconds` after the signal are broken off."""
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=drain_seconds
    )
    Server(config).run(sockets=[at])
