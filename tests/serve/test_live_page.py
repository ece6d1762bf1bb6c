"""The server's page in a real browser: what a reader types, sees meanwhile and reads, against what the API says."""

import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver import Keys
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

import unmask
from tests.browser import Page
from tests.bytewise import Bytes
from tests.serve.live import Background
from unmask.engine.engine import Engine, Limits
from unmask.engine.request import Progress
from unmask.methods import TABLE
from unmask.models.denoiser import Denoiser
from unmask.models.toy import toy
from unmask.serve.app import create_app
from unmask.serve.options import Options

pytestmark = pytest.mark.browser

QUESTION = "Mia has 23 apples. On Monday Mia buys 8. On Tuesday Mia gives away 5. How many apples does Mia have?"
HOSTILE = "</script><script>document.title = 'broken'</script>\"'&lt;<img src=x>"


class Paced(Engine):
    """Forwards that take long enough to be seen, and that fail where a test says so."""

    seconds = 0.03
    fails = False

    def step(self) -> list[Progress]:
        time.sleep(self.seconds)
        if self.fails:
            raise RuntimeError("out of memory")
        return super().step()


class Served(Background):
    """A server, and what its API says."""

    def __init__(self, engine: Engine, options: Options) -> None:
        self.engine = engine
        super().__init__(create_app(engine, options))
        self.url += "/"  # as a browser writes it

    def call(self, path: str, body: object = None, key: str = "") -> Any:
        """What the API answers, errors too."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers), timeout=60) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return json.load(error)

    def chat(self, prompt: str, key: str = "", **diffusion: Any) -> Any:
        return self.call(
            "v1/chat/completions", {"messages": [{"role": "user", "content": prompt}], "diffusion": diffusion}, key
        )


@contextmanager
def serving(engine: Engine, options: Options | None = None) -> Iterator[Served]:
    served = Served(engine, options or Options())
    try:
        yield served
    finally:
        served.stop()


class Live(Page):
    """The server's page."""

    def figures(self, name: str) -> list[str]:
        return [figure.text for figure in self.all(f".pane:not([hidden]) .{name}")]

    def states(self) -> list[str]:
        return self.figures("state")

    def fill(self, selector: str, text: str) -> None:
        field = self.one(selector)
        field.clear()
        field.send_keys(text)

    def go(self, prompt: str = QUESTION) -> None:
        self.fill("#prompt", prompt)
        self.press(Keys.ENTER)

    def until(self, true: Callable[[], object], seconds: float = 30) -> None:
        WebDriverWait(self.browser, seconds, poll_frequency=0.02).until(lambda _: true())

    def finish(self) -> list[str]:
        """Wait for the end of all; the last line of each pane."""
        self.until(lambda: self.one("#go").text == "Go")
        return self.states()


@pytest.fixture(scope="module")
def model() -> Denoiser:
    return replace(unmask.load("unmask-tiny-base"), name="unmask-tiny")


@pytest.fixture(scope="module")
def served(model: Denoiser) -> Iterator[Served]:
    with serving(Paced(model)) as served:
        yield served


@pytest.fixture
def page(browser: webdriver.Chrome, served: Served) -> Live:
    return Live(browser, served.url)


def test_the_last_line_says_what_another_request_had_computed(browser: webdriver.Chrome) -> None:
    toys = replace(toy("sdar", seed=5, sharpness=3), tokenizer=Bytes(), name="bytewise")
    with serving(Engine(toys), Options(max_new_tokens=16)) as served:
        page = Live(browser, served.url)
        page.one("#compare").click()
        saved = []
        for prompt in ("abcd" * 9, "abcd" * 9, "dcba" * 9):
            page.go(prompt)
            saved.append(page.finish()[0].partition("; ")[2])
        assert saved == ["", "32 of 36 prompt tokens were there already", ""]


def test_rewritten_tokens_are_marked_and_counted_once(browser: webdriver.Chrome) -> None:
    toys = replace(toy("sdar", seed=5, sharpness=3), tokenizer=Bytes(), name="bytewise")
    with serving(Engine(toys), Options(max_new_tokens=14, method="llada2.1", settings={"mode": "speed"})) as served:
        page = Live(browser, served.url)
        page.one("#compare").click()
        page.go("abc")
        assert page.finish()[0].startswith("done")
        written, rewritten = page.all(".pane:not([hidden]) .written"), page.all(".pane:not([hidden]) .written.rewritten")
        assert rewritten
        counts = [int(count.text) for count in page.all(".pane:not([hidden]) .legend b")]
        assert sum(counts) == len(written) == 14
        assert counts[-1] >= len(rewritten)
        page.one("#compare").click()


