"""The published methods by name, and how a name with options becomes a Method."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unmask.errors import ConfigError, unknown
from unmask.methods.method import Draft, Method, Refresh, Suffix
from unmask.methods.settings import ENDINGS, read_method

TABLE: Mapping[str, str] = {
    "vanilla": "unmask.methods.vanilla:vanilla",
    "vanilla-official": "unmask.methods.vanilla:official",
    "fast-dllm": "unmask.methods.fast_dllm:fast_dllm",
    "fast-dllm-official": "unmask.methods.fast_dllm:official",
    "streaming-dllm": "unmask.methods.streaming_dllm:streaming_dllm",
    "streaming-dllm-official": "unmask.methods.streaming_dllm:official",
    "r2-dllm": "unmask.methods.r2_dllm:r2_dllm",
    "r2-dllm-official": "unmask.methods.r2_dllm:official",
    "freedave": "unmask.methods.freedave:freedave",
    "freedave-official": "unmask.methods.freedave:official",
}

# Options that every preset takes: each is a field of Method, and any context or draft goes with any rules.
SHARED = ("max_new_tokens", "temperature", "top_p", "top_k", "block_length", "cache")
CONTEXT = ("suffix_window", "suffix_tail", "prompt_interval", "draft_steps")


def options(name: str) -> list[str]:
    """The option names that `load(name, ...)` takes, the preset's own first."""
    return [*inspect.signature(_preset(name)).parameters, *SHARED, *CONTEXT]


def load(name: str, **chosen: Any) -> Method:
    """The preset `name` with some options changed, or the method of a YAML or JSON file with some settings changed.

    Raises ConfigError on an unknown name or option, naming the valid ones.

    Besides a preset's own options (its docstring lists them) every preset takes `block_length`, `cache`,
    `suffix_window` (None: keep the whole suffix), `suffix_tail`, `prompt_interval` (recompute the prompt at the start of
    every so many blocks, 1: of each, None: of the first alone), `draft_steps` (1: no drafts), `max_new_tokens`, `temperature`,
    `top_p` and `top_k`.

    >>> load("r2-dllm", threshold=0.85).commit
    CommitThreshold(threshold=0.85)
    """
    path = Path(name)
    return read_method(path, chosen) if path.suffix in ENDINGS else preset(name, **chosen)


def preset(name: str, **chosen: Any) -> Method:
    """As `load`, but never a file: for names that come from elsewhere, or go where this machine's files are not."""
    build = _preset(name)
    valid = options(name)
    for option in chosen:
        if option not in valid:
            raise unknown(f"option of {name}", option, valid)
    own = {option: value for option, value in chosen.items() if option not in (*SHARED, *CONTEXT)}
    method = build(**own).change(**{option: chosen[option] for option in SHARED if option in chosen})
    return _context(method, {option: chosen[option] for option in CONTEXT if option in chosen})


def _preset(name: str) -> Callable[..., Method]:
    if name not in TABLE:
        raise unknown("method", name, TABLE)
    module, function = TABLE[name].split(":")
    preset: Callable[..., Method] = getattr(importlib.import_module(module), function)
    return preset


def _context(method: Method, chosen: Mapping[str, Any]) -> Method:
    if chosen.get("suffix_window", 0) is None:
        if chosen.get("suffix_tail") is not None:
            raise ConfigError("suffix_tail needs a suffix_window")
        method = method.change(suffix=None)
    elif "suffix_window" in chosen or "suffix_tail" in chosen:
        now = method.suffix or Suffix()
        method = method.change(
            suffix=Suffix(window=chosen.get("suffix_window", now.window), tail=chosen.get("suffix_tail", now.tail))
        )
    if "prompt_interval" in chosen:
        interval = chosen["prompt_interval"]
        method = method.change(refresh=None if interval == 1 else Refresh(prompt_interval=interval))
    if "draft_steps" in chosen:
        match = method.draft.match if method.draft else "exact"
        method = method.change(draft=None if chosen["draft_steps"] == 1 else Draft(steps=chosen["draft_steps"], match=match))
    return method
