"""A decode as one HTML page that works from a file: it fetches nothing, and replays one method or two side by side.

    page = render(traces)                                                # one trace, or two of the same prompt

What it looks like and does is page.html beside this file, plain HTML, CSS and JavaScript with three places to fill. Two of
them, look.css and tokens.js, it shares with the server's page (unmask/serve/page.html).
"""

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from unmask.errors import ConfigError
from unmask.view.colours import COLOURS
from unmask.view.trace import Trace


def render(traces: Sequence[Trace]) -> str:
    """The page. Raises ConfigError for anything but one trace or two of the same prompt."""
    if not 1 <= len(traces) <= 2:
        raise ConfigError(f"a page shows one decode or two side by side, got {len(traces)}")
    if len({trace.prompt for trace in traces}) > 1:
        raise ConfigError("the two traces answer different prompts: show each on a page of its own")
    return fill("unmask.view", [trace.to_dict() for trace in traces])


def fill(room: str, data: Any) -> str:
    """The page.html of a room with look, script and data in their places; nothing in the data can end its element."""
    shared = files("unmask.view")
    page = files(room).joinpath("page.html").read_text(encoding="utf-8")
    look = _palette() + shared.joinpath("look.css").read_text(encoding="utf-8")
    page = page.replace("/*LOOK*/", look).replace("/*TOKENS*/", shared.joinpath("tokens.js").read_text(encoding="utf-8"))
    text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    # The data goes last: whatever it says, nothing is filled in after it. Inside JSON a < can only stand in a string.
    return page.replace("/*DATA*/", text.replace("<", "\\u003c"))


def _palette() -> str:
    """The rules' colours as CSS variables, on light and on dark paper."""
    light = " ".join(f"--rule-{rule}: {colour.light};" for rule, colour in COLOURS.items())
    dark = " ".join(f"--rule-{rule}: {colour.dark};" for rule, colour in COLOURS.items())
    return f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
