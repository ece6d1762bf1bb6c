"""The one table of options: how a preset's option is called, which setting it is, and which value turns its part off.

`unmask.method`, `--set` and `diffusion.*` take either spelling, for presets and for files of settings. A setting of the base
rule needs no line here: as an option it has its own name (`threshold` is `commit.threshold`).
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from unmask.decode.rule import Commit
from unmask.decode.settings import Child, bounds
from unmask.errors import ConfigError, unknown
from unmask.methods.method import Method
from unmask.methods.settings import leaves
from unmask.methods.table import TABLE, commit_rule, commit_rules, resolve, rule_name

NEVER = object()


class Option(NamedTuple):
    """A setting by its dotted path; the value `off` turns its part off."""

    setting: str
    off: Any = NEVER

    @property
    def part(self) -> str:
        return self.setting.partition(".")[0]

    def turns_off(self, value: Any) -> bool:
        return type(value) is type(self.off) and bool(value == self.off)


OPTIONS: Mapping[str, Option] = {
    "alpha": Option("dynamic_threshold.alpha"),
    "cluster_size": Option("confidence_cluster.size", off=None),
    "cluster_threshold": Option("confidence_cluster.threshold"),
    "cluster_max_unmasked": Option("confidence_cluster.max_unmasked"),
    "token_threshold": Option("token_cluster.threshold", off=None),
    "token_min_length": Option("token_cluster.min_length"),
    "token_pick": Option("token_cluster.pick"),
    "temporal_steps": Option("temporal.steps", off=None),
    "temporal_threshold": Option("temporal.threshold"),
    "temporal_metric": Option("temporal.metric"),
    "edit_threshold": Option("edit.threshold", off=None),
    "max_post_steps": Option("edit.max_post_steps"),
    "sub_block": Option("sub_blocks.length", off=None),
    "sub_block_cache": Option("sub_blocks.cache"),
    "suffix_window": Option("suffix.window", off=None),
    "suffix_tail": Option("suffix.tail"),
    "prompt_interval": Option("refresh.prompt_interval", off=1),
    "draft_steps": Option("draft.steps", off=1),
    "multi_block": Option("blocks.count", off=1),
    "block_add": Option("blocks.add"),
    "block_active": Option("blocks.active"),
}
NAMES: Mapping[str, str] = {option.setting: name for name, option in OPTIONS.items()}

# Options that every preset takes: a context, a draft, an edit or a length goes with any rules.
SHARED = ("max_new_tokens", "temperature", "top_p", "top_k", "block_length", "cache")
AROUND = (
    "suffix_window",
    "suffix_tail",
    "prompt_interval",
    "draft_steps",
    "edit_threshold",
    "max_post_steps",
    "sub_block",
    "sub_block_cache",
    "multi_block",
    "block_add",
    "block_active",
)


def preset(name: str) -> Callable[..., Method]:
    """The function behind a preset's name, or behind `package.module:function`.

    Raises ConfigError that names the known presets, or what is wrong with the module.
    """
    if name not in TABLE and ":" not in name:
        raise unknown("method", name, TABLE)
    found: Callable[..., Method] = resolve(TABLE.get(name, name), "method", name)
    if not callable(found):
        raise ConfigError(f"method '{name}': expected a function that returns a Method, got {found!r:.60}")
    for option in inspect.signature(found).parameters.values():
        if option.default is option.empty:
            raise ConfigError(f"method '{name}': every argument of the function needs a default, and {option} has none")
    return found


def options(name: str) -> list[str]:
    """The option names that `build(name, ...)` takes, the preset's own first.

    >>> options("fast-dllm")[:2]
    ['factor', 'threshold']
    """
    make = preset(name)
    usual = make()
    return _options(make, usual, type(usual.commit))


def _options(make: Callable[..., Method], usual: Method, base: type[Commit]) -> list[str]:
    kinds = {part: type(held) for part, held in usual.parts.items()} | {"commit": base}
    settings = [f"{part}.{leaf}" for part, kind in kinds.items() for leaf in bounds(kind)]
    own = [_name(path) for path in settings if path in NAMES or path.startswith("commit.")]
    return list(dict.fromkeys([*inspect.signature(make).parameters, *own, *SHARED, *AROUND]))


def setting_of(option: str, method: Method) -> Option:
    """The setting of this method that an option means, in either spelling.

    >>> setting_of("threshold", Method(commit=commit_rule("threshold", outside=False)())).setting
    'commit.threshold'
    """
    return _option(option, type(method.commit))


def takes(name: str, key: str) -> bool:
    """Whether a preset has the option or setting of this name."""
    usual = preset(name)()
    return _name(key) in options(name) or _is_setting(usual, key, type(usual.commit))


def build(name: str, chosen: Mapping[str, Any]) -> Method:
    """A preset with some options changed, which count as named. Raises ConfigError that names the valid ones."""
    make = preset(name)
    parameters = inspect.signature(make).parameters
    given = {_name(key): value for key, value in chosen.items()}
    usual = make()
    if not isinstance(usual, Method):
        raise ConfigError(f"method '{name}': expected a Method, got {usual!r:.60}")
    base = _base(given, usual)
    # Where another rule is named, what that one has a setting for is no longer the function's to choose.
    own = parameters if base is type(usual.commit) else parameters.keys() - bounds(base).keys()
    shaping = {option: value for option, value in given.items() if option in own}
    method = make(**shaping) if shaping else usual
    rest = {option: value for option, value in given.items() if option not in shaping}
    valid = _options(make, usual, base)
    for option in rest:
        if option not in valid and not _is_setting(usual, option, base):
            raise unknown(f"option of {name}", option, valid)
    # What the function itself has chosen is the preset's default.
    method = replace(method, named=frozenset()).naming(_shaped(shaping, method, usual) if shaping else ())
    return apply(method, {_option(option, base).setting: value for option, value in rest.items()})


def apply(method: Method, chosen: Mapping[str, Any]) -> Method:
    """The method with these settings changed, by either spelling of their names; they count as named.

    Raises ConfigError on an unknown name, a bad value, or a setting of a part that another one turns off.

    >>> apply(Method(), {"suffix_window": 8, "commit.steps": 64}).suffix
    Suffix(window=8, tail=1)
    """
    base = _base(chosen, method)
    given = {option.setting: (option, value) for key, value in chosen.items() for option in [_option(key, base)]}
    off = {option.part: _name(path) for path, (option, value) in given.items() if option.turns_off(value)}
    changes = {path: value for path, (option, value) in given.items() if not option.turns_off(value)}
    for path in changes:
        if (part := path.partition(".")[0]) in off:
            raise ConfigError(f"{_name(path)} needs a {off[part]}: what was given turns {part} off")
    return method.change(**changes, **dict.fromkeys(off))


def layered(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two layers of options, the upper one winning in either spelling: a server's own settings, and a request's.

    What the upper layer turns off takes the lower one's settings of that part with it, and a base rule that it names those of
    the lower one's base rule.

    >>> layered({"temporal.steps": 4, "temporal_threshold": 0.5, "threshold": 0.8}, {"temporal_steps": None})
    {'threshold': 0.8, 'temporal_steps': None}
    """
    upper = {_name(key): value for key, value in above.items()}
    off = {OPTIONS[name].part for name, value in upper.items() if name in OPTIONS and OPTIONS[name].turns_off(value)}
    lower = {_name(key): value for key, value in below.items()}
    if upper.keys() & {"commit", "commit.rule"}:
        lower = {
            name: value for name, value in lower.items() if not any(name in bounds(rule) for rule in commit_rules().values())
        }
    return {name: value for name, value in lower.items() if name not in OPTIONS or OPTIONS[name].part not in off} | upper


