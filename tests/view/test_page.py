"""The page is whole in itself and holds its traces unchanged, whatever is written in them. See test_browser.py for its life."""

import dataclasses
import json
import re

import pytest
from unmask.view.colours import COLOURS

import unmask
from unmask.view.page import render
from unmask.view.trace import Commit, Step, Trace

HOSTILE = ("</script><script>alert(1)</script>", "<!--", "<img src=x onerror=alert(1)>", "/*DATA*/", "\u2028'\"&lt;")


def made(*pieces: str) -> Trace:
    """A decode of one forward."""
    commits = tuple(Commit(place, place, "threshold", 0.5) for place in range(len(pieces)))
    return Trace(
        model="toy",
        method="fast-dllm",
        settings={},
        prompt="".join(pieces),
        length=len(pieces),
        steps=(Step(refresh=True, queried=9, start=0, commits=commits, drafts=()),),
        pieces=pieces,
        text="".join(pieces),
        tokens=len(pieces),
        finish_reason="length",
    )


def embedded(page: str) -> list[dict[str, object]]:
    """What a browser reads from the page's data."""
    found = re.findall(r'<script type="application/json" id="traces">(.*?)</script>', page, re.DOTALL)
    assert len(found) == 1
    traces: list[dict[str, object]] = json.loads(found[0])
    return traces


def test_nothing_in_a_trace_breaks_out_of_the_data() -> None:
    trace = made(*HOSTILE)
    page = render([trace])
    assert embedded(page) == json.loads(json.dumps([trace.to_dict()]))
    assert page.count("</script>") == render([made("plain")]).count("</script>")
    assert "<img" not in page


def test_the_page_names_no_other_place() -> None:
    page = render([made("plain")])
    assert not re.search(r"https?:|//[a-z]|url\(|@import|\bsrc=|innerHTML|fetch\(", page)
    assert "default-src 'none'" in page


def test_every_rule_is_coloured_on_light_and_on_dark() -> None:
    page = render([made("plain")])
    for rule, colour in COLOURS.items():
        assert f"--rule-{rule}: {colour.light};" in page
        assert f"--rule-{rule}: {colour.dark};" in page


def test_one_decode_or_two_of_the_same_prompt() -> None:
    trace = made("plain")
    assert len(embedded(render([trace, trace]))) == 2
    for traces in ([], [trace] * 3):
        with pytest.raises(unmask.ConfigError, match=f"got {len(traces)}"):
            render(traces)
    with pytest.raises(unmask.ConfigError, match="different prompts"):
        render([trace, dataclasses.replace(trace, prompt="another")])
