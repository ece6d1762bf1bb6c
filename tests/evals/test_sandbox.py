"""The sandbox against harmful programs, as the user of the tests and as an ordinary user."""

import json
import os
import site
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import unmask
from unmask.evals import jail, sandbox
from unmask.evals.sandbox import run

ROOT = Path(__file__).parents[2]
LIBC = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
IGNORE_SIGNALS = """
import signal
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
"""
DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(60)
    os._exit(0)
os.wait()
"""


REFUSED = (
    "socket connect bind sendmsg recvmsg sendmmsg setsockopt io_uring_setup memfd_create shmget shmat semget msgget mq_open "
    "userfaultfd bpf perf_event_open pidfd_open pidfd_getfd process_vm_readv process_vm_writev ptrace add_key keyctl "
    "unshare setns mount umount2 pivot_root open_by_handle_at vmsplice splice tee inotify_init1 fanotify_init request_key "
    "name_to_handle_at personality init_module finit_module kexec_load reboot sethostname settimeofday swapon syslog"
)


def numbers(names: str) -> list[int]:
    """Numbers of system calls here."""
    return [jail.seccomp().seccomp_syscall_resolve_name(name.encode()) for name in names.split()]


@pytest.fixture
def visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of ours that programs see among their packages: what they could damage, and a name for their mounts."""
    monkeypatch.setattr(site, "getsitepackages", lambda: [str(tmp_path)])
    (tmp_path / "victim.py").write_text("alive = True\n")
    (tmp_path / "victim.py").chmod(0o666)
    tmp_path.chmod(0o777)
    return tmp_path


@pytest.fixture
def weakened(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Remove one barrier of the jail, to see that the next one holds, too."""

    def weaken(old: str, new: str) -> None:
        text = sandbox.JAIL.read_text()
        assert old in text
        changed = tmp_path_factory.mktemp("weakened") / "jail.py"
        changed.write_text(text.replace(old, new))
        monkeypatch.setattr(sandbox, "JAIL", changed)

    return weaken


def inside(folder: Path) -> list[int]:
    """Processes of the machine that run in a jail in which `folder` is visible."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/mountinfo"):
        try:
            mounts = entry.read_text()
        except OSError:
            continue
        if str(folder) in mounts:
            found.append(int(entry.parent.name))
    return found


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- verdicts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "program",
    [
        "",
        "assert sorted([2, 1]) == [1, 2]",
        "import dataclasses, json, re, tempfile\ntempfile.TemporaryFile().write(b'x')",
        "import asyncio\nasyncio.run(asyncio.sleep(0))",
        "open('/dev/null', 'w').write('x')",
        "from victim import alive\nassert alive",
        "if __name__ == '__main__':\n    raise SystemExit(input())",
        "# -*- coding: utf-8 -*-\nassert 'ä' == '\\xe4'\r\n",
    ],
)
def test_honest_programs_pass(program: str, visible: Path) -> None:
    assert run(program) == sandbox.Outcome(status="passed")


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("assert 1 == 2, 'not so'", "AssertionError: not so"),
        ("nonsense(", "SyntaxError: '(' was never closed"),
        ("\0", "SyntaxError: source code string cannot contain null bytes"),
        ("input()", "EOFError: EOF when reading a line"),
        ("import ctypes\nctypes.string_at(0)", "killed by signal 11"),
    ],
)
def test_a_failure_has_a_reason(program: str, reason: str) -> None:
    outcome = run(program)
    assert (outcome.status, outcome.passed, outcome.reason) == ("failed", False, reason)


def test_the_same_program_gets_the_same_verdict() -> None:
    """Strings hash alike every time, so a set comes in the same order."""
    program = "import sys\nprint(list({'a', 'b', 'c', 'd', 'e', 'f'}), file=sys.stderr)"
    assert run(program).output == run(program).output != ""