def test_two_methods_side_by_side_end_with_the_answers_of_the_api(page: Live, served: Served) -> None:
    page.go()
    assert page.finish() == ["done"] * 2
    answers = [served.chat(QUESTION, method=method) for method in ("r2-dllm", "fast-dllm")]
    assert page.answers() == [answer["choices"][0]["message"]["content"] for answer in answers]
    assert page.figures("forwards") == [str(answer["usage"]["forwards"]) for answer in answers]
    assert page.figures("rate") == [f"{answer['usage']['tokens_per_forward']:.2f}" for answer in answers]
    assert all(float(seconds) > 0 for seconds in page.figures("seconds"))
    assert all(float(speed) > 0 for speed in page.figures("speed"))
    left, right = (pane.rect for pane in page.all(".pane"))
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]


def test_tokens_take_their_rules_colours_while_it_runs(page: Live) -> None:
    page.run("""
        window.seen = [];
        const count = kind => panes[0].answer.querySelectorAll(kind).length;
        const look = () => seen.push([".draft:not(.filler)", ".written", ".fresh"].map(count));
        new MutationObserver(look).observe(panes[0].forwards, { childList: true });
    """)
    page.go()
    page.finish()
    seen = [tuple(counts) for counts in page.run("return seen")]
    assert (0, 0, 0) in seen  # nothing yet
    assert any(drafts and written and fresh for drafts, written, fresh in seen)  # on the way
    assert [written for _, written, _ in seen] == sorted(written for _, written, _ in seen)  # what is written stays
    assert seen[-1][0] == seen[-1][2] == 0
    colours = set(page.run("return panes[0].cells.map(cell => getComputedStyle(cell.token.lastChild).boxShadow)"))
    assert len(colours - {"none"}) > 1
    counted = {item.text.split("\n")[0] for item in page.all(".pane:first-child .legend li")}
    assert any(text.startswith("threshold") for text in counted)
    assert page.all(".filler")  # dots behind the end


def test_fixed_text_stays_as_it_is_and_what_the_grammar_refuses_is_told(page: Live) -> None:
    page.one("#compare").click()
    page.run("""
        window.seen = [];
        const fixed = () => panes[0].cells.filter(cell => cell.rule === "fixed").map(cell => cell.token.textContent).join("");
        const look = () => seen.push([panes[0].forward, fixed(), panes[0].answer.querySelectorAll(".refused").length]);
        new MutationObserver(look).observe(panes[0].forwards, { childList: true });
    """)
    page.fill(".settings", 'canvas=["Mia",{"hole":4},"apples.",{"hole":2}]')
    page.go()
    assert page.finish() == ["done"]
    seen = page.run("return seen.filter(([forward]) => forward)")
    assert {text.strip() for _, text, _ in seen} == {"apples."}
    assert len(seen) > 2
    assert page.answers()[0].startswith("Mia") is False  # what stands before the first hole is the prompt's
    fixed = page.run("return panes[0].cells.find(cell => cell.rule === 'fixed').token.lastChild")
    assert "fixed text" in page.hover(fixed)

    page.run("seen.length = 0")
    page.fill(".settings", "regex=[a-z]*[.]")
    page.go()
    assert page.finish() == ["done"]
    assert any(refused for _, _, refused in page.run("return seen"))
    told = page.run("const cell = panes[0].cells.find(cell => cell.refused !== undefined); return cell.token.lastChild")
    assert "which the grammar refuses" in page.hover(told)


def test_one_method_with_settings_of_its_own(page: Live, served: Served) -> None:
    page.one("#compare").click()
    Select(page.one(".method")).select_by_visible_text("fast-dllm")
    page.fill(".settings", "threshold=0.6 cache=prefix")
    page.go()
    assert len(page.finish()) == 1
    answer = served.chat(QUESTION, method="fast-dllm", threshold=0.6, cache="prefix")
    assert page.answers()[0] == answer["choices"][0]["message"]["content"]
    assert page.figures("forwards") == [str(answer["usage"]["forwards"])]
    assert answer["usage"] != served.chat(QUESTION, method="fast-dllm")["usage"]


def test_length_temperature_and_seed(page: Live, served: Served) -> None:
    page.one("#compare").click()
    page.one("#more summary").click()
    for name, value in {"max_tokens": "20", "temperature": "1.5", "seed": "7"}.items():
        page.fill(f"#{name}", value)
    page.go()
    assert page.finish() == ["done: max tokens reached"]
    body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 20, "temperature": 1.5, "seed": 7}
    assert page.answers()[0] == served.call("v1/chat/completions", body)["choices"][0]["message"]["content"]


def test_every_preset_can_be_chosen(page: Live) -> None:
    for method in page.all(".method"):
        assert [option.text for option in Select(method).options] == list(TABLE)


