"""What a model's own choices (models/own.py, models/shelf.py) make of a method: default method and length, unnamed values.

method = completed(model, load(default_method(model)))
"""

import functools
from collections.abc import Mapping
from typing import Any

from unmask.errors import ConfigError, UnmaskError, unknown
from unmask.methods import TABLE, load
from unmask.methods.method import Method
from unmask.models.denoiser import Denoiser
from unmask.models.loading import choices
from unmask.models.own import Own

DEFAULT_METHOD = "r2-dllm"
DEFAULT_NEW_TOKENS = 128


def default_method(model: Denoiser) -> str:
    """The preset that decodes where a call names no method: the model's own, or r2-dllm. Raises ConfigError as `check` does.

    >>> from unmask.models.toy import toy
    >>> default_method(toy())
    'r2-dllm'
    """
    check(model.own)
    return model.own.usual_method or DEFAULT_METHOD


def default_method_of(name: str) -> str:
    """`default_method` of a model that is not loaded yet. Raises ModelError where there is no such model.

    >>> default_method_of("sdar-4b")
    'sdar'
    """
    own = choices(name)
    check(own)
    return own.usual_method or DEFAULT_METHOD


def default_new_tokens(model: Denoiser) -> int:
    """The length of an answer where neither the call nor its method gives one: the model's own, or 128.

    >>> from unmask.models.toy import toy
    >>> default_new_tokens(toy())
    128
    """
    return model.own.usual_length or DEFAULT_NEW_TOKENS


def completed(model: Denoiser, method: Method) -> Method:
    """The method with the model's own values in place of what was not named.

    Settings of one preset belong to what `unmask.method` makes of it; a mapping of settings that bears its name has its own.

    Raises ConfigError as `check` does.
    """
    check(model.own)
    return method.with_defaults(model.defaults_of("" if "name" in method.named else method.name))


@functools.lru_cache(maxsize=32)
def check(own: Own) -> None:
    """Raises ConfigError, which names the file, where a preset or a setting does not exist or a value is wrong."""
    if own.published is not None:
        check(own.published)
    if own.method is None and not own.settings and not own.presets:
        return
    try:
        _check(own)
    except UnmaskError as error:
        raise ConfigError(f"{own.place}: {error}") from None


def _check(own: Own) -> None:
    plain = [name for name in TABLE if not load(name).official]
    for name in (*([own.method] if own.method else []), *own.presets):
        if name not in TABLE:
            raise unknown("preset", name, plain)
    for name, settings in own.presets.items():
        if name not in plain:
            raise ConfigError(
                f"presets.{name}: the published settings are never replaced; name {name.removesuffix('-official')}"
            )
        _fits(load(name), settings, f"presets.{name}")
    for path, value in own.settings.items():
        _named(path, "settings")
        if not any(load(name).has(path) for name in plain):
            raise ConfigError(f"settings: no preset has {path}")
        for name in plain:
            load(name).with_defaults({path: value})


def _fits(preset: Method, settings: Mapping[str, Any], where: str) -> None:
    """Raises ConfigError for a setting that this preset does not have."""
    for path in settings:
        _named(path, where)
        part = path.partition(".")[0]
        if path != part and preset.has(part) and part not in preset.parts:
            raise ConfigError(f'{where}: {path} belongs to a part that is off there; turn it on as a whole, "{part}": {{...}}')
        preset.change(**{path: settings[path]})


def _named(path: str, where: str) -> None:
    if path.partition(".")[0] in ("name", "parity"):
        raise ConfigError(f"{where}: {path} says what a method is, and is no setting of it")
