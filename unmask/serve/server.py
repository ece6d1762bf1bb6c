"""The server process: uvicorn around the application, ended in order."""

import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from unmask.errors import ConfigError


class Server(uvicorn.Server):
    """uvicorn, which at SIGTERM or Ctrl-C takes no more connections, finishes what runs and ends; told twice, at once.

    Who watches /health on a connection that is still open sees "closing" meanwhile.
    """

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal to end."""
        app = self.config.app
        assert isinstance(app, FastAPI)
        app.state.service.closing = True
        self.force_exit = self.should_exit  # uvicorn itself takes only Ctrl-C for a second signal
        super().handle_exit(sig, frame)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at this address; port 0 takes a free one. Raises ConfigError where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen at {host}:{port}: {error}; choose another --host or --port") from None


def run(app: FastAPI, at: socket.socket, *, drain_seconds: int) -> None:
    """Serve until a signal ends it; what still runs `drain_seconds` after the signal is broken off."""
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=drain_seconds
    )
    Server(config).run(sockets=[at])
