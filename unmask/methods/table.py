"""The literal table of presets, and how a name becomes what stands behind it."""

import functools
import importlib
from collections.abc import Mapping
from typing import Any

from unmask.decode.editing import Edit
from unmask.decode.forced import Forced
from unmask.decode.redundancy import ConfidenceCluster, Temporal, TokenCluster
from unmask.decode.rule import Commit, Look, RulePart
from unmask.errors import ConfigError, unknown

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
    "eb-sampler": "unmask.methods.eb_sampler:eb_sampler",
    "localleap": "unmask.methods.localleap:localleap",
    "sdar": "unmask.methods.sdar:sdar",
    "sdar-official": "unmask.methods.sdar:official",
    "llada2": "unmask.methods.llada2:llada2",
    "llada2-official": "unmask.methods.llada2:official",
    "llada2.1": "unmask.methods.llada2_1:llada2_1",
    "llada2.1-official": "unmask.methods.llada2_1:official",
    "llada2.2": "unmask.methods.llada2_2:llada2_2",
    "llada2.2-official": "unmask.methods.llada2_2:official",
    "fast-dllm-v2": "unmask.methods.fast_dllm_v2:fast_dllm_v2",
    "fast-dllm-v2-official": "unmask.methods.fast_dllm_v2:official",
}

# The files whose base rules any method may name, beside those that the presets' files define or use.
BASE = ("unmask.decode.rules", "unmask.decode.learned")

# The rules that a method may run behind its base rule.
FURTHER: tuple[type[RulePart], ...] = (ConfidenceCluster, TokenCluster, Temporal, Edit)


@functools.cache
def commit_rules() -> Mapping[str, type[Commit]]:
    """The base rules by name: the shared ones, and those that the presets' files define or use."""
    modules = dict.fromkeys((*BASE, *(entry.partition(":")[0] for entry in TABLE.values())))
    kinds = [kind for name in modules for kind in vars(importlib.import_module(name)).values() if isinstance(kind, type)]
    return {kind.name: kind for kind in kinds if issubclass(kind, Commit) and hasattr(kind, "name")}


def commit_rule(name: str, *, outside: bool) -> type[Commit]:
    """A base rule by its name or, if `outside` allows it, as `package.module:Class`. Raises ConfigError for anything else."""
    known = commit_rules()
    if name in known:
        return known[name]
    if not (outside and ":" in name):
        raise unknown("commit rule", name, known)
    found = resolve(name, "commit rule", name)
    if not (isinstance(found, type) and issubclass(found, Commit) and hasattr(found, "name")):
        raise ConfigError(f"commit rule '{name}': expected a subclass of unmask.decode.rule.Commit with a name")
    return found


def rule_name(kind: type[Commit]) -> str:
    """What `commit_rule` finds this rule by."""
    return kind.name if commit_rules().get(kind.name) is kind else f"{kind.__module__}:{kind.__qualname__}"


def looks() -> dict[str, Look]:
    """How the package's own rules are shown, by name."""
    return {kind.name: kind.look for kind in (*commit_rules().values(), *FURTHER)} | {Forced.name: Forced.look}


def resolve(entry: str, kind: str, name: str) -> Any:
    """What stands behind `package.module:object`."""
    module, _, attribute = entry.partition(":")
    if not module or module.startswith("."):
        raise ConfigError(f"{kind} '{name}': write it as package.module:{'Class' if 'rule' in kind else 'function'}")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{kind} '{name}': {error}; is its folder on PYTHONPATH?") from None
    except Exception as error:  # whatever goes wrong in a module from outside
        raise ConfigError(f"{kind} '{name}': {module} cannot be imported ({type(error).__name__}: {error})") from error
    for step in attribute.split("."):
        if not hasattr(found, step):
            raise ConfigError(f"{kind} '{name}': the module {module} has no {attribute or 'object of an empty name'}")
        found = getattr(found, step)
    return found
