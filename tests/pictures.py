"""The pictures of the two pages in README: python -m tests.pictures docs   (needs chromium; writes view.png and live.png)."""

import sys
import tempfile
from pathlib import Path

import unmask
from tests.browser import Page, start
from tests.serve.live import running
from unmask.serve.page import EXAMPLES
from unmask.view.page import render
from unmask.view.trace import Recorder, Trace

METHODS = ("fast-dllm", "r2-dllm")
LENGTH = 96


def trace(model: unmask.Denoiser, method: str) -> Trace:
    recorder = Recorder(model, LENGTH)
    done = unmask.generate(model, EXAMPLES[:1], method=method, max_new_tokens=LENGTH, observer=recorder)[0]
    return recorder.trace(prompt=EXAMPLES[0], method=method, settings=done.method.to_dict(), completion=done)


def main(folder: Path) -> None:
    model = unmask.load("unmask-tiny")
    with tempfile.TemporaryDirectory() as scratch, running(model) as live:
        browser = start(Path(scratch) / "profile")
        try:
            file = Path(scratch) / "decode.html"
            file.write_text(render([trace(model, method) for method in METHODS]), encoding="utf-8")
            page = Page(browser, file.as_uri())
            page.hover(page.all(".pane:last-child .written .word")[40])
            browser.save_screenshot(str(folder / "view.png"))
            page = Page(browser, live.url)
            page.one("#go").click()
            page.run("return new Promise(done => setInterval(() => running().length || done(true), 50))")
            page.run("jump(1)")  # where drafts are left
            browser.save_screenshot(str(folder / "live.png"))
        finally:
            browser.quit()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
