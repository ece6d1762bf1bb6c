"""`unmask` whose forwards go wrong, as a program: python -m tests.serve.faulty MODE serve ...

MODE: hang (every forward after the first), hang-first, raise, nan-once, nan-always.
"""

import sys
import time
from typing import Any

from unmask.cli import main
from unmask.models.denoiser import Denoiser

HANG = 600.0  # seconds


def spoil(mode: str) -> None:
    """Let every model of this process go wrong."""
    real, calls = Denoiser.forward, [0]

    def forward(self: Denoiser, *arguments: Any) -> Any:
        calls[0] += 1
        if mode == "raise":
            raise RuntimeError("no forward")
        if mode == "hang-first" or (mode == "hang" and calls[0] > 1):
            time.sleep(HANG)
        logits = real(self, *arguments)
        return logits * float("nan") if mode == "nan-always" or (mode == "nan-once" and calls[0] == 1) else logits

    Denoiser.forward = forward  # type: ignore[method-assign]


if __name__ == "__main__":
    spoil(sys.argv[1])
    main(sys.argv[2:])
