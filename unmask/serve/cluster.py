"""Ray, started on this machine or joined, without its messages. It does not know what runs there."""

import logging
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from unmask.errors import ConfigError, install

# Read when Ray is imported. Without these Ray reports its usage to its makers, drops log lines that look alike,
# and warns of a future default; its own log files keep what is not shown.
_SILENCE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_LOG_LEVEL": "CRITICAL",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}


@contextmanager
def cluster(address: str = "local", *, logs: bool = False) -> Iterator[Any]:
    """The module `ray`, connected until the block is left.

    Args:
        address: of a cluster; "local" starts one on this machine and ends it with the block.
        logs: whether the workers' stderr is copied to this process's.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster at the address.
    """
    _knock(address)
    os.environ |= _SILENCE
    if address == "local":
        # Ray's ports are open to the network, and Ray runs whatever it is sent: only this process has the token.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    try:
        import ray
    except ImportError:
        raise ConfigError(f"this runs on Ray, which is not installed: {install('scale')}") from None
    try:
        with _hushed():
            ray.init(address=address, log_to_driver=logs, logging_level=logging.ERROR, include_dashboard=False)
    except (ConnectionError, ValueError) as error:
        raise ConfigError(f"no Ray cluster at {address} ({str(error).splitlines()[0]})") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raises ConfigError where nothing listens at the address; Ray itself would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            raise ConfigError(f"no Ray cluster at {address} ({error.strerror or error})") from None


@contextmanager
def _hushed() -> Iterator[None]:
    """Nothing reaches stderr, not even from C++, which announces its log level."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
