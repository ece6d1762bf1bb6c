"""Run a generated program where it can do no harm, and find out whether it reached its end.

    sandbox.run("assert sorted([2, 1]) == [1, 2]").passed

Linux namespaces, limits and a list of allowed system calls (libseccomp), made anew for every program by evals/jail.py, the
same for root and for an ordinary user. Inside, a program has

    files       its interpreter, the installed packages and system libraries, read-only; 64 MiB in /tmp, in memory, gone
                afterwards. No other file of the machine exists in there, and no /proc.
    processes   one, with one thread: fork and threads are refused. It sees no process from outside. Processes that
                still run at the verdict are killed by the kernel with the namespace.
    memory      `memory_bytes` of address space, those 64 MiB, and the buffers of 64 pipes and socket pairs, less than
                32 MiB; no memory that outlives its mapping (memfd, SysV, userfaultfd), no larger pipes
    time        `seconds` of processor time, so that a busy machine changes no verdict; six times that on the clock, from
                its first line, for a program that sleeps
    network     none: no interface, and no socket but a pair of its own
    user        no capabilities and no way to new ones; root becomes the user `nobody`; an empty environment
    output      any amount, of which the last 4 KiB are kept

A program has passed if it came to its end: only then does its process send a nonce that the program was not given (jail.py,
RUNNER). Ending early in whatever way, exit code 0 included, is a failure. There is no protection against a program that
searches its interpreter's frames for the nonce, values that compare equal to everything, faults of the kernel itself, and
what a program learns of the machine by reading its libraries or by timing it. The kernel's own bookkeeping for a program (page
tables, 4096 inodes) is counted by no limit here: a container's memory limit counts it.
"""

import json
import os
import site
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from unmask.errors import ConfigError

JAIL = Path(__file__).with_name("jail.py")
SYSTEM = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/dev/null", "/dev/zero", "/dev/urandom")
LEAST_MEMORY = 64 * 2**20
MOST_SECONDS = 3600
WALL = 6  # seconds on the clock per second of processor time
PATIENCE = 60.0  # further seconds for the jail itself, on a busy machine

Status = Literal["passed", "failed", "timed out", "out of memory"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a program ended.

    Attributes:
        status: "passed" only if it came to its end.
        reason: one line that says why it did not.
        output: the last 4 KiB of what it wrote, both streams.
    """

    status: Status
    reason: str = ""
    output: str = ""

    @property
    def passed(self) -> bool:
        return self.status == "passed"


def run(program: str, *, seconds: float = 5.0, memory_bytes: int = 512 * 2**20) -> Outcome:
    """Run a Python program; safe to call from several threads at once, and no program makes it raise.

    Args:
        program: any text; it runs as an imported module, so code under __name__ == "__main__" does not run.
        seconds: of processor time, the interpreter's start (hundredths) included.
        memory_bytes: of address space, at least 64 MiB.

    Raises:
        ConfigError: a bad limit, or this machine refuses the isolation; no program runs without it.

    >>> run("assert 1 + 1 == 3, 'one and one'").reason
    'AssertionError: one and one'
    """
    if not 0 < seconds <= MOST_SECONDS:
        raise ConfigError(f"seconds must be more than 0 and at most {MOST_SECONDS}, got {seconds!r}")
    if memory_bytes < LEAST_MEMORY:
        raise ConfigError(f"memory_bytes must be at least {LEAST_MEMORY}, got {memory_bytes!r}")
    if sys.platform != "linux":
        raise _refusal(f"{sys.platform} has no namespaces")
    limits = {"seconds": seconds, "wall_seconds": WALL * seconds, "memory_bytes": memory_bytes}
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-B", str(JAIL)],
            input=json.dumps({"program": program, **limits, **_interpreter()}).encode(),
            capture_output=True,
            env={},
            start_new_session=True,  # signals of the terminal reach this process alone
            timeout=WALL * seconds + PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Outcome(status="timed out", reason="its jail did not end")
    try:
        answer = json.loads(done.stdout)
    except ValueError:  # killed from outside, for instance because the machine ran out of memory
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return Outcome(status="failed", reason=f"its jail died: {last or f'exit code {done.returncode}'}")
    if "refused" in answer:
        raise _refusal(answer["refused"])
    return Outcome(**answer)


def check() -> None:
    """Raises ConfigError if no program can be run; a task calls this first, before any answer is decoded."""
    outcome = run("")
    if not outcome.passed:
        raise _refusal(outcome.reason)


def _interpreter() -> dict[str, Any]:
    """The interpreter and its packages, and their places inside (path inside -> path outside)."""
    packages = [os.path.realpath(folder) for folder in site.getsitepackages() if os.path.isdir(folder)]
    places = {path: os.path.realpath(path) for path in SYSTEM if os.path.exists(path)}
    places |= {path: path for path in (os.path.realpath(sys.base_prefix), *packages)}
    return {"python": os.path.realpath(sys.executable), "packages": packages, "places": places}


def _refusal(why: str) -> ConfigError:
    return ConfigError(
        f"generated programs run only in a sandbox, which this machine refuses ({why}). It takes Linux 5.12 or newer, "
        "libseccomp (libseccomp2 in Debian and Ubuntu) and user namespaces (sysctl user.max_user_namespaces above 0, "
        "kernel.apparmor_restrict_unprivileged_userns 0); in Docker, start the container with "
        "--security-opt seccomp=unconfined --security-opt apparmor=unconfined"
    )
