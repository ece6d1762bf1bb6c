"""The first hour on a card, as far as a machine without one can say: its parts, what they skip, and a dry run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu_hour
from benchmarks.gpu_hour import MEASURED, RUN, Run, missing, part

ROOT = Path(__file__).parents[2]


def test_a_part_without_what_it_wants_is_skipped_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RUN, "kernels", Run(command=("python",), modules=("no_such_module",), programs=("no-such-program",)))
    assert part("kernels", dry=False) == {"part": "kernels", "skipped": "not installed: no_such_module, no-such-program"}
    assert missing(Run(command=(), modules=("torch",), programs=("sh",))) == []


def test_a_part_that_fails_or_hangs_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RUN, "kernels", Run(command=("python", "-c", "raise SystemExit('a kernel is wrong')")))
    assert "a kernel is wrong" in part("kernels", dry=False)["failed"]
    monkeypatch.setattr(gpu_hour, "LIMIT", 0.2)
    monkeypatch.setitem(RUN, "engine", Run(command=("python", "-c", "import time; time.sleep(9)")))
    assert part("engine", dry=False)["failed"] == "not done after 0.2 s"


def test_checkers_run_without_the_caching_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    show = Run(command=("python", "-c", "import os; print(os.environ.get('PYTORCH_NO_CUDA_MEMORY_CACHING'))"))
    monkeypatch.setitem(RUN, "memcheck", show)
    monkeypatch.setitem(RUN, "kernels", show)
    assert part("memcheck", dry=False)["said"] == "1\n"
    assert part("kernels", dry=False)["said"] == "None\n"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_hour", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=3000
    )


def test_an_unknown_part_is_refused_in_one_line() -> None:
    done = run("--dry", "warmth")
    assert done.returncode == 2
    assert "there is no part 'warmth'" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_dry_run_makes_every_measurement_on_a_cpu() -> None:
    done = run("--dry")
    assert done.returncode == 0, done.stdout
    document = json.loads(done.stdout.splitlines()[-1])
    parts = {made["part"]: made for made in document["parts"]}
    assert set(parts) == {*MEASURED, *RUN}
    assert all(parts[name]["rows"] for name in MEASURED)
    assert all("needs a card" in parts[name]["skipped"] for name in RUN)
    assert all(row["ratio"] > 0 for row in parts["steps"]["rows"])
    assert len(parts["lengths"]["rows"]) == 4
    assert parts["clients"]["rows"][0]["answers"] == 4