def test_many_at_once() -> None:
    with ThreadPoolExecutor(6) as pool:
        outcomes = list(pool.map(lambda number: run(f"print({number})\nassert {number} % 2"), range(12)))
    assert [outcome.passed for outcome in outcomes] == [bool(number % 2) for number in range(12)]
    assert all(outcome.output.startswith(f"{number}\n") for number, outcome in enumerate(outcomes))


@settings(max_examples=15)
@given(
    st.text() | st.text(alphabet=st.characters(categories=["Cs", "Cc"])) | st.sampled_from(["(" * 10**5, "-" * 10**6, "\ud800"])
)
def test_any_text_has_an_outcome(program: str) -> None:
    outcome = run(program, seconds=1)
    assert outcome.passed or outcome.reason


@pytest.mark.parametrize(
    "program",
    [
        "import os\nos._exit(0)",
        "import sys\nsys.exit(0)",
        "raise SystemExit",
        "exit = __import__('os')._exit\nexit(77 - 77)",
        "import os\nos.write(3, b'ready')\nos._exit(0)",
        "import os\nos.write(3, bytes(16))\nos._exit(0)",
        "import os\nos.write(3, bytes(16))",
        "import os\nos.close(3)",
        "import os\nos.execv('/usr/bin/env', ['env', 'true'])",
        "import builtins\nbuiltins.AssertionError = builtins.BaseException = builtins.MemoryError = Warning\nassert False",
        "import builtins, os\nbuiltins.exec = builtins.compile = print\nos.write = os._exit = print\nassert False",
        "import sys\nsys.excepthook = lambda *_: __import__('os')._exit(0)\nassert False",
        "import atexit, os\natexit.register(os._exit, 0)\nassert False",
    ],
)
def test_nothing_passes_that_does_not_reach_its_end(program: str) -> None:
    assert run(program).status == "failed"


# --- resources ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        IGNORE_SIGNALS + "while True: pass",
        "import time\ntime.sleep(60)",
        IGNORE_SIGNALS + "import time\ntime.sleep(60)",
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
        "import os, time\nos.closerange(0, 64)\ntime.sleep(60)",
        "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 1))\nwhile True: pass",
        "while True: print('x' * 10**6)",
    ],
)
def test_time_runs_out(program: str) -> None:
    began = time.monotonic()
    outcome = run(program, seconds=0.2)
    assert (outcome.status, len(outcome.output) <= 4096) == ("timed out", True)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("bytearray(10 * 2**30)", "out of memory"),
        ("kept = []\nwhile True: kept.append(bytearray(10**7))", "out of memory"),
        ("import mmap\nmmap.mmap(-1, 10 * 2**30)", "failed"),
        ("import os\nos.memfd_create('hoard')", "failed"),
        ("import os\nos.memfd_create('hoard', os.MFD_HUGETLB | os.MFD_HUGE_2MB)", "failed"),
        (LIBC + "if libc.syscall(447, 0) < 0: raise OSError(ctypes.get_errno())", "failed"),  # memfd_secret
        ("import mmap\nkept = [mmap.mmap(-1, 10**7, mmap.MAP_SHARED) for _ in range(100)]", "failed"),
        ("import fcntl, os\nfcntl.fcntl(os.pipe()[1], 1031, 2**20)", "failed"),  # F_SETPIPE_SZ
        (LIBC + "if libc.syscall(72, os.pipe()[1], (1 << 32) | 1031, 2**20) < 0: raise OSError(ctypes.get_errno())", "failed"),
        (LIBC + "if libc.shmget(0, 10**6, 0o1777) < 0: raise OSError(ctypes.get_errno())", "failed"),
        (LIBC + "if libc.msgget(0, 0o1777) < 0: raise OSError(ctypes.get_errno())", "failed"),
        ("import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))", "failed"),
    ],
)
def test_memory_runs_out(program: str, status: str) -> None:
    assert run(program, memory_bytes=128 * 2**20).status == status


