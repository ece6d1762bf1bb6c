"""Settings as plain data: files of them (YAML or JSON), their dotted paths, and what sets two apart."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from unmask.errors import ConfigError

ENDINGS = (".yaml", ".yml", ".json")


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML (or JSON) file of settings. Raises ConfigError where it cannot be read or holds something else."""
    import yaml

    try:
        settings = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: expected a mapping of settings")
    return settings


def leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of settings by their dotted paths.

    >>> dict(leaves({"cache": "dual", "commit": {"rule": "threshold", "threshold": 0.9}}))
    {'cache': 'dual', 'commit.rule': 'threshold', 'commit.threshold': 0.9}
    """
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What `after` says otherwise than `before`, by dotted paths; a part that is off there is None as a whole.

    A part that `before` has off, and a base rule of another name, are given whole.

    >>> differences({"cache": "dual", "suffix": {"window": 8}}, {"cache": "none", "draft": {"steps": 4}})
    {'cache': 'none', 'draft': {'steps': 4}, 'suffix': None}
    """
    found: dict[str, Any] = {}
    for name, value in after.items():
        old = before.get(name)
        if isinstance(value, Mapping) and isinstance(old, Mapping) and old.get("rule") == value.get("rule"):
            changed = {leaf: value.get(leaf) for leaf in {**old, **value} if old.get(leaf) != value.get(leaf)}
            found |= {f"{name}.{leaf}": one for leaf, one in changed.items()}
        elif value != old or name not in before:
            found[name] = value
    return found | {name: None for name in before if name not in after}
