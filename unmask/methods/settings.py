"""Settings files: YAML or JSON, from disk to plain data, and from there to a Method."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unmask.errors import ConfigError
from unmask.methods.method import Method

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


def read_method(path: Path, changes: Mapping[str, Any]) -> Method:
    """The method of a file, some of its settings changed; a key with dots reaches into a part: {"commit.threshold": 0.8}."""
    settings = read_mapping(path)
    for key, value in changes.items():
        place = settings
        *parents, leaf = key.split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ConfigError(f"{key}: {parent} is not a mapping in {path}")
        place[leaf] = value
    return Method.from_dict(settings)
