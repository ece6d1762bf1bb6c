"""The program behind math_verifier.py: a question a line, [key, answer], and true or false a line.

It imports nothing of unmask, so it starts in half a second.
"""

import json
import logging
import sys

MEMORY = 2 * 2**30  # bytes


def main() -> None:
    """Answer questions until there are no more. The first line says that it is ready."""
    from math_verify import parse, verify

    _limit_memory()
    logging.disable()
    replies, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints is no reply
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        key, answer = json.loads(line)
        try:
            # No time limits: they are signals. The parent has its own.
            parsed = (parse(text, parsing_timeout=None) for text in (key, answer))
            right = bool(verify(*parsed, timeout_seconds=None))
        except Exception:  # of SymPy, of the parser, of memory: in any case not shown to be the same
            right = False
        print(json.dumps(right), file=replies, flush=True)


def _limit_memory() -> None:
    """9^{9^9} has 370 million digits."""
    try:
        import resource
    except ImportError:  # Windows: the time limit has to do
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


if __name__ == "__main__":
    main()
