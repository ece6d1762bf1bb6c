"""A decode as one HTML page that works from a file: it fetches nothing, and replays one method or two side by side.

    page = render(traces)                                                # one trace, or two of the same prompt

What it looks like and does is page.html beside this file, plain HTML, CSS and JavaScript with two places to fill.
"""

import json
from collections.abc import Sequence
from importlib.resources import files

from unmask.errors import ConfigError
from unmask.view.colours import COLOURS
from unmask.view.trace import Trace


def render(traces: Sequence[Trace]) -> str:
    """The page. Raises ConfigError for anything but one trace or two of the same prompt."""
    if not 1 <= len(traces) <= 2:
        raise ConfigError(f"a page shows one decode or two side by side, got {len(traces)}")
    if len({trace.prompt for trace in traces}) > 1:
        raise ConfigError("the two traces answer different prompts: show each on a page of its own")
    data = json.dumps([trace.to_dict() for trace in traces], ensure_ascii=False, allow_nan=False)
    page = files("unmask.view").joinpath("page.html").read_text(encoding="utf-8")
    # The data goes last: whatever it says, nothing is filled in after it. Inside JSON a < can only stand in a string.
    return page.replace("/*COLOURS*/", _palette()).replace("/*TRACES*/", data.replace("<", "\\u003c"))


def _palette() -> str:
    """The rules' colours as CSS variables, on light and on dark paper."""
    light = " ".join(f"--rule-{rule}: {colour.light};" for rule, colour in COLOURS.items())
    dark = " ".join(f"--rule-{rule}: {colour.dark};" for rule, colour in COLOURS.items())
    return f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"
