"""Every test runs on one thread: toys are small, and threads that wait for each other make a suite slow.

A busy machine must not fail a test, so examples have no deadline and commands say nothing of their progress.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings

if TYPE_CHECKING:
    from selenium import webdriver

torch.set_num_threads(1)
settings.register_profile("unmask", deadline=None)
settings.load_profile("unmask")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[webdriver.Chrome]":
    """Chromium, for a module's tests of a page (marked `browser`)."""
    from tests.browser import start

    chrome = start(tmp_path_factory.mktemp("profile"))
    yield chrome
    chrome.quit()


@pytest.fixture(autouse=True)
def no_lines_of_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a command may take more than the ten seconds after which it says how far it is."""
    monkeypatch.setattr("unmask.cli.console.PAUSE", 1e6)
