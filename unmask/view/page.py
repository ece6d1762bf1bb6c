"""A decode as one self-contained HTML page, which replays one method or two side by side.

    page = render(traces)                                                # one trace, or two of the same prompt

The page itself is page.html beside this file: plain HTML, CSS and JavaScript with placeholders. All but that of the data
(look.css, tokens.js, bar.html, playback.js and the looks of the rules) are shared with the server's page.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from unmask.decode.rule import Look
from unmask.errors import ConfigError
from unmask.view.trace import FIXED, FIXED_LOOK, Trace


def render(traces: Sequence[Trace]) -> str:
    """The page's text. Raises ConfigError for anything but one trace or two of the same prompt."""
    if not 1 <= len(traces) <= 2:
        raise ConfigError(f"a page shows one decode or two side by side, got {len(traces)}")
    if len({trace.prompt for trace in traces}) > 1:
        raise ConfigError("the two traces answer different prompts: show each on a page of its own")
    written = {commit.rule: trace for trace in traces for step in trace.steps for commit in step.commits}
    looks = {rule: trace.look(rule) for rule, trace in written.items()}
    if any(trace.fixed for trace in traces):
        looks[FIXED] = FIXED_LOOK
    return fill("unmask.view", [trace.to_dict() for trace in traces], looks)


def fill(package: str, data: Any, looks: Mapping[str, Look]) -> str:
    """The page.html of a package (`unmask.view`) with its placeholders filled; no data can end its script element.

    Args:
        looks: how each rule that may occur is shown.
    """
    shared = files("unmask.view")
    page = files(package).joinpath("page.html").read_text(encoding="utf-8")
    parts = {
        "LOOK": shared.joinpath("look.css").read_text(encoding="utf-8"),
        "TOKENS": shared.joinpath("tokens.js").read_text(encoding="utf-8"),
        "BAR": shared.joinpath("bar.html").read_text(encoding="utf-8"),
        "PLAYBACK": shared.joinpath("playback.js").read_text(encoding="utf-8"),
        "RULES": _json({rule: asdict(look) for rule, look in looks.items()}),
        "DATA": _json(data),
    }
    # All in one pass, so that a placeholder inside a part stays as it is.
    return re.sub(r"/\*([A-Z]+)\*/", lambda place: parts[place[1]], page)


def _json(data: Any) -> str:
    """JSON that may stand in a script element: inside JSON a < can only stand in a string."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
