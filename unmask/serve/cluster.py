"""Ray, started on this machine or joined, silent. It knows nothing of what runs there."""

import logging
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from unmask.errors import ConfigError

# Read when Ray is imported. It would tell its makers, drop lines of a log that look alike, and warn of a default that it will
# have one day; its own log files keep what is not shown.
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
        logs: whether what the workers write to stderr comes out of ours.

    Raises:
        ConfigError: Ray is not installed, or nobody answers at the address.
    """
    _knock(address)
    os.environ |= _SILENCE
    if address == "local":
        # Ray's ports are open to whoever reaches this machine, and Ray runs what it is sent: only by us.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    try:
        import ray
    except ImportError:
        raise ConfigError("this runs on Ray, which is not installed: pip install 'unmask[scale]'") from None
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
    """Raises ConfigError where nobody answers, which Ray itself would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            raise ConfigError(f"no Ray cluster at {address} ({error.strerror or error})") from None


@contextmanager
def _hushed() -> Iterator[None]:
    """Nothing reaches stderr, not even from C++, which announces the log level that it keeps quiet with."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
