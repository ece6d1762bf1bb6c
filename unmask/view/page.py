"""A decode as one HTML page that works from a file: it fetches nothing, and replays one method or two side by side.

    page = render(traces)                                                # one trace, or two of the same prompt

What it looks like and does is page.html beside this file, plain HTML, CSS and JavaScript with four places to fill. Three of
them, look.css, tokens.js and the rules' looks, it shares with the server's page (unmask/serve/page.html).
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from unmask.decode.rule import Look
from unmask.errors import ConfigError
from unmask.view.trace import Trace


def render(traces: Sequence[Trace]) -> str:
    """The page. Raises ConfigError for anything but one trace or two of the same prompt."""
    if not 1 <= len(traces) <= 2:
        raise ConfigError(f"a page shows one decode or two side by side, got {len(traces)}")
    if len({trace.prompt for trace in traces}) > 1:
        raise ConfigError("the two traces answer different prompts: show each on a page of its own")
    written = {commit.rule: trace for trace in traces for step in trace.steps for commit in step.commits}
    looks = {rule: trace.look(rule) for rule, trace in written.items()}
    return fill("unmask.view", [trace.to_dict() for trace in traces], looks)


def fill(room: str, data: Any, looks: Mapping[str, Look]) -> str:
    """The page.html of a room with style, script and data in their places; nothing in the data can end its element.

    Args:
        looks: how each rule that may occur is shown.
    """
    shared = files("unmask.view")
    page = files(room).joinpath("page.html").read_text(encoding="utf-8")
    parts = {
        "LOOK": shared.joinpath("look.css").read_text(encoding="utf-8"),
        "TOKENS": shared.joinpath("tokens.js").read_text(encoding="utf-8"),
        "RULES": _json({rule: asdict(look) for rule, look in looks.items()}),
        "DATA": _json(data),
    }
    # All at once: whatever a part says, nothing is filled into it.
    return re.sub(r"/\*([A-Z]+)\*/", lambda place: parts[place[1]], page)


def _json(data: Any) -> str:
    """JSON that may stand in a script element: inside JSON a < can only stand in a string."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