@pytest.mark.parametrize("ends", ["os.pipe()", "[end.detach() for end in socket.socketpair()]"])
def test_pipes_and_sockets_hold_little(ends: str) -> None:
    """All that their buffers take, in as many as a program may open."""
    outcome = run(f"""
import os, socket
total = 0
try:
    while True:
        for end in {ends}[::-1]:
            try:
                os.set_blocking(end, False)
                while True:
                    total += os.write(end, bytes(2**16))
            except OSError:
                pass
except OSError as error:
    assert error.errno == 24, error
    print(total)
""")
    assert outcome.passed, outcome
    assert int(outcome.output) < 32 * 2**20


def test_the_disk_does_not_fill(visible: Path) -> None:
    many = "for number in range(1000):\n    with open(f'{number}', 'wb') as file: file.write(bytes(10**6))"
    assert "No space left on device" in run(many).reason
    assert "No space left on device" in run("for number in range(10**5): open(f'{number}', 'w').close()").reason
    assert "File too large" in run("open('one', 'wb').truncate(10**9)").reason
    deleted = """
import os
kept = []
while True:
    kept.append(open("x", "wb"))
    os.remove("x")
    kept[-1].write(bytes(10**7))
"""
    assert "No space left on device" in run(deleted).reason
    assert "No space left on device" not in run("open('two', 'wb').write(bytes(5 * 10**7))").reason


def test_gigabytes_of_output_are_not_kept() -> None:
    outcome = run("import os\nfor _ in range(1000): os.write(1, b'x' * 10**6)\nprint('the end')", seconds=20)
    assert outcome.passed
    assert len(outcome.output) == 4096
    assert outcome.output.endswith("the end\n")


# --- damage -----------------------------------------------------------------------------------------------------------


def test_files_stay_as_they_are(visible: Path) -> None:
    """The file is writable for all users, and the program runs as the user `nobody` or as ours."""
    victim, hidden = visible / "victim.py", Path(__file__)
    for attempt in (
        f"open({str(victim)!r}, 'w').write('dead')",
        f"import os; os.remove({str(victim)!r})",
        f"import os; os.rename({str(victim)!r}, '/tmp/victim')",
        f"import os; os.chmod({str(victim)!r}, 0)",
        f"import os; os.utime({str(victim)!r})",
        f"import os; os.mkdir({str(visible / 'new')!r})",
        f"import os; os.link({str(victim)!r}, {str(visible / 'twin')!r})",
        f"open({str(hidden)!r})",
        "open('/etc/passwd')",
        "open('/proc/self/environ')",
        "import os; os.listdir('/sys')",
        "import os; os.mkdir('/new')",
        "import os; open(os.__file__, 'a')",
        "open('/program.py', 'a')",
    ):
        outcome = run(attempt)
        assert outcome.status == "failed", attempt
        assert outcome.reason.startswith(("OSError", "PermissionError", "FileNotFoundError")), outcome
    assert [path.name for path in visible.iterdir()] == ["victim.py"]
    assert victim.read_text() == "alive = True\n"


@pytest.mark.parametrize(
    "attempt",
    [
        "libc.mount(None, b'/usr', None, 4096 | 32, None)",
        "libc.mount(b'x', b'/tmp', b'tmpfs', 0, None)",
        "libc.umount2(b'/usr', 2)",
        "libc.unshare(0x10000000)",
        "libc.unshare(0x20000)",
        "libc.chroot(b'/tmp')",
        "libc.setuid(0)",
        "libc.ptrace(16, 1, 0, 0)",
        "libc.mknod(b'/tmp/disk', 0o60666, 0x0800)",
        *[f"libc.syscall({number}, 0, 0, 0)" for number in numbers(REFUSED)],
        "libc.syscall(2000, 0, 0, 0)",
        f"libc.syscall({numbers('clone')[0]}, {0x10000000 | 17}, 0, 0, 0, 0)",
        f"libc.syscall({numbers('clone')[0]}, {0x20000000 | 17}, 0, 0, 0, 0)",
    ],
)
def test_no_power_is_left(attempt: str) -> None:
    outcome = run(LIBC + f"assert {attempt} == -1\nassert os.strerror(ctypes.get_errno()) == 'Operation not permitted'")
    assert outcome.passed, outcome


def test_the_environment_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "do-not-tell")
    outcome = run(
        "import glob, os\nprint(dict(os.environ))\n"
        "for path in (f'/proc/{os.getppid()}/environ', '/proc/self/environ', *glob.glob('/proc/*/environ')):\n"
        "    assert not os.path.exists(path)\n"
    )
    assert outcome.passed
    assert "HOME" in outcome.output
    assert "SECRET_TOKEN" not in outcome.output


@pytest.mark.parametrize(
    "kind", ["AF_INET, socket.SOCK_STREAM", "AF_INET, socket.SOCK_DGRAM", "AF_UNIX", "AF_INET6", "AF_NETLINK", "AF_VSOCK"]
)
def test_no_socket_opens(kind: str) -> None:
    reasons = ("PermissionError: [Errno 1]", "AttributeError")  # some interpreters know no vsock
    assert run(f"import socket\nsocket.socket(socket.{kind})").reason.startswith(reasons)


WITHOUT_SOCKET_FILTER = ("    socketpair ", "    socket connect socketpair ")
MORE_PROCESSES = ("(resource.RLIMIT_NPROC, 0)", "(resource.RLIMIT_NPROC, 50)")


def test_without_the_filter_there_is_still_no_network(weakened: Callable[..., None]) -> None:
    weakened(*WITHOUT_SOCKET_FILTER)
    abstract = f"\0unmask-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(abstract)
        unix.listen()
        for family, address in (("AF_INET", tcp.getsockname()), ("AF_UNIX", abstract), ("AF_INET", ("1.1.1.1", 53))):
            outcome = run(f"import socket\nsocket.socket(socket.{family}).connect({address!r})")
            assert outcome.reason.startswith(("OSError: [Errno 101]", "ConnectionRefusedError")), outcome
        udp = run("import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 53))")
        assert udp.reason.startswith("OSError: [Errno 101]")


# --- what stays afterwards --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "program",
    [
        "import os\nwhile True: os.fork()",
        DAEMON,
        "import subprocess\nsubprocess.run(['/usr/bin/env'])",
        "import threading\nthreading.Thread(target=print).start()",
        "import multiprocessing\nmultiprocessing.get_context('fork').Process(target=print).start()",
    ],
)
def test_there_is_no_second_process(program: str, visible: Path) -> None:
    outcome = run(program)
    assert outcome.status == "failed"
    assert outcome.reason.startswith(("BlockingIOError", "RuntimeError: can't start new thread"))
    assert inside(visible) == []


def test_without_that_limit_nothing_outlives_the_program(weakened: Callable[..., None], visible: Path) -> None:
    weakened(*MORE_PROCESSES)
    assert run(DAEMON).passed
    assert inside(visible) == []
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    assert not run(bomb, seconds=0.2).passed
    assert inside(visible) == []


@pytest.mark.parametrize(
    "attack",
    [
        "os.kill(os.getppid(), {signal})",
        "os.kill(1, {signal})",
        "os.kill(0, {signal})",
        "os.kill(-1, {signal})",
        "os.killpg(os.getpgid(0), {signal})",
    ],
)
def test_killing_reaches_only_the_program(attack: str) -> None:
    for signal in ("9", "2", "15", "19"):
        outcome = run("import os\n" + attack.format(signal=signal), seconds=0.2)
        assert not outcome.reason.startswith("its jail"), outcome


def test_nothing_lives_on_where_its_launcher_is_killed(visible: Path) -> None:
    outcomes: list[sandbox.Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(run("import time\ntime.sleep(60)")))
    thread.start()
    wait_until(lambda: len(inside(visible)) == 3)  # launcher, init, program
    os.kill(min(inside(visible)), 9)
    thread.join()
    wait_until(lambda: inside(visible) == [])
    assert outcomes[0].status == "failed"
    assert outcomes[0].reason.startswith("its jail died")