def _name(key: str) -> str:
    """An option's name for either spelling."""
    return NAMES.get(key, key if key == "commit.rule" else key.removeprefix("commit."))


def _base(chosen: Mapping[str, Any], method: Method) -> type[Commit]:
    """The kind of base rule that the options name, or else the method's own. Raises ConfigError on an unknown name."""
    commit, named = chosen.get("commit"), chosen.get("commit.rule")
    if isinstance(commit, Commit):
        return type(commit)
    if isinstance(commit, Mapping):
        named = commit.get("rule")
    return type(method.commit) if named in (None, rule_name(type(method.commit))) else commit_rule(str(named), outside=False)


def _option(key: str, base: type[Commit]) -> Option:
    """The setting of a method with this kind of base rule, for either spelling."""
    name = NAMES.get(key, key)
    if name in OPTIONS:
        return OPTIONS[name]
    is_commits = name not in bounds(Method) and name in bounds(base)
    return Option(f"commit.{name}" if is_commits else name)


def _is_setting(method: Method, path: str, base: type[Commit]) -> bool:
    """Whether it is a setting of a method as a preset's method may have it changed: the name is the preset's own."""
    name, _, leaf = path.partition(".")
    bound = bounds(type(method)).get(name)
    if name in ("name", "parity") or bound is None or not leaf:
        return name not in ("name", "parity") and bound is not None
    held = method.parts.get(name)
    kind = base if name == "commit" else type(held) if held is not None else bound.kind if isinstance(bound, Child) else None
    return kind is not None and (leaf in bounds(kind) or path == "commit.rule")


def _shaped(shaping: Mapping[str, Any], method: Method, usual: Method) -> set[str]:
    """What the arguments of a preset's function named: their own settings, and all that came out differently.

    An argument that is no setting, such as a kind of schedule, names the base rule.
    """
    named = set()
    for argument in shaping:
        settings = {_option(argument, type(made.commit)).setting for made in (method, usual)} - {argument}
        named |= settings or {"commit"}
    ours, theirs = (dict(leaves(made.to_dict())) for made in (method, usual))
    return named | {path for path, value in ours.items() if path not in theirs or value != theirs[path]}
