"""The script behind evals/sandbox.py: builds a jail of Linux namespaces, runs one program in it, prints the verdict.

    echo '{"program": "assert 1 + 1 == 2", ...}' | python -I -S jail.py

Standard library only, and a separate script, because making namespaces needs a process with one thread. It becomes three:

    launcher    moves into new namespaces, builds the jail's file system, waits
    init        process 1 of the new PID namespace: watches the program and decides the verdict; when it ends, the kernel
                kills all processes left in there. It keeps its capabilities, so that the program cannot trace or kill it.
    program     without capabilities and without a way to new ones, with limits and a list of the system calls that it may
                make (libseccomp); a new interpreter
"""

import ctypes
import errno
import json
import math
import os
import resource
import select
import signal
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 0x2, 0x4, 0x1000, 0x4000, 0x40000
MNT_DETACH, AT_FDCWD, AT_RECURSIVE = 2, -100, 0x8000
MOUNT_SETATTR, ATTR_RDONLY, ATTR_NOSUID = 442, 0x1, 0x2  # the call's number, the same on every architecture
PR_SET_PDEATHSIG = 1

# The system calls of a program that computes, reads and writes files, waits and handles signals. All others fail: those that
# make memory which no limit counts (memfd_create, memfd_secret, shmget, userfaultfd), sockets, keys, namespaces, mounts ...
# A name that this machine's libseccomp or architecture does not know is left out.
ALLOWED = """
    read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek sendfile copy_file_range
    open openat openat2 creat close close_range dup dup2 dup3 fsync fdatasync flock truncate ftruncate fallocate fadvise64
    stat fstat lstat newfstatat statx statfs fstatfs access faccessat faccessat2 readlink readlinkat getdents getdents64
    getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr getcwd chdir fchdir umask
    rename renameat renameat2 mkdir mkdirat rmdir link linkat unlink unlinkat symlink symlinkat
    chmod fchmod fchmodat fchmodat2 chown lchown fchown fchownat utime utimes futimesat utimensat
    mmap mprotect munmap mremap madvise msync mincore mlock munlock brk
    pipe pipe2 select pselect6 poll ppoll epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2
    eventfd eventfd2 timerfd_create timerfd_settime timerfd_gettime ioctl
    socketpair sendto recvfrom shutdown getsockname getpeername getsockopt
    rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigsuspend rt_sigtimedwait sigaltstack kill tkill tgkill
    pause alarm getitimer setitimer nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time times
    timer_create timer_settime timer_gettime timer_getoverrun timer_delete restart_syscall
    getpid getppid gettid getuid geteuid getgid getegid getresuid getresgid getgroups getpgid getpgrp getsid setpgid setsid
    fork vfork execve execveat exit exit_group wait4 waitid set_tid_address set_robust_list futex rseq membarrier arch_prctl
    sched_yield sched_getaffinity sched_getparam sched_getscheduler sched_get_priority_max sched_get_priority_min getpriority
    getrlimit setrlimit prlimit64 getrusage getrandom getcpu sysinfo uname capget
"""
NAMESPACES = 0x7E020080  # flags of clone, which is allowed without them
# fcntl without F_SETPIPE_SZ, which makes a pipe of 64 KiB one of a megabyte.
FCNTL = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032)
ALLOW, ERRNO, MASKED_EQUAL = 0x7FFF0000, 0x00050000, 7  # libseccomp's SCMP_ACT_ALLOW, SCMP_ACT_ERRNO, SCMP_CMP_MASKED_EQ

NOBODY = 65534
SCRATCH_BYTES, FILES = 64 * 2**20, 64  # size of /tmp; number of open files
START_SECONDS = 30.0  # until the interpreter runs; not the program's time
TAIL_BYTES = 4096
READY, OUT_OF_MEMORY = b"ready", 77

# The new interpreter's first lines. The nonce lives in a frame of the program's own process: a program that walks the
# frames finds it, but no program writes it to descriptor 3 by accident.
RUNNER = f"""
import os, sys
def run(write, leave, nonce):
    sys.path += sys.argv[1:]
    sys.argv[:] = ["/program.py"]
    module = sys.modules["program"] = type(sys)("program")
    with open("/program.py", "rb") as file:
        source = file.read()
    write(3, {READY!r})
    try:
        exec(compile(source, "/program.py", "exec"), module.__dict__)
    except MemoryError:
        leave({OUT_OF_MEMORY})
    write(3, nonce)
    leave(0)
run(os.write, os._exit, sys.stdin.buffer.read())
"""
ENVIRONMENT = {
    "HOME": "/tmp",
    "PATH": "/usr/bin:/bin",
    "PYTHONHASHSEED": "0",  # the same program, the same verdict
    "PYTHONUTF8": "1",
    "OMP_NUM_THREADS": "1",  # a second thread would be refused
    "OPENBLAS_NUM_THREADS": "1",
}

libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: Any) -> None:
    """A function of libc by its name. Raises OSError that names it."""
    if getattr(libc, name)(*arguments) == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    texts = [text.encode() if text is not None else None for text in (source, target, kind, options)]
    call("mount", *texts[:3], ctypes.c_ulong(flags), texts[3])


def freeze(target: str, *, below: bool) -> None:
    """Make a mount read-only; with `below`, all mounts below it as well."""
    attributes = struct.pack("4Q", ATTR_RDONLY | ATTR_NOSUID, 0, 0, 0)
    size = ctypes.c_size_t(len(attributes))
    call("syscall", ctypes.c_long(MOUNT_SETATTR), AT_FDCWD, target.encode(), AT_RECURSIVE * below, attributes, size)


def isolate() -> None:
    """Move into new namespaces, in which the user's own ids keep their numbers."""
    uid, gid, place = os.getuid(), os.getgid(), f"/proc/{os.getpid()}"
    maps = {"uid_map": f"{uid} {uid} 1", "gid_map": f"{gid} {gid} 1"}
    if uid == 0:  # all ids: root may need its rights over other users' folders to reach the interpreter
        for name in maps:
            with open(f"/proc/self/{name}") as file:
                maps[name] = "\n".join("{0} {0} {2}".format(*line.split()) for line in file)
    else:
        maps = {"setgroups": "deny", **maps}
    waiting, moved = os.pipe()
    helper = os.fork()
    if helper == 0:  # only a process outside the namespace may write root's maps
        os.close(moved)
        if not os.read(waiting, 1):
            os._exit(0)
        code = 255
        try:
            for name, content in maps.items():
                with open(f"{place}/{name}", "w") as file:
                    file.write(content)
            code = 0
        except OSError as error:
            code = error.errno or code
        finally:
            os._exit(code)
    call("unshare", CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC)
    os.write(moved, b"!")
    code = os.waitstatus_to_exitcode(os.waitpid(helper, 0)[1])
    if code != 0:
        raise OSError(code, f"uid_map: {os.strerror(code)}")


def build(program: bytes, places: Mapping[str, str]) -> None:
    """Change to a file system that holds `places` (path inside -> path outside), read-only, and a small /tmp."""
    os.umask(0o022)
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    os.mkdir("/tmp/outside")
    call("pivot_root", b"/tmp", b"/tmp/outside")
    os.chdir("/")
    os.makedirs("/jail/tmp")
    mount("tmpfs", "/jail/tmp", "tmpfs", MS_NOSUID | MS_NODEV, f"mode=1777,size={SCRATCH_BYTES},nr_inodes=4096")
    for inside, outside in sorted(places.items()):
        source, target = f"/outside{outside}", f"/jail{inside}"
        if os.path.exists(target):  # part of an earlier one
            continue
        if os.path.isdir(source):
            os.makedirs(target)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            open(target, "x").close()
        mount(source, target, None, MS_BIND | MS_REC)
        freeze(target, below=True)
    with open("/jail/program.py", "xb") as file:
        file.write(program)
    call("umount2", b"/outside", MNT_DETACH)
    freeze("/", below=False)
    os.chroot("/jail")  # in a chroot the kernel refuses new user namespaces, and the capabilities that come with them
    os.chdir("/tmp")


class Comparison(ctypes.Structure):
    """Of an argument of a system call, by its place: argument & mask == value."""

    _fields_ = (("place", ctypes.c_uint), ("how", ctypes.c_int), ("mask", ctypes.c_uint64), ("value", ctypes.c_uint64))


Rule = tuple[int, str, tuple[Comparison, ...]]  # an action, the name of a call, comparisons that must all hold


def rules() -> list[Rule]:
    """What a program may call."""
    whole = 0xFFFFFFFF  # both are ints: the kernel does not look at the upper half of the register
    made: list[Rule] = [(ALLOW, name, ()) for name in ALLOWED.split()]
    made += [(ALLOW, "fcntl", (Comparison(1, MASKED_EQUAL, whole, command),)) for command in FCNTL]
    made.append((ALLOW, "clone", (Comparison(0, MASKED_EQUAL, NAMESPACES, 0),)))
    made.append((ERRNO | errno.ENOSYS, "clone3", ()))  # its flags cannot be seen; libraries then call clone
    return made


def seccomp() -> ctypes.CDLL:
    """Raises OSError where libseccomp is not installed."""
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        raise OSError("libseccomp is not installed: apt install libseccomp2, or your system's package of it") from None
    library.seccomp_init.restype = ctypes.c_void_p
    return library


def restrict(library: ctypes.CDLL, default: int, rules: Sequence[Rule]) -> None:
    """Filter the system calls of this process and its children: `default` for those that no rule names."""
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(default)))
    for action, name, comparisons in rules:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:
            array = (Comparison * len(comparisons))(*comparisons)
            check(library.seccomp_rule_add_array(context, ctypes.c_uint32(action), number, len(comparisons), array))
    check(library.seccomp_load(context))


def check(code: int) -> None:
    if code < 0:
        raise OSError(-code, f"seccomp: {os.strerror(-code)}")


def become_program(descriptors: Sequence[int], command: list[str], seconds: float, memory_bytes: int) -> None:
    """Drop all rights and start the interpreter; `descriptors` become its 0, 1, 2, 3."""
    library = seccomp()
    os.setsid()  # kill(0, ...) reaches a process group across PID namespaces
    kept = [os.dup(descriptor) for descriptor in descriptors]
    for number, descriptor in enumerate(kept):
        os.dup2(descriptor, number)
    os.closerange(len(kept), os.sysconf("SC_OPEN_MAX"))
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    for limit, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, math.floor(seconds) + 1),  # whole seconds, a little later than what `supervise` reads
        (resource.RLIMIT_FSIZE, SCRATCH_BYTES),
        (resource.RLIMIT_NOFILE, FILES),
        (resource.RLIMIT_NPROC, 0),  # no second process or thread: the memory limit counts one process
        (resource.RLIMIT_CORE, 1),  # unlike 0 it also keeps a dump from the kernel's core_pattern program
        (12, 0),  # RLIMIT_MSGQUEUE, for which the module has no name
    ):
        allowed = resource.getrlimit(limit)[1]
        most = most if allowed == resource.RLIM_INFINITY else min(most, allowed)
        resource.setrlimit(limit, (most, most))
    restrict(library, ERRNO | errno.EPERM, rules())
    os.execve(command[0], command, ENVIRONMENT)


def watch(child: int, output: int, verdict: int, wall_seconds: float) -> tuple[bytes, bytes, bool]:
    """The bytes of the program on each descriptor (the output's tail), and whether its time was over before it ended."""
    ended, tail, said = os.pidfd_open(child), b"", b""
    streams, deadline, started = [output, verdict], time.monotonic() + START_SECONDS, False
    while (left := deadline - time.monotonic()) > 0:
        ready = select.select([ended, *streams], [], [], left)[0]
        if ready == [ended]:  # and nothing is left to read
            return tail, said, False
        for stream in set(ready) - {ended}:
            chunk = os.read(stream, 2**16)
            if not chunk:
                streams.remove(stream)
            elif stream == output:
                tail = (tail + chunk)[-TAIL_BYTES:]
            else:
                said = (said + chunk)[:TAIL_BYTES]
        if not started and said:
            started, deadline = True, time.monotonic() + wall_seconds
    return tail, said, True


def supervise(command: list[str], seconds: float, wall_seconds: float, memory_bytes: int) -> dict[str, str]:
    """Process 1: start the program, watch it and return the verdict."""
    call("prctl", PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    nonce = os.urandom(16)
    (stdin, secret), (output, stdout), (verdict, report) = os.pipe(), os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            become_program((stdin, stdout, stdout, report), command, seconds, memory_bytes)
        except BaseException as error:
            os.write(2, f"{error}\n".encode())
        finally:
            os._exit(1)
    for descriptor in (stdin, stdout, report):
        os.close(descriptor)
    try:
        os.write(secret, nonce)
        os.close(secret)
    except BrokenPipeError:
        pass  # it did not start, which the code below reports
    tail, said, late = watch(child, output, verdict, wall_seconds)
    os.kill(child, signal.SIGKILL)
    _, ended, used = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(ended)
    text = tail.decode(errors="replace")
    last = text.strip().rpartition("\n")[2]
    if not said.startswith(READY):
        return {"refused": f"the interpreter does not start in it: {last}"}
    if used.ru_utime + used.ru_stime >= seconds:
        status, reason = "timed out", f"needed more than {seconds:g} s of processor time"
    elif late:
        status, reason = "timed out", f"ran longer than {wall_seconds:g} s"
    elif code == OUT_OF_MEMORY:
        status, reason = "out of memory", f"needed more than {memory_bytes} bytes"
    elif code == 0 and said == READY + nonce:
        status, reason = "passed", ""
    elif code < 0:
        status, reason = "failed", f"killed by signal {-code}"
    else:
        status, reason = "failed", "ended before its last line" if code == 0 else last or f"exit code {code}"
    return {"status": status, "reason": reason, "output": text}


def main() -> None:
    """Read the request from stdin and write the answer, {"status", "reason", "output"} or {"refused"}, to stdout."""
    request = json.load(sys.stdin)
    try:
        seccomp()  # loaded from the machine's files, of which the jail shows few
        isolate()
        build(request["program"].encode(errors="surrogatepass"), request["places"])
    except OSError as error:
        print(json.dumps({"refused": error.strerror or str(error)}))
        return
    command = [request["python"], "-PsSBu", "-c", RUNNER, *request["packages"]]
    limits = [request[name] for name in ("seconds", "wall_seconds", "memory_bytes")]
    if os.fork() == 0:
        try:
            print(json.dumps(supervise(command, *limits)), flush=True)
        finally:
            os._exit(0)
    os.wait()


if __name__ == "__main__":
    main()
