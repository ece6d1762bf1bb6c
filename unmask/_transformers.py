"""Make transformers' Auto classes know our models, without importing transformers.

`import unmask` must be light, and `AutoModel.from_pretrained(folder)` must work after it. So the classes of models/hf.py
are registered right after transformers' own registry module is imported, or at once if it already has been.
"""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

REGISTRY = "transformers.models.auto.modeling_auto"


def install() -> None:
    """Register now, or as soon as transformers' registry is imported. Calling it twice changes nothing."""
    if REGISTRY in sys.modules:
        _register()
    elif not any(isinstance(finder, _AfterRegistry) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterRegistry())


def _register() -> None:
    from unmask.models.hf import register

    register()


class _AfterRegistry:
    """A finder that waits for one module, hands it to the real finders and registers our classes once it has run."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != REGISTRY:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def run_and_register(module: ModuleType) -> None:
            run(module)
            _register()

        spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec
