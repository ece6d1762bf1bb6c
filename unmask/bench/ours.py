"""Ours as a peer: the engine behind the same lines that every peer reads and writes (bench/peers.py).

python -m unmask.bench.ours MODEL [--dtype bfloat16]
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from typing import Any

import unmask
from unmask.models.denoiser import Denoiser


def answer(model: Denoiser, asked: Mapping[str, Any]) -> dict[str, Any]:
    """One line of a peer's answers: all prompts as one batch."""
    method = unmask.Method.from_dict(asked["method"])
    began = time.process_time()
    done = unmask.generate(model, asked["prompts"], method=method, max_new_tokens=asked["max_new_tokens"])
    return {
        "cpu_seconds": time.process_time() - began,
        "tokens": [row.token_ids for row in done],
        "forwards": [row.forwards for row in done],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    model = unmask.load(given.model, dtype=given.dtype, device=given.device)
    for line in sys.stdin:
        print(json.dumps(answer(model, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
