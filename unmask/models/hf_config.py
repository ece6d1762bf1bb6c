"""Our checkpoints' config.json as transformers configs, one per model type, which need none of the models.

The models (models/hf.py) are registered when the first such config is made: AutoModel always makes one before it looks for a
class, and AutoTokenizer, which every load uses, need not wait for all that transformers' models import.

Ours stand in for remote code, not in its way: with `trust_remote_code=True` a checkpoint that brings its authors' classes
gives these. transformers prefers a registered class to remote code in any case, so `AutoConfig.from_pretrained` is asked the
other way round here; AutoModel follows the config that it gets.
"""

import functools
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from transformers import PreTrainedConfig
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from unmask.models import TABLE


class _Ours(PreTrainedConfig):  # type: ignore[misc]
    def __new__(cls, *values: Any, **settings: Any) -> Self:
        _register_models()
        made: Self = super().__new__(cls)
        return made


@functools.cache
def _register_models() -> None:
    importlib.import_module("unmask.models.hf").register()


def _config(model_type: str) -> type[PreTrainedConfig]:
    # Named after the first family of that type: LLaDAConfig, DreamConfig.
    family = next(family for family in TABLE.values() if family.model_type == model_type)
    name = f"{family.network.rpartition(':')[2]}Config"
    about = f"A config.json of type {model_type!r}; its keys are kept as they are."
    made: type[PreTrainedConfig] = type(name, (_Ours,), {"model_type": model_type, "__module__": __name__, "__doc__": about})
    return made


_TYPES = dict.fromkeys(family.model_type for family in TABLE.values() if family.model_type is not None)
CONFIGS: Mapping[str, type[PreTrainedConfig]] = {model_type: _config(model_type) for model_type in _TYPES}


def register() -> None:
    """Tell AutoConfig about them; again is harmless."""
    # Not at the top: importing the registry is what calls this function.
    from transformers import AutoConfig

    for model_type, config in CONFIGS.items():
        AutoConfig.register(model_type, config, exist_ok=True)
    ours_first = AutoConfig.from_pretrained
    if getattr(ours_first, "__module__", "") != __name__:
        AutoConfig.from_pretrained = _theirs_where_trusted(ours_first)


def _theirs_where_trusted(ours_first: Any) -> Any:
    """AutoConfig.from_pretrained, but with the authors' config where it is trusted in place of ours."""

    @functools.wraps(ours_first)
    def from_pretrained(pretrained_model_name_or_path: Any, **settings: Any) -> Any:
        found = ours_first(pretrained_model_name_or_path, **settings)
        config = found[0] if isinstance(found, tuple) else found
        classes = _brought(config, Path(pretrained_model_name_or_path))
        if not settings.get("trust_remote_code") or not classes or type(config) not in CONFIGS.values():
            return found
        return _theirs(type(config), classes.get("AutoConfig"), pretrained_model_name_or_path, settings)

    from_pretrained.__module__ = __name__
    return staticmethod(from_pretrained)


def _brought(config: PreTrainedConfig, folder: Path) -> dict[str, str]:
    """The remote classes that a config names: Auto class -> "module.Class"; of a folder those whose module lies in it."""
    named: dict[str, str] = getattr(config, "auto_map", None) or {}
    there = {auto: "--" in place or (folder / f"{place.split('.')[0]}.py").exists() for auto, place in named.items()}
    return {auto: place for auto, place in named.items() if there[auto] or not folder.is_dir()}


def _theirs(ours: type[PreTrainedConfig], reference: str | None, name: Any, settings: Mapping[str, Any]) -> Any:
    """The authors' config; where they bring models alone, one like ours that no registered model belongs to."""
    if reference is None:
        kind: Any = type(ours.__name__, (ours,), {"__module__": __name__})
    else:
        kind = get_class_from_dynamic_module(reference, name, **settings)
        kind.register_for_auto_class()
    own = {key: value for key, value in settings.items() if key not in ("trust_remote_code", "code_revision")}
    return kind.from_pretrained(name, name_or_path=name, **own)
