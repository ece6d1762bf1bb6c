"""What is free here, and the refusal of what cannot fit."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import unmask
from tests.models.test_shelf import checkpoint
from unmask.models.room import ANY_SIZE, free, gigabytes, require_room
from unmask.models.shelf import find

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
GB = 10**9


def machine(at: Path, *, available: int, cgroup: str = "", groups: dict[str, dict[str, str]] | None = None) -> dict[str, Path]:
    """A /proc and a /sys/fs/cgroup."""
    (at / "proc" / "self").mkdir(parents=True)
    (at / "proc" / "meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable: {available // 1024} kB\n")
    (at / "proc" / "self" / "cgroup").write_text(cgroup)
    for place, files in (groups or {}).items():
        folder = at / "groups" / place
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text)
    return {"proc": at / "proc", "groups": at / "groups"}


def test_what_the_kernel_counts_as_available(tmp_path: Path) -> None:
    assert free(CPU, **machine(tmp_path, available=4096 * 1024)) == 4096 * 1024


@pytest.mark.parametrize("limit", ["1000", "max"])
def test_control_groups_of_version_2(tmp_path: Path, limit: str) -> None:
    inner = {"memory.max": limit, "memory.current": "600", "memory.stat": "anon 5\ninactive_file 100\n"}
    outer = {"memory.max": "5000", "memory.current": "700", "memory.stat": "anon 5\n"}
    groups = {"user/job": inner, "user": outer}
    found = free(CPU, **machine(tmp_path, available=GB, cgroup="0::/user/job\n", groups=groups))
    assert found == (500 if limit == "1000" else 4300)


def test_control_groups_of_version_1(tmp_path: Path) -> None:
    group = {"memory.limit_in_bytes": "2000", "memory.usage_in_bytes": "600", "memory.stat": "total_inactive_file 50\n"}
    none = {"memory.limit_in_bytes": str(2**63 - 4096), "memory.usage_in_bytes": "7", "memory.stat": ""}
    groups = {"memory/a": group, "memory": none}
    assert free(CPU, **machine(tmp_path, available=GB, cgroup="9:cpu:/a\n4:memory:/a\n", groups=groups)) == 1450


def test_a_container_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    groups = {".": {"memory.max": "900", "memory.current": "100", "memory.stat": ""}}
    assert free(CPU, **machine(tmp_path, available=GB, cgroup="0::/some/where\n", groups=groups)) == 800


def test_a_machine_that_says_nothing_refuses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.sysconf_names")
    assert free(CPU, proc=tmp_path, groups=tmp_path) is None
    monkeypatch.setattr("unmask.models.room.free", lambda device: None)
    row = find("llada2-flash")
    assert row is not None
    assert row.shape is not None
    require_room(row.shape, name="llada2-flash", kind="bf16", device=CPU)


@pytest.mark.parametrize(
    ("kind", "left", "said"),
    [
        ("bf16", 8 * GB, ['weights="int4" (--weights int4) needs 7.5 GB', "of smaller models sdar-1.7b (4.7 GB) fits"]),
        ("bf16", 12 * GB, ['weights="int8"', "of smaller models sdar-4b"]),
        ("int4", 5 * GB, ["as int4", "no smaller type fits", "of smaller models sdar-4b"]),
        ("fp32", GB // 10, ["no smaller type fits", "of smaller models unmask-tiny fits"]),
    ],
)
def test_the_refusal_says_what_would_fit_and_how_to_go_on(kind: str, left: int, said: list[str]) -> None:
    row = find("llada-8b")
    assert row is not None
    assert row.shape is not None
    with pytest.raises(unmask.ModelError) as caught:
        require_room(row.shape, name="llada-8b", kind=kind, device=CPU, left=left)
    line = str(caught.value)
    assert line.startswith("llada-8b needs ")
    assert f"{gigabytes(left)} are free here" in line
    assert f"{ANY_SIZE}=1" in line
    for part in said:
        assert part in line
    assert "\n" not in line


def test_processes_share_the_need() -> None:
    row = find("llada-8b")
    assert row is not None
    assert row.shape is not None
    require_room(row.shape, name="llada-8b", kind="bf16", device=CPU, left=9 * GB, shares=2)


@pytest.mark.parametrize("name", ["llada2-flash", "inclusionAI/LLaDA2.0-flash"])
def test_a_model_that_cannot_fit_is_refused_before_it_is_fetched(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetched(*names: str, **patterns: object) -> str:
        raise AssertionError(f"{names} is fetched")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    monkeypatch.setattr("unmask.models.room.free", lambda device: 16 * GB)
    with pytest.raises(unmask.ModelError, match=r"needs 207.* GB of memory as bf16 and 16\.0 GB are free"):
        unmask.load(name)
    monkeypatch.setenv(ANY_SIZE, "1")
    with pytest.raises(AssertionError, match="is fetched"):
        unmask.load(name)


def test_of_another_repository_the_config_decides_before_the_weights_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint(tmp_path / "toy", "llada")
    asked: list[list[str]] = []

    def fetched(name: str, *, allow_patterns: list[str], **others: object) -> str:
        asked.append(allow_patterns)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    monkeypatch.setattr("unmask.models.room.free", lambda device: 1000)
    with pytest.raises(unmask.ModelError, match="someone/toy needs 1 MB of memory as fp32"):
        unmask.load("someone/toy")
    assert [[pattern for pattern in patterns if "safetensors" in pattern] for patterns in asked] == [[]]


def test_a_process_with_a_limit_refuses_what_exceeds_it(tmp_path: Path) -> None:
    """`ulimit -v`: an address space of 1 GB more than what Python and torch have taken."""
    code = """
import re, resource, sys, unmask
unmask.load("unmask-tiny")
now = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (now + 10**9, resource.RLIM_INFINITY))
try:
    unmask.load("sdar-1.7b")
except unmask.ModelError as error:
    sys.exit(str(error))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "sdar-1.7b needs" in done.stderr
    assert "1.0 GB are free here" in done.stderr or "MB are free here" in done.stderr
