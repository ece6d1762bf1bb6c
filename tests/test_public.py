"""The public surface, the imports between packages, and the examples in docstrings."""

import ast
import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import unmask

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "unmask"
MODULES = sorted(module.name for module in pkgutil.walk_packages([str(PACKAGE)], "unmask.") if module.name != "unmask.__main__")

# The packages that a package (a "room") may import from; itself, `errors` and `files` always.
ARROWS = {
    "kernels": set(),
    "data": set(),
    "decode": {"kernels"},
    "methods": {"decode"},
    "context": {"decode", "kernels"},
    "models": {"data", "decode", "context", "kernels"},
    "grammar": {"decode"},
    "tasks": set(),
    "engine": {"decode", "methods", "context", "models", "grammar", "kernels"},
    "train": {"data", "decode", "models", "tasks", "methods", "engine"},
    "evals": {"data", "engine", "methods", "models", "tasks", "context", "decode", "kernels"},
    "bench": {"engine", "methods", "models", "context", "decode", "tasks", "grammar", "kernels"},
    "view": {"engine", "methods", "models", "decode"},
    "serve": {"engine", "methods", "models", "view", "grammar"},
    "cli": {"engine", "methods", "models", "evals", "bench", "view", "train", "serve", "tasks"},
}
# Third-party packages that only one package of unmask imports.
HOMES = {
    "triton": {"kernels"},
    "transformers": {"models", "train"},
    "accelerate": {"train"},
    "peft": {"train"},
    "matplotlib": {"train", "evals", "bench"},
    "optuna": {"evals"},
    "typer": {"cli"},
    "rich": {"cli", "view"},
    "yaml": {"cli", "methods"},
    "lm_eval": {"evals"},
    "math_verify": {"evals"},
    "fastapi": {"serve"},
    "starlette": {"serve"},
    "uvicorn": {"serve"},
    "pydantic": {"serve"},
    "prometheus_client": {"serve"},
    "ray": {"serve"},
    "huggingface_hub": {"data"},
    "pyarrow": {"data", "serve"},
}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("room", ARROWS)
def test_rooms_import_only_what_they_may(room: str) -> None:
    for path in (PACKAGE / room).rglob("*.py"):
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "unmask" and len(parts) > 1:
                assert parts[1] in {room, "errors", "files", *ARROWS[room]}, f"{path.name} imports {name}"
            if parts[0] in HOMES:
                assert room in HOMES[parts[0]], f"{path.name} imports {name}"
            if room == "methods":
                assert parts[1:2] not in (["models"], ["context"])


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Imports of every kind count: of types alone, and those inside functions."""
    ahead: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        ahead[name] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                ahead[name] |= {found.name for found in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                parts = {f"{node.module}.{found.name}" for found in node.names}
                # `from package import name` may name a module of the package or something in its __init__.
                ahead[name] |= {part if part in MODULES else node.module for part in parts}
    ours = {name: {other for other in others if other in ahead} for name, others in ahead.items() if name != "unmask"}
    with pytest.raises(CycleError):
        TopologicalSorter(ours | {"unmask.errors": {"unmask.models.loading"}}).prepare()
    TopologicalSorter(ours).prepare()


def test_every_room_has_its_arrows() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(ARROWS)


def test_all_is_sorted_complete_and_does_not_leak() -> None:
    assert unmask.__all__ == sorted(unmask.__all__)
    for name in unmask.__all__:
        assert getattr(unmask, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        unmask.nonsense  # noqa: B018
    assert dir(unmask) == unmask.__all__


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_hold(name: str) -> None:
    outcome = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert outcome.failed == 0


def test_triton_is_imported_by_no_seam() -> None:
    """An install for CPUs has none."""
    code = "import sys, unmask.engine.engine, unmask.kernels.paged; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_methods_are_in_the_papers_page() -> None:
    from unmask.methods import TABLE

    page = (ROOT / "docs" / "papers.md").read_text()
    for name in TABLE:
        assert f"`{name}`" in page or f"`{name.removesuffix('-official')}`" in page


def test_nothing_of_this_machine_is_tracked() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    for name in listed:
        path = ROOT / name
        if path.suffix in (".py", ".md", ".yaml", ".toml", ".json", "") and path.is_file() and path.stat().st_size < 10**6:
            assert not re.search(r"(^|[^a-z.])/(work|farm|root|home)/[a-z.]", path.read_text()), name
