"""Settings files: YAML or JSON, from disk to plain data."""

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
