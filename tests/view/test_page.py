"""The page is whole in itself and holds its traces unchanged, whatever is written in them. See test_browser.py for its life."""

import dataclasses
import json
import re
from typing import Any

import pytest

import unmask
from unmask.decode.rule import Look
from unmask.methods.table import looks
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


def embedded(page: str, name: str = "traces") -> Any:
    """What a browser reads from the page's data."""
    found = re.findall(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.DOTALL)
    assert len(found) == 1
    return json.loads(found[0])


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
    known, own = made("plain"), Look(label="</script>", sentence="*/", terminal="red", light="#112233", dark="#aabbcc")
    named = dataclasses.replace(made("plain"), rules={"/*DATA*/": own}, steps=(first(made("plain"), rule="/*DATA*/"),))
    strange = dataclasses.replace(made("plain"), steps=(first(made("plain"), rule="a rule of tomorrow"),))
    assert embedded(render([known]), "rules") == {"threshold": dataclasses.asdict(looks()["threshold"])}
    assert embedded(render([named, strange]), "rules") == {
        "/*DATA*/": dataclasses.asdict(own),
        "a rule of tomorrow": dataclasses.asdict(strange.look("a rule of tomorrow")),
    }


def first(trace: Trace, *, rule: str) -> Step:
    """The trace's step with another rule."""
    step = trace.steps[0]
    return dataclasses.replace(step, commits=tuple(commit._replace(rule=rule) for commit in step.commits))


def test_one_decode_or_two_of_the_same_prompt() -> None:
    trace = made("plain")
    assert len(embedded(render([trace, trace]))) == 2
    for traces in ([], [trace] * 3):
        with pytest.raises(unmask.ConfigError, match=f"got {len(traces)}"):
            render(traces)
    with pytest.raises(unmask.ConfigError, match="different prompts"):
        render([trace, dataclasses.replace(trace, prompt="another")])
