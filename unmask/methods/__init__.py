"""The published methods by name, and how a name with options becomes a Method."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unmask.errors import ConfigError
from unmask.methods.method import Method
from unmask.methods.options import apply, build
from unmask.methods.options import options as options
from unmask.methods.settings import ENDINGS, read_mapping
from unmask.methods.table import TABLE as TABLE


def load(name: str, /, **chosen: Any) -> Method:
    """The preset `name` with some options changed, or the method of a YAML or JSON file with some settings changed.

    `package.module:function` is a preset from outside the package: a function that returns a Method, imported here.

    Besides a preset's own options (its docstring lists them) every preset takes `block_length`, `cache`,
    `suffix_window` (None: keep the whole suffix), `suffix_tail`, `prompt_interval` (recompute the prompt at the start of
    every so many blocks, 1: of each, None: of the first alone), `draft_steps` (1: no drafts), `edit_threshold` (None: what is
    committed stays), `max_post_steps`, `sub_block` (None: no sub-blocks), `sub_block_cache`, `max_new_tokens`, `temperature`,
    `top_p` and `top_k`. A setting's dotted path (`commit.threshold`) is as good as an option's name, for files too. What is
    chosen counts as named (`Method.named`).

    Raises:
        ConfigError: an unknown name or option; it names the valid ones.

    >>> load("r2-dllm", threshold=0.85).commit
    Threshold(threshold=0.85)
    """
    path = Path(name)
    if path.suffix in ENDINGS:
        return apply(Method.from_dict(read_mapping(path)), chosen)
    return build(name, chosen)


def from_client(method: Any, /, **chosen: Any) -> Method:
    """The method that a client names: a preset with options, or a mapping of settings.

    Never a file, which is the operator's, and never `package.module:...`: nothing that a client names is imported.

    >>> from_client("vanilla", steps=16).commit
    Quota(steps=16)
    """
    if isinstance(method, Mapping):
        _refuse(_rule(method))
        return apply(Method.from_dict(method, outside=False), chosen)
    if not isinstance(method, str):
        raise ConfigError(f"method must be a preset or a mapping of settings, got {method!r:.60}")
    _refuse(method)
    return build(method, chosen)


def _rule(settings: Mapping[str, Any]) -> str:
    commit = settings.get("commit")
    return str(commit.get("rule")) if isinstance(commit, Mapping) else ""


def _refuse(name: str) -> None:
    if ":" in name:
        raise ConfigError(
            f"'{name}' would have to be imported: only --method and unmask.method take a method from outside the package"
        )