@pytest.mark.parametrize("how", ["button", "escape"])
def test_stopping_frees_the_rows(page: Live, served: Served, how: str) -> None:
    for method in page.all(".method"):
        Select(method).select_by_visible_text("vanilla")
    for settings in page.all(".settings"):
        settings.send_keys("max_new_tokens=256")  # would take ten seconds and more
    page.go()
    page.until(lambda: all(int(forwards) > 2 for forwards in page.figures("forwards")))
    assert served.call("health")["running"] == 2
    page.one("#go").click() if how == "button" else page.press(Keys.ESCAPE)
    assert page.finish() == ["stopped", "stopped"]
    page.until(lambda: served.call("health")["running"] == 0, 3)
    assert page.all(".draft")  # the answer stands as it was


def test_what_is_wrong_with_a_setting_is_told_in_its_pane(page: Live, served: Served) -> None:
    page.fill(".pane:first-child .settings", "treshold=0.8")
    page.fill(".pane:last-child .settings", "threshold")
    page.go()
    message = served.chat(QUESTION, method="r2-dllm", treshold=0.8)["error"]["message"]
    assert "threshold" in message
    assert page.finish() == [message, "threshold: write settings as key=value, with a space between two"]
    assert len(page.all(".failed")) == 2
    page.fill(".pane:first-child .settings", "")
    page.fill(".pane:last-child .settings", "")
    page.go()
    page.finish()
    assert not page.all(".failed")


def test_an_empty_prompt_is_told_too(page: Live) -> None:
    page.fill("#prompt", "")
    page.one("#go").click()
    assert all("at least one word" in state for state in page.finish())


def test_text_stays_text(browser: webdriver.Chrome, model: Denoiser) -> None:
    with serving(Engine(model), Options(name=HOSTILE)) as served:
        page = Live(browser, served.url)
        page.fill(".pane:first-child .settings", "<img/src>=1")
        page.go(HOSTILE)
        failed, done = page.finish()
        assert "<img/src>" in failed
        assert done.startswith("done")
        assert page.one("#prompt").get_attribute("value") == HOSTILE
        assert page.one("h1").text == HOSTILE
        assert page.answers()[1] == served.chat(HOSTILE, method="fast-dllm")["choices"][0]["message"]["content"]
        assert page.all("img, main script") == []
        assert browser.title == f"{HOSTILE}, live"


def test_it_asks_its_own_api_alone_and_the_console_stays_empty(page: Live) -> None:
    page.asked(), page.complaints()  # those of the tests before
    page.browser.refresh()
    page.go()
    page.finish()
    assert page.asked() == [page.url, *[page.url + "v1/chat/completions"] * 2]
    assert page.complaints() == []
    blocked = (
        "return fetch('http://127.0.0.1:9/').catch(() => performance.getEntriesByType('resource').map(entry => entry.name))"
    )
    assert all(url.startswith(page.url) for url in page.run(blocked))
    assert any("connect-src 'self'" in entry["message"] for entry in page.complaints())


def test_the_key_is_asked_for_only_where_it_is_needed(browser: webdriver.Chrome, page: Live, model: Denoiser) -> None:
    assert not page.one("#key").is_displayed()
    with serving(Engine(model), Options(api_keys=("right",))) as served:
        page = Live(browser, served.url)
        page.fill("#key", "wrong")
        page.go()
        assert page.finish() == [served.chat(QUESTION, "wrong")["error"]["message"]] * 2
        page.fill("#key", "right")
        page.go()
        assert all(state.startswith("done") for state in page.finish())
        assert page.run("return [localStorage.length, sessionStorage.length, document.cookie, location.search]") == [
            0,
            0,
            "",
            "",
        ]


def test_a_full_server_says_when_to_come_again(browser: webdriver.Chrome, model: Denoiser) -> None:
    with serving(Paced(model, Limits(rows=1)), Options(queue=1)) as served:
        page = Live(browser, served.url)
        busy = threading.Thread(target=served.chat, args=(QUESTION,), kwargs={"method": "vanilla", "max_new_tokens": 64})
        busy.start()
        page.until(lambda: served.call("health")["running"] == 1)
        page.go()
        page.until(lambda: any("try again in about" in state for state in page.states()))
        page.press(Keys.ESCAPE)
        page.finish()
        busy.join()


def test_a_failed_forward_and_a_server_that_leaves(browser: webdriver.Chrome, model: Denoiser) -> None:
    engine = Paced(model)
    with serving(engine) as served:
        page = Live(browser, served.url)
        Select(page.one(".method")).select_by_visible_text("vanilla")
        page.one("#compare").click()
        page.go()
        page.until(lambda: page.all(".draft"))
        engine.fails = True
        assert page.finish() == ["the server failed; its log says why"]
        engine.fails = False
        page.go()
        page.until(lambda: page.all(".draft"))
        served.stop(at_once=True)
        lost = ["the connection to the server is lost: is it still running?"]
        assert page.finish() == lost
        assert page.all(".token")  # what had come stays
        page.go()
        assert page.finish() == lost


