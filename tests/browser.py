"""A real browser for the tests of our pages, without a network. Its fixture is in conftest.py."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def start(profile: Path) -> webdriver.Chrome:
    """A browser that keeps its profile in this folder; a missing one is a failure, not a pass."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.fail(
            "no chromium or chromedriver on PATH: `make browser` or apt-get install chromium chromium-driver; "
            "-m 'not slow and not browser' leaves these tests out"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*QUIET, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(driver))


class Page:
    """A page as a reader finds it."""

    def __init__(self, browser: webdriver.Chrome, url: str) -> None:
        self.browser, self.url = browser, url
        self.resize(1280, 900)
        self.prefer()
        browser.get(url)

    def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def prefer(self, **features: str) -> None:
        """Media features, such as prefers_color_scheme="dark"; the others as they are."""
        wanted = {"prefers_color_scheme": "light", "prefers_reduced_motion": "no-preference"} | features
        listed = [{"name": name.replace("_", "-"), "value": value} for name, value in wanted.items()]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": listed})

    def all(self, selector: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def run(self, script: str, *arguments: object) -> Any:
        return self.browser.execute_script(script, *arguments)  # type: ignore[no-untyped-call]

    def answers(self) -> list[str]:
        """Text of each pane: written tokens and, where shown, drafts."""
        return [str(text) for text in self.run("return [...document.querySelectorAll('.answer')].map(e => e.textContent)")]

    def press(self, *keys: str) -> None:
        ActionChains(self.browser).send_keys(*keys).perform()

    def hover(self, element: WebElement, x: int = 0, y: int = 0) -> str:
        """What the tip says with the pointer there, counted from the element's centre."""
        ActionChains(self.browser).move_to_element_with_offset(element, x, y).perform()
        return self.one("#tip").text

    def brightness(self) -> int:
        """Of the paper, from 0 to 765."""
        colour = str(self.run("return getComputedStyle(document.body).backgroundColor"))
        return sum(map(int, colour[4:-1].split(",")))

    def asked(self) -> list[str]:
        """What the page has fetched since the last call, itself included."""
        events = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]  # type: ignore[no-untyped-call]
        sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        urls = [str(request["request"]["url"]) for request in sent if request["documentURL"] == self.url]
        return [url for url in urls if not url.startswith("data:")]

    def complaints(self) -> list[Any]:
        """What the browser's console says."""
        return list(self.browser.get_log("browser"))  # type: ignore[no-untyped-call]
