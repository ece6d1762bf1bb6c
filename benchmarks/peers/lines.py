"""What the adapters here have in common: the lines that a peer reads and writes (unmask/bench/peer.py), one prompt at a time.

It lies beside them and needs Python alone, since an adapter runs in the other program's environment, without unmask.
"""

import json
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any


def serve(decode: Callable[[list[int], dict[str, Any]], tuple[list[int], int]], note: str) -> None:
    """Answer lines until the input ends; `decode` gets a prompt's ids and the whole line, and returns ids and forwards.

    `note` is what a reader of the table must know.
    """
    for line in sys.stdin:
        with redirect_stdout(sys.stderr):  # stdout is for answers alone
            asked = json.loads(line)
            began = time.process_time()
            made = [decode(ids, asked) for ids in asked["prompts"]]
            spent = time.process_time() - began
        tokens, forwards = [ids for ids, _ in made], [calls for _, calls in made]
        print(json.dumps({"tokens": tokens, "forwards": forwards, "cpu_seconds": spent, "note": note}), flush=True)
