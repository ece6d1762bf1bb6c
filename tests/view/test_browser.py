"""The page in a real browser, from a file: what a reader sees and does, without a network.

A missing browser is a failure, not a pass: `make browser` installs one, or leave these out with
`python -m pytest -m 'not slow and not browser'`.
"""

from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

import unmask
from tests.browser import Page
from unmask.engine.generate import answer, make_request
from unmask.view.page import render
from unmask.view.trace import Commit, Recorder, Step, Trace

pytestmark = pytest.mark.browser

QUESTION = (
    "Mia has 23 apples. On Monday Mia buys 8. On Tuesday Mia gives away 5. On Wednesday Mia finds 7. "
    "How many apples does Mia have?"
)


@pytest.fixture(scope="module")
def traces() -> list[Trace]:
    found = []
    for method in ("r2-dllm", "fast-dllm"):
        recorder = Recorder(unmask.load("unmask-tiny-base"), 96)
        done = unmask.generate(
            unmask.load("unmask-tiny-base"), [QUESTION], method=method, max_new_tokens=96, observer=recorder
        )[0]
        found.append(recorder.trace(prompt=QUESTION, method=method, completion=done))
    return found


class Replay(Page):
    """The page of `unmask view`."""

    def where(self) -> str:
        return self.one("#where").text


@pytest.fixture
def page(browser: webdriver.Chrome, traces: list[Trace], tmp_path: Path) -> Replay:
    path = tmp_path / "decode.html"
    path.write_text(render(traces), encoding="utf-8")
    return Replay(browser, path.as_uri())


def after(trace: Trace, forward: int, *, drafts: bool) -> str:
    """The text that a pane must show, without its spaces: masked places keep theirs."""
    cells = trace.cells(min(forward, trace.forwards))
    return "".join("".join(cell.text or "" for cell in cells if drafts or cell.rule).split())


def seen(page: Replay) -> list[str]:
    return ["".join(answer.split()) for answer in page.answers()]


def test_it_opens_on_both_answers_side_by_side(page: Replay, traces: list[Trace]) -> None:
    assert page.answers() == [trace.text for trace in traces]
    assert page.one("h1").text == QUESTION
    assert [pane.text for pane in page.all("h2")] == ["r2-dllm", "fast-dllm"]
    assert [figure.text for figure in page.all(".forwards")] == [str(trace.forwards) for trace in traces]
    left, right = (pane.rect for pane in page.all(".pane"))
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]
    one, two = (canvas.rect for canvas in page.all("canvas"))
    assert one["y"] == two["y"]  # so that the grids compare


def test_fixed_text_never_changes_and_what_the_grammar_refuses_is_told(browser: webdriver.Chrome, tmp_path: Path) -> None:
    model = unmask.load("unmask-tiny-base")
    canvas = unmask.canvas("Mia starts with ", unmask.hole(4), " apples.", unmask.hole(3), chat=QUESTION)
    request = make_request(model, canvas, method="vanilla")
    recorder = Recorder(model, request.length, fixed=request.fixed)
    answer(model, [request], recorder)
    path = tmp_path / "canvas.html"
    path.write_text(render([recorder.trace(method="vanilla")]), encoding="utf-8")
    page = Replay(browser, path.as_uri())
    fixed = [str(place) for place in request.fixed if place < request.length]
    looks = set()
    for _ in range(recorder.trace().forwards + 1):
        page.press(Keys.ARROW_LEFT)
        tokens = {token.get_attribute("data-place"): token for token in page.all(".token")}
        looks.add("".join(tokens[place].get_attribute("textContent") or "" for place in fixed).strip())
        assert all("written" in (tokens[place].get_attribute("class") or "") for place in fixed)
    assert looks == {"apples."}
    assert "fixed text" in page.hover(tokens[fixed[0]].find_element(By.CSS_SELECTOR, ".word"))

    recorder = Recorder(model, 32)
    unmask.generate(model, [QUESTION], max_new_tokens=32, regex="[a-z ]*[.]", method="vanilla", observer=recorder)
    trace = recorder.trace(method="vanilla")
    path.write_text(render([trace]), encoding="utf-8")
    page = Replay(browser, path.as_uri())
    page.press(Keys.HOME, Keys.ARROW_RIGHT)
    assert len(page.all(".refused")) == len(trace.steps[0].refused) > 0
    place, _, text = trace.steps[0].refused[0]
    word = page.one(f".token[data-place='{place}'] .word")
    assert f"in place of {text.strip()}, which the grammar refuses" in page.hover(word)
    page.press(Keys.HOME)
    assert not page.all(".refused")


