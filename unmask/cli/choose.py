"""What several commands share: the options that pick a model and a method, and how a method's name or file is read."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unmask.errors import ConfigError

if TYPE_CHECKING:
    from unmask.methods.method import Method

Model = Annotated[str, typer.Option(help="An embedded model, a checkpoint folder or a Hugging Face id.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16 or float64.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the method; repeatable.")
]
NewTokens = Annotated[int | None, typer.Option(help="Length of the answer in tokens, a multiple of the block length.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document as the last line.")]


def read_settings(pairs: list[str] | None) -> dict[str, Any]:
    """`key=value` pairs; values are YAML, so 0.9 is a number and null is None.

    >>> read_settings(["threshold=0.8", "cache=prefix"])
    {'threshold': 0.8, 'cache': 'prefix'}
    """
    chosen: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {pair}: write it as key=value")
        chosen[key.replace("-", "_")] = _value(pair, value)
    return chosen


def _value(pair: str, text: str) -> Any:
    import yaml

    try:
        return float(text) if "e" in text.lower() else yaml.safe_load(text)  # YAML reads 1e-1 as a word
    except ValueError:
        return text
    except yaml.YAMLError:
        raise ConfigError(f"--set {pair}: the value is not valid YAML") from None


def read_method(name: str, pairs: list[str] | None = None) -> "Method":
    """A preset with options changed, or a YAML or JSON file of settings with keys changed (`commit.threshold=0.8`)."""
    from unmask.methods import load
    from unmask.methods.method import Method

    chosen = read_settings(pairs)
    path = Path(name)
    if path.suffix not in (".yaml", ".yml", ".json"):
        return load(name, **chosen)
    settings = read_mapping(path)
    for key, value in chosen.items():
        place = settings
        *parents, leaf = key.split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ConfigError(f"--set {key}: {parent} is not a mapping in {path}")
        place[leaf] = value
    return Method.from_dict(settings)


def read_methods(names: str) -> dict[str, "Method"]:
    """Presets and settings files, separated by commas, by the names they were given."""
    chosen = {name: read_method(name) for name in names.split(",") if name}
    if not chosen:
        raise ConfigError("--methods names no method: write for example vanilla,r2-dllm")
    return chosen


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML (or JSON) file of settings."""
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