def test_a_model_without_a_chat_template_goes_on_with_the_text(browser: webdriver.Chrome) -> None:
    plain: Any = unmask.load("unmask-tiny-base")
    plain.tokenizer.chat_template = None
    with serving(Engine(plain), Options(method="r2-dllm", settings={"threshold": 0.7})) as served:
        page = Live(browser, served.url)
        assert Select(page.one(".method")).first_selected_option.text == "this server's own"
        page.go()
        assert all(state.startswith("done") for state in page.finish())
        assert set(page.asked()) == {page.url, page.url + "v1/completions"}
        assert page.answers()[0] == served.call("v1/completions", {"prompt": QUESTION})["choices"][0]["text"]


def test_pointing_at_a_token_tells_its_rule_and_how_sure(page: Live) -> None:
    page.go()
    page.finish()
    word = page.all(".written .word")[0]
    assert re.fullmatch(rf"{re.escape(word.text)}\n[a-z ]+, forward \d+\nconfidence [01]\.\d{{3}}", page.hover(word))
    assert page.hover(page.one("h1")) == ""


def test_examples_are_offered_and_the_first_is_there(page: Live, served: Served, browser: webdriver.Chrome) -> None:
    page.browser.refresh()
    first, second, third = (chip.text for chip in page.all("#examples button"))
    assert page.one("#prompt").get_attribute("value") == first
    page.all("#examples button")[1].click()
    page.finish()
    assert page.one("#prompt").get_attribute("value") == second != third
    assert page.answers()[1] == served.chat(second, method="fast-dllm")["choices"][0]["message"]["content"]
    with serving(Engine(replace(toy("sdar"), tokenizer=Bytes(), name="bytewise"))) as other:
        assert not Live(browser, other.url).one("#examples").is_displayed()


def test_a_finished_decode_is_replayed_and_its_counts_are_its_figures(page: Live) -> None:
    assert not page.one("#bar").is_displayed()
    page.go()
    page.finish()
    ended, last = page.answers(), int(max(page.figures("forwards"), key=int))
    kept = page.figures("seconds")
    assert page.one("#where").text == f"forward {last} of {last}"
    for pane in page.all(".pane"):
        counts = sum(int(count.text) for count in pane.find_elements("css selector", ".legend b"))
        forwards, rate = (float(pane.find_element("css selector", f".{name}").text) for name in ("forwards", "rate"))
        assert abs(counts / forwards - rate) < 0.01
    page.run("document.activeElement.blur()")
    page.press(Keys.HOME)
    assert page.answers() == ["", ""]
    assert page.figures("forwards") == ["0", "0"]
    page.press(Keys.ARROW_RIGHT)
    assert page.figures("forwards") == ["1", "1"]
    assert page.all(".pane:first-child .draft")
    page.one("#drafts").click()
    assert not page.all(".pane:first-child .draft")
    page.one("#drafts").click()
    page.one("#play").click()
    page.until(lambda: page.one("#play").accessible_name == "Play")
    assert page.answers() == ended
    assert page.figures("seconds") == kept


def test_everything_that_can_be_used_has_a_name(page: Live) -> None:
    page.one("#more summary").click()
    used = [part for part in page.all("button, input, select, textarea, summary, .answer, article") if part.is_displayed()]
    assert len(used) == 8 - 1 + 2 * 4 + 3
    assert all(part.accessible_name for part in used)


def test_a_phone_stacks_the_panes_and_cuts_nothing_off(page: Live) -> None:
    page.resize(390, 844)
    page.one("#more summary").click()
    page.go()
    page.finish()
    assert page.run("return document.documentElement.scrollWidth") == 390
    assert page.run("return [...document.querySelectorAll('.pane *')].every(part => part.getBoundingClientRect().right <= 390)")
    first, second = (pane.rect for pane in page.all(".pane"))
    assert first["x"] == second["x"]
    assert first["y"] + first["height"] <= second["y"]
    assert page.one("#go").rect["height"] >= 44


def test_dark_paper_and_stillness_for_who_prefers_them(page: Live) -> None:
    bright = page.brightness()
    page.prefer(prefers_color_scheme="dark", prefers_reduced_motion="reduce")
    assert page.brightness() < 100 < 650 < bright
    page.run("paint(panes[0].answer.appendChild(blank()), { kind: 'written', text: 'x', rule: 'threshold', fresh: true })")
    assert page.run("return getComputedStyle(document.querySelector('.fresh .word')).animationName") == "none"
