"""The terminal draws what a trace says."""

import io
import itertools
import re
from dataclasses import replace

import pytest
from rich.console import Console
from rich.text import Text

import unmask
from unmask.view.terminal import MASK, draw, play, watching
from unmask.view.trace import Commit, Recorder, Trace

QUESTION = "Mia has 23 apples. On Monday Mia buys 8. How many apples does Mia have?"


@pytest.fixture(scope="module")
def trace() -> Trace:
    recorder = Recorder(unmask.load("unmask-tiny-base"), 64)
    done = unmask.generate(unmask.load("unmask-tiny-base"), [QUESTION], method="r2-dllm", max_new_tokens=64, observer=recorder)
    return recorder.trace(prompt=QUESTION, method="r2-dllm", completion=done[0])


def shown(trace: Trace, forward: int | None = None, *, masks: bool = True) -> str:
    console = Console(file=io.StringIO(), width=400)
    with console.capture() as captured:
        console.print(draw(trace, forward, masks=masks))
    return captured.get()


def test_a_drawing_of_every_forward(trace: Trace) -> None:
    assert shown(trace, 0).split("\n")[0] == MASK * 64
    for forward in range(1, trace.forwards + 1):
        written = sum(len(step.commits) for step in trace.steps[:forward])
        assert shown(trace, forward).count(MASK) == 64 - written
        assert f"forward {forward} " in shown(trace, forward)
    assert shown(trace, masks=False).startswith(trace.text)
    assert "■ threshold" in shown(trace)


def test_what_the_grammar_refuses_stands_below_the_answer() -> None:
    recorder = Recorder(unmask.load("unmask-tiny-base"), 32)
    unmask.generate(unmask.load("unmask-tiny-base"), [QUESTION], max_new_tokens=32, regex="[a-z ]*[.]", observer=recorder)
    trace = recorder.trace()
    assert f"refused by the grammar   {trace.steps[0].refused[0].text.strip()}" in shown(trace, 1)
    assert "refused" not in shown(trace, 1, masks=False)
    assert "refused" not in shown(trace, 0)


def test_watching_records_what_it_shows(trace: Trace) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with watching(unmask.load("unmask-tiny-base"), 64, console) as recorder:
        unmask.generate(unmask.load("unmask-tiny-base"), [QUESTION], method="r2-dllm", max_new_tokens=64, observer=recorder)
    assert recorder.trace().steps == trace.steps


@pytest.mark.parametrize("terminal", [True, False])
def test_playing_ends_with_the_answer(trace: Trace, terminal: bool) -> None:
    screen = io.StringIO()
    play(trace, Console(file=screen, force_terminal=terminal, width=400), pause=0.0)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert plain.startswith("r2-dllm on unmask-tiny")
    assert trace.text in plain
    assert (MASK in plain) == terminal


@pytest.mark.parametrize("terminal", [True, False])
def test_without_colours_numbers_tell_the_rules_apart(trace: Trace, terminal: bool) -> None:
    first, second, *others = trace.steps
    temporal = tuple(commit._replace(rule="temporal") for commit in second.commits)
    mixed = replace(trace, steps=(first, replace(second, commits=temporal), *others))
    screen = io.StringIO()
    play(mixed, Console(file=screen, force_terminal=terminal, no_color=True, width=400), pause=0.0)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    body, legend = [line.strip() for line in plain.splitlines() if line.strip()][-2:]
    assert legend.endswith(("₁ threshold   ₂ temporal", "₁ temporal   ₂ threshold"))
    runs = [rule for rule, _ in itertools.groupby(cell.rule for cell in mixed.cells(mixed.forwards))]
    assert len(runs) > 2
    assert sum(map(body.count, "₁₂")) == sum(rule is not None for rule in runs)
    assert re.sub("[₁₂]", "", body).startswith(trace.text)


def test_a_rewritten_token_is_underlined(trace: Trace) -> None:
    again = Commit(0, 5, "edit", 0.9)
    first = replace(trace.steps[0], commits=(Commit(0, 4, "threshold", 0.8, "old"),), drafts=())
    rewritten = replace(trace, steps=(first, replace(first, commits=(again,))))
    assert shown(rewritten, 1).startswith("old")
    assert "rewritten" not in shown(rewritten, 1)
    body, _ = draw(rewritten, 2).renderables
    assert isinstance(body, Text)
    assert body.plain.startswith(trace.pieces[0])
    assert body.spans[0].style == "red underline"
    assert "■ edit   rewritten" in shown(rewritten, 2)
