"""Make transformers' Auto classes know our models, without importing transformers.

`import unmask` must be light, and `AutoModel.from_pretrained(folder)` must work after it. So our classes are registered
right after transformers' own registries are imported, or at once if they already have been.
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

# transformers' registry -> our module, whose `register` fills it.
REGISTRIES = {
    "transformers.models.auto.configuration_auto": "unmask.models.hf_config",
}


def install() -> None:
    """Register now, or as soon as a registry is imported. Calling it twice changes nothing."""
    for registry in REGISTRIES:
        if registry in sys.modules:
            _register(registry)
    if not any(isinstance(finder, _AfterRegistry) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterRegistry())


def _register(registry: str) -> None:
    importlib.import_module(REGISTRIES[registry]).register()


class _AfterRegistry:
    """A finder that lets the real finders load a registry and registers our classes once it has run."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Only for a registry, and only the first time: the search within finds the real loader."""
        if name not in REGISTRIES or name in self.seen:
            return None
        self.seen.add(name)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def run_and_register(module: ModuleType) -> None:
            run(module)
            _register(name)

        spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec
