"""Loads a checkpoint, answers, and prints what that took of memory: one process per measurement.

python -m tests.models.resident FOLDER DTYPE WEIGHTS TOKENS      # WEIGHTS: none, int8, int4 or fp8

The first number is what the process held before, with everything imported; the second the most that it held since; the third
what models/memory.py predicts for the difference. All in bytes, of resident memory.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import unmask
from unmask.models import memory
from unmask.models.room import TYPES, laid_out

ROWS = 32  # new tokens: a block


def resident(key: str) -> int:
    """A number of /proc/self/status: VmRSS, now; VmHWM, the most since it was reset."""
    found = re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def main(folder: str, dtype: str, weights: str, tokens: int) -> None:
    options: dict[str, Any] = {} if weights == "none" else {"weights": weights}
    unmask.generate(unmask.load("unmask-tiny", **options), ["Hi"], max_new_tokens=ROWS)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    model = unmask.load(folder, dtype=dtype, **options)
    prompt = [100 + index % 100 for index in range(tokens - ROWS)]  # neither mask nor end in any of the vocabularies
    unmask.generate(model, [prompt], method="fast-dllm", max_new_tokens=ROWS)
    rest = next(short for short, kind in TYPES.items() if kind == model.dtype)
    kind = rest if weights == "none" else weights
    packed = laid_out(model.device, kind)
    need = memory.need(model.network.shape, kind=kind, rest=rest, tokens=tokens, packed=packed)
    print(json.dumps([before, resident("VmHWM"), need.total]))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
