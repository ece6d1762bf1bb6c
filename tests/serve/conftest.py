"""Servers for tests: one of the embedded model that many share, and one's own."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

import unmask
from tests.bytewise import Bytes
from tests.serve.live import Live, Serving, running
from unmask.models.denoiser import Denoiser
from unmask.models.toy import toy


@pytest.fixture(scope="session")
def tiny() -> Denoiser:
    """The weights that carry no settings of their own, so that every setting is as the test names it."""
    return replace(unmask.load("unmask-tiny-base"), name="unmask-tiny")


@pytest.fixture(scope="session")
def live(tiny: Denoiser) -> Iterator[Live]:
    """A server of the embedded model that many tests share."""
    with running(tiny) as server:
        yield server


@pytest.fixture(scope="session")
def serving() -> Serving:
    """A server of one's own, until its block is left; arguments as `running` has them."""
    return running


@pytest.fixture(scope="session")
def bytewise() -> Denoiser:
    """A toy that writes bytes, and so half letters."""
    return replace(toy("llada", seed=5, sharpness=3), tokenizer=Bytes(), name="bytewise")
