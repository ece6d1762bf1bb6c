"""The program behind math_verifier.py: reads one [key, answer] per line, and writes true or false per line.

It imports nothing from unmask, so it starts in half a second.
"""

import json
import logging
import sys

MEMORY = 2 * 2**30  # bytes


def main() -> None:
    """Answer questions until the input ends. The first line of output says that it is ready."""
    from math_verify import parse, verify

    _limit_memory()
    logging.disable()
    replies, sys.stdout = sys.stdout, sys.stderr  # so that no print of a library is taken for a reply
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        key, answer = json.loads(line)
        try:
            # No time limits: they are signals. The parent has its own.
            parsed = (parse(text, parsing_timeout=None) for text in (key, answer))
            right = bool(verify(*parsed, timeout_seconds=None))
        except Exception:  # SymPy, the parser or memory failed: not shown to be the same
            right = False
        print(json.dumps(right), file=replies, flush=True)


def _limit_memory() -> None:
    """9^{9^9} has 370 million digits."""
    try:
        import resource
    except ImportError:  # Windows has only the time limit
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


if __name__ == "__main__":
    main()
