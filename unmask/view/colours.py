"""The colour of each commit rule, in the terminal and on the page: the one place that says so."""

from collections.abc import Mapping
from typing import NamedTuple


class Colour(NamedTuple):
    """One rule's colour: its name in a terminal, and CSS on light and on dark paper."""

    terminal: str
    light: str
    dark: str


# Rules that stand in for each other share a colour: no method has both.
_COUNTED = Colour("white", "#6b50cf", "#a996ff")
_SURE = Colour("green", "#0b9a6d", "#34d399")

COLOURS: Mapping[str, Colour] = {
    "quota": _COUNTED,
    "schedule": _COUNTED,
    "threshold": _SURE,
    "factor": _SURE,
    "confidence_cluster": Colour("cyan", "#2f6fed", "#6ea8ff"),
    "token_cluster": Colour("magenta", "#c0359f", "#f07fd8"),
    "temporal": Colour("yellow", "#d08700", "#fbbf4a"),
}
