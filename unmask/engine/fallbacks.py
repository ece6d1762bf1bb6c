"""What an engine has given up for its plain form: counted, and said once of each kind. Nothing is lost by it."""

import warnings
from collections import Counter
from typing import Literal, get_args

# A step that is launched kernel by kernel and not replayed; kernels that a device refuses; a forward cut into smaller ones.
Fallback = Literal["graph", "kernels", "memory"]

_SAID: dict[Fallback, str] = {
    "graph": "a step could not be captured as a CUDA graph and is launched kernel by kernel, which is slower",
    "kernels": "a kernel failed, and plain PyTorch takes its place, which is slower",
    "memory": "a forward did not fit into the device's memory, and later ones hold fewer tokens",
}


class Fallbacks:
    """The counts of one engine."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter(dict.fromkeys(get_args(Fallback), 0))

    def note(self, what: Fallback, error: Exception) -> None:
        """Count one, with a warning where it is the first of its kind."""
        self.counts[what] += 1
        if self.counts[what] == 1:
            warnings.warn(f"{_SAID[what]}: {type(error).__name__}: {error}", stacklevel=2)
