"""Ray, started on this machine or joined, silent. It knows nothing of what runs there."""

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from unmask.errors import ConfigError


@contextmanager
def cluster(address: str = "local", *, logs: bool = False) -> Iterator[Any]:
    """The module `ray`, connected until the block is left.

    Args:
        address: of a cluster; "local" starts one on this machine and ends it with the block.
        logs: whether what the workers write to stderr comes out of ours.

    Raises:
        ConfigError: Ray is not installed, or nobody answers at the address.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray would tell its makers
    # Ray would drop lines of a log that look alike, and it warns of a default that it will have one day.
    os.environ |= {"RAY_DEDUP_LOGS": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    if address == "local":
        # Ray's ports are open to whoever reaches this machine, and Ray runs what it is sent: only by us.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    try:
        import ray
    except ImportError:
        raise ConfigError("this runs on Ray, which is not installed: pip install 'unmask[scale]'") from None
    try:
        ray.init(address=address, log_to_driver=logs, logging_level=logging.ERROR, include_dashboard=False)
    except ConnectionError as error:
        raise ConfigError(f"no Ray cluster at {address}: {error}") from None
    try:
        yield ray
    finally:
        ray.shutdown()
