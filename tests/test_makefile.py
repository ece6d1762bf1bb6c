"""`make demo` and `make test` on a clean clone, with a stub in place of Python and pip: what they would run."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CPU = "--extra-index-url https://download.pytorch.org/whl/cpu"
STUB = """#!/bin/sh
echo "$@" >> "$LOG"
if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; cp "$0" "$3/bin/unmask"; fi
"""


class Clone:
    """A clone with nothing in it but what make reads, on a machine with some programs."""

    def __init__(self, folder: Path, *, gpu: bool) -> None:
        self.folder, self.log = folder, folder / "log"
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, folder / name)
        programs = folder / "programs"
        programs.mkdir()
        self._program(programs / "python3", STUB)
        self._program(programs / "chromedriver", "#!/bin/sh\n")
        self._program(programs / "nvidia-smi", "#!/bin/sh\necho GPU 0\n" if gpu else "#!/bin/sh\nexit 9\n")
        self.environment = {"PATH": f"{programs}:{os.environ['PATH']}", "LOG": str(self.log)}

    def _program(self, path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def make(self, *arguments: str) -> tuple[str, list[str]]:
        """What make printed, and the lines that Python, pip and unmask were called with since the last time."""
        self.log.write_text("")
        command = ["make", "--silent", *arguments]
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=True)
        return done.stdout, self.log.read_text().splitlines()


def torch_line(lines: list[str]) -> str:
    return next(line for line in lines if line.endswith("torch"))


@pytest.mark.parametrize(("gpu", "index"), [(False, CPU), (True, "")])
def test_torch_comes_without_cuda_where_there_is_no_gpu(tmp_path: Path, gpu: bool, index: str) -> None:
    said, lines = Clone(tmp_path, gpu=gpu).make("demo")
    assert (CPU in torch_line(lines)) == bool(index)
    assert ("no NVIDIA GPU" in said) == bool(index)
    assert ("download.pytorch.org" in said) == bool(index)


def test_an_index_that_is_named_is_asked_and_none_too(tmp_path: Path) -> None:
    clone = Clone(tmp_path, gpu=False)
    _, lines = clone.make("demo", "TORCH_INDEX=https://example.org/whl/cu128")
    assert "--extra-index-url https://example.org/whl/cu128" in torch_line(lines)
    shutil.rmtree(tmp_path / ".venv")
    _, lines = clone.make("demo", "TORCH_INDEX=")
    assert "index" not in torch_line(lines)


def test_a_demo_installs_no_extra_and_a_test_all_of_them_each_once(tmp_path: Path) -> None:
    clone = Clone(tmp_path, gpu=False)
    _, lines = clone.make("demo")
    assert next(line for line in lines if "--editable" in line).endswith("--editable .")
    assert not any("[" in line for line in lines)
    assert lines[-1].startswith("compare")
    _, lines = clone.make("demo")
    assert not any("pip" in line for line in lines)
    _, lines = clone.make("test")
    assert next(line for line in lines if "pip" in line).endswith("[dev,train,gym,eval,serve,scale,quant]")
    assert lines[-1] == "-m pytest"
    _, lines = clone.make("test")
    assert lines == ["-m pytest"]


def test_a_test_alone_does_all_on_a_clean_clone(tmp_path: Path) -> None:
    _, lines = Clone(tmp_path, gpu=False).make("test")
    assert [line.split()[-1] for line in lines if "install" in line] == [
        "pip", "torch", ".", ".[dev,train,gym,eval,serve,scale,quant]",
    ]  # fmt: skip
    assert lines[-1] == "-m pytest"
