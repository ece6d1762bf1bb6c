"""Whether two mathematical answers mean the same, by the library math-verify in a child process (math_child.py).

An answer like 9^{9^{9^9}} keeps SymPy busy for hours, out of reach of any signal, and math-verify's own time limits work
only in a program's main thread. A child process that takes too long is killed and replaced.
"""

import contextlib
import json
import subprocess
import sys
import threading
import weakref
from pathlib import Path

from unmask.errors import ConfigError, install

CHILD = Path(__file__).with_name("math_child.py")


class MathVerifier:
    """Compares LaTeX or plain answers; callable from any thread, one pair at a time.

    Attributes:
        seconds: a comparison that takes longer, or two gigabytes of memory, counts as different.

    Raises ConfigError if math-verify is not installed.
    """

    def __init__(self, seconds: float = 10.0) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._start()

    def same(self, key: str, answer: str) -> bool:
        r"""Whether `answer` means what `key` means.

        >>> MathVerifier().same(r"\\boxed{\\frac{1}{2}}", r"\\boxed{0.5}")
        True
        """
        with self._lock:
            if self._child.poll() is not None:
                self._start()
            reply = self._ask(json.dumps([key, answer]))
            if not reply:
                self._end()
            return reply == "true\n"

    def _ask(self, question: str) -> str:
        """The child's reply; empty if it died or was killed."""
        child = self._child
        assert child.stdin is not None
        assert child.stdout is not None
        limit = threading.Timer(self.seconds, child.kill)
        limit.start()
        try:
            child.stdin.write(question + "\n")
            child.stdin.flush()
            return child.stdout.readline()
        except OSError:
            return ""
        finally:
            limit.cancel()
            limit.join()

    def _start(self) -> None:
        # -P: no imports from the child's folder. -W: its warnings must not become errors.
        command = [sys.executable, "-P", "-W", "ignore", str(CHILD)]
        pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
        self._child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nowhere, text=True)
        self._end = weakref.finalize(self, _close, self._child)
        assert self._child.stdout is not None
        if self._child.stdout.readline() != "ready\n":
            self._end()
            raise ConfigError(f"math500 needs math-verify: {install('eval')}")


def _close(child: "subprocess.Popen[str]") -> None:
    child.kill()
    with contextlib.suppress(OSError), child:  # closing flushes the pipe
        pass