def test_it_asks_for_nothing_and_complains_of_nothing(page: Replay) -> None:
    page.press(Keys.HOME, " ")
    page.hover(page.one("canvas"))
    assert page.asked() == [page.url]
    assert page.complaints() == []


def test_single_steps_with_buttons_and_keys(page: Replay, traces: list[Trace]) -> None:
    last = max(trace.forwards for trace in traces)
    page.press(Keys.HOME)
    assert page.where() == f"forward 0 of {last}"
    for forward in range(1, last + 1):
        page.press(Keys.ARROW_RIGHT) if forward % 2 else page.one("#next").click()
        assert page.where() == f"forward {forward} of {last}"
        assert seen(page) == [after(trace, forward, drafts=True) for trace in traces]
    page.one("#back").click()
    page.press(Keys.ARROW_LEFT)
    assert page.where() == f"forward {last - 2} of {last}"


def test_without_drafts_the_text_holds_what_is_written(page: Replay, traces: list[Trace]) -> None:
    page.press(Keys.HOME, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    page.one("#drafts").click()
    assert seen(page) == [after(trace, 2, drafts=False) for trace in traces]
    assert not page.all(".draft")


def test_scrubbing(page: Replay, traces: list[Trace]) -> None:
    slider = page.one("#scrub")
    last = max(trace.forwards for trace in traces)
    slider.send_keys(Keys.HOME)
    assert page.where() == f"forward 0 of {last}"
    ActionChains(page.browser).move_to_element(slider).click().perform()
    assert int(slider.get_attribute("value") or 0) in (last // 2, -(-last // 2))
    assert slider.get_attribute("aria-valuetext") == page.where()
    assert seen(page) == [after(trace, int(slider.get_attribute("value") or 0), drafts=True) for trace in traces]


def test_hovering_over_a_token_shows_its_rule_and_confidence(page: Replay, traces: list[Trace]) -> None:
    trace = traces[0]
    forward, commit = next(
        (number, commit)
        for number, step in enumerate(trace.steps, 1)
        for commit in step.commits
        if commit.rule == "confidence_cluster" and trace.pieces[commit.place].strip()
    )
    word = page.all(".pane:first-child .token")[commit.place].find_element(By.CSS_SELECTOR, ".word")
    tip = page.hover(word).splitlines()
    assert tip == [
        trace.pieces[commit.place].strip(),
        f"confidence cluster, forward {forward}",
        f"confidence {commit.confidence:.3f}",
    ]
    assert page.hover(page.one("h1")) == ""


def test_pointing_at_the_grid_shows_a_tip_and_a_click_seeks(page: Replay, traces: list[Trace]) -> None:
    trace, canvas = traces[1], page.all("canvas")[1]
    commit = trace.steps[1].commits[0]
    size = canvas.rect
    column, row = (size["width"] - 56) / trace.length, size["height"] / trace.forwards
    x = round((commit.place + 0.5) * column - size["width"] / 2)
    y = round(1.5 * row - size["height"] / 2)
    assert f"confidence {commit.confidence:.3f}" in page.hover(canvas, x, y)
    assert "pointed" in (page.all(".pane:last-child .token")[commit.place].get_attribute("class") or "")
    ActionChains(page.browser).click().perform()
    assert page.where().startswith("forward 2 ")
    tip = page.hover(canvas, round(size["width"] / 2) - 5, y)
    assert f"{trace.steps[1].queried} tokens queried" in tip


def test_playing_pausing_and_the_end(page: Replay, traces: list[Trace]) -> None:
    button = page.one("#play")
    assert button.accessible_name == "Play"
    page.press(" ")  # from the end: once more from the start
    assert button.accessible_name == "Pause"
    WebDriverWait(page.browser, 10).until(lambda _: page.where().startswith("forward 2 "))
    button.click()
    assert button.accessible_name == "Play"
    stopped = page.where()
    assert not page.run("return new Promise(done => setTimeout(() => done(timer !== null), 700))")
    assert page.where() == stopped
    button.click()
    WebDriverWait(page.browser, 20).until(lambda _: button.accessible_name == "Play")
    assert page.answers() == [trace.text for trace in traces]


def test_the_keyboard_walks_through_an_answer(page: Replay, traces: list[Trace]) -> None:
    page.run("document.querySelectorAll('.answer')[1].focus()")
    page.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    tip = page.one("#tip").text.splitlines()
    assert tip[0] == traces[1].pieces[1].strip()
    assert tip[2].startswith("confidence ")
    page.press(Keys.ESCAPE)
    assert page.one("#tip").text == ""


def test_everything_that_can_be_used_has_a_name(page: Replay) -> None:
    used = page.all("button, input, summary, .answer, canvas, article, [role=group]")
    assert len(used) == 3 + 2 + 2 * 4 + 1
    assert all(element.accessible_name for element in used)


def test_a_phone_stacks_the_panes_and_cuts_nothing_off(page: Replay) -> None:
    page.resize(390, 844)
    assert page.run("return document.documentElement.scrollWidth") == 390
    first, second = (pane.rect for pane in page.all(".pane"))
    assert first["x"] == second["x"]
    assert first["y"] + first["height"] <= second["y"]
    assert page.one("#where").rect["height"] < 30  # in one line
    assert all(button.rect["width"] >= 44 and button.rect["height"] >= 44 for button in page.all("button"))


def test_a_preference_for_dark_makes_the_page_dark(page: Replay) -> None:
    light, bright = page.browser.get_screenshot_as_png(), page.brightness()
    page.prefer(prefers_color_scheme="dark")
    assert page.browser.get_screenshot_as_png() != light
    assert page.brightness() < 100 < 650 < bright


def test_a_preference_for_reduced_motion_stops_animations(page: Replay) -> None:
    page.press(Keys.ARROW_LEFT)
    moving = "return getComputedStyle(document.querySelector('.fresh .word')).animationName"
    assert page.run(moving) == "appear"
    page.prefer(prefers_reduced_motion="reduce")
    assert page.run(moving) == "none"


def test_tokens_are_text_and_nothing_else(browser: webdriver.Chrome, tmp_path: Path) -> None:
    pieces = ("</script>", "<script>document.title = 'broken'</script>", "<img src=x onerror=document.title='broken'>", " a\nb")
    commits = tuple(Commit(place, place, "temporal", None) for place in range(len(pieces)))
    trace = Trace(
        model="<b>toy</b>",
        method="<i>mine</i>",
        settings={"name": "</pre><img>"},
        prompt="<u>why</u>",
        length=len(pieces),
        steps=(Step(refresh=True, queried=4, start=0, commits=commits, drafts=()),),
        pieces=pieces,
        text="".join(pieces),
        tokens=len(pieces),
        finish_reason="length",
    )
    path = tmp_path / "hostile.html"
    path.write_text(render([trace]), encoding="utf-8")
    page = Page(browser, path.as_uri())
    assert page.answers() == ["".join(pieces)]
    assert [page.one(name).text for name in ("#model", "h1", "h2")] == ["<b>toy</b>", "<u>why</u>", "<i>mine</i>"]
    assert page.all("img, b:not(.legend b), h1 u, h2 i") == []
    assert browser.title == "A decode, forward by forward"
    assert "written from a checked draft" in page.hover(page.all(".word")[0])


def test_a_rewritten_token_shows_what_stood_there_at_its_time(browser: webdriver.Chrome, tmp_path: Path) -> None:
    steps = (
        Step(
            refresh=True,
            queried=2,
            start=0,
            commits=(Commit(0, 1, "threshold", 0.5, "old"), Commit(1, 2, "threshold", 0.5, " gone")),
            drafts=(),
        ),
        Step(refresh=False, queried=2, start=0, commits=(Commit(0, 3, "edit", 0.9),), drafts=(), emptied=(1,)),
    )
    trace = Trace(
        model="toy", method="mine", settings={}, prompt="why", length=2, steps=steps, pieces=("new", ""), text="new", tokens=1
    )
    path = tmp_path / "edited.html"
    path.write_text(render([trace]), encoding="utf-8")
    page = Page(browser, path.as_uri())
    assert page.answers() == ["new"]
    assert "rewritten, was old" in page.hover(page.all(".rewritten .word")[0])
    page.press(Keys.ARROW_LEFT)
    assert page.answers() == ["old gone"]
    assert page.all(".rewritten") == []