# --- where it cannot be made ------------------------------------------------------------------------------------------


def test_no_isolation_no_run(tmp_path: Path) -> None:
    """As in a container whose filter forbids namespaces: every entry point raises an error that says so."""
    script = """
import errno
from unmask.evals import jail, sandbox
from unmask.errors import ConfigError
jail.restrict(jail.seccomp(), jail.ALLOW, [(jail.ERRNO | errno.EPERM, "unshare", ())])
for door in (sandbox.check, lambda: sandbox.run("print(1)")):
    try:
        print(door())
    except ConfigError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert "which this machine refuses (unshare: Operation not permitted)" in line
        assert "user.max_user_namespaces" in line
        assert "--security-opt seccomp=unconfined" in line


def test_an_interpreter_that_does_not_start_is_no_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    found = sandbox._interpreter()
    for change, words in (
        ({"python": "/nowhere"}, "does not start in it: .*No such file"),
        ({"places": found["places"] | {"/nowhere": "/nowhere"}}, "mount: No such file"),
    ):
        monkeypatch.setattr(sandbox, "_interpreter", lambda change=change: found | change)
        with pytest.raises(unmask.ConfigError, match=words):
            sandbox.check()
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(unmask.ConfigError, match="darwin has no namespaces"):
        run("")


@pytest.mark.parametrize("limits", [{"seconds": 0}, {"seconds": float("nan")}, {"seconds": 10**9}, {"memory_bytes": 10**6}])
def test_bad_limits(limits: dict[str, float]) -> None:
    with pytest.raises(unmask.ConfigError, match="must be"):
        run("", **limits)


# --- as an ordinary user ----------------------------------------------------------------------------------------------

BATTERY = {
    "passed": ["assert 1 + 1 == 2", "import os; assert os.getuid() != 0", "import os; os.kill(1, 9)"],
    "failed": [
        "import os; os.fork()",
        "import threading; threading.Thread(target=print).start()",
        "import os; os.kill(0, 9)",
        "import os; os._exit(0)",
        "import socket; socket.socket()",
        "open('/etc/passwd')",
        "open('/proc/self/environ')",
        "import os; os.setuid(0)",
        LIBC + "assert libc.unshare(0x10000000) == 0",
        LIBC + "assert libc.mount(b'x', b'/tmp', b'tmpfs', 0, None) == 0",
        LIBC + "assert libc.ptrace(16, 1, 0, 0) == 0",
        "while True: open(str(id(object())), 'ab').write(bytes(10**7))",
    ],
    "out of memory": ["bytearray(10 * 2**30)"],
    "timed out": ["while True: pass", IGNORE_SIGNALS + "import time; time.sleep(60)"],
}
ORDINARY = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("sandbox", "unmask/evals/sandbox.py")
sandbox = sys.modules["sandbox"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sandbox)
print(json.dumps([sandbox.run(program, seconds=0.3).status for program in json.load(sys.stdin)]))
"""


def test_an_ordinary_user_is_as_safe() -> None:
    """Root's interpreter may lie where other users cannot reach it; then the system's runs the same two files."""
    user = {"user": jail.NOBODY, "group": jail.NOBODY, "extra_groups": []} if os.getuid() == 0 else {}

    def start(python: str, script: str, programs: list[str]) -> subprocess.CompletedProcess[str]:
        given = json.dumps(programs)
        return subprocess.run([python, "-c", script], input=given, cwd=ROOT, capture_output=True, text=True, check=True, **user)

    def works(python: str) -> bool:
        try:
            return start(python, "import sys; assert sys.version_info >= (3, 11)", []).returncode == 0
        except (OSError, subprocess.CalledProcessError):
            return False

    python = next(filter(works, (os.path.realpath(sys.executable), "/usr/bin/python3", "/usr/local/bin/python3")))
    statuses, programs = zip(*((status, program) for status, listed in BATTERY.items() for program in listed), strict=True)
    assert json.loads(start(python, ORDINARY, list(programs)).stdout) == list(statuses)
