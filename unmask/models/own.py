"""unmask.json of a checkpoint's folder: the settings that were calibrated for it, and the method that it decodes with.

    {
      "method": "r2-dllm",                                   of calls that name none
      "max_new_tokens": 160,                                 of calls and methods that name none
      "settings": {"cache": "prefix"},                       of every preset
      "presets": {"r2-dllm": {"commit.threshold": 0.97}}     of one preset, above those of every one
    }

Every key may be left out, and so may the file. A setting has its dotted path; it replaces what a preset brings unnamed, never
what a call names, and nothing of an `-official` preset. This module knows no method: unmask.engine.own checks the names.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from unmask.errors import ModelError, unknown
from unmask.files import write_atomically
from unmask.models.stored import read_json

FILE = "unmask.json"
KEYS = ("method", "max_new_tokens", "settings", "presets")


@dataclass(frozen=True, kw_only=True, eq=False)
class Own:
    """A checkpoint's own choices; `place` is the file that they are from, for errors."""

    method: str | None = None
    max_new_tokens: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    place: str = FILE

    def of(self, preset: str) -> dict[str, Any]:
        """The settings of a preset, by their dotted paths.

        >>> Own(settings={"cache": "none"}, presets={"r2-dllm": {"temporal": None}}).of("r2-dllm")
        {'cache': 'none', 'temporal': None}
        """
        return {**self.settings, **self.presets.get(preset, {})}

    def to_dict(self) -> dict[str, Any]:
        """What the file holds; nothing where nothing was chosen."""
        return {name: value for name, value in asdict(self).items() if value and name != "place"}


def read(folder: Path) -> Own:
    """The choices of a folder, none where it has no such file. Raises ModelError where the file has another shape."""
    place = folder / FILE
    if not place.exists():
        return Own()
    data = read_json(place)
    for name in data:
        if name not in KEYS:
            raise ModelError(f"{place}: {unknown('key', str(name), KEYS)}")
    method, settings, presets = data.get("method"), data.get("settings", {}), data.get("presets", {})
    length = data.get("max_new_tokens")
    if length is not None and (type(length) is not int or length < 1):
        raise ModelError(f"{place}: max_new_tokens must be a whole number of at least 1, got {length!r:.60}")
    if method is not None and not isinstance(method, str):
        raise ModelError(f"{place}: method must be the name of a preset, got {method!r:.60}")
    for name, held in {"settings": settings, "presets": presets}.items():
        if not isinstance(held, dict):
            raise ModelError(f"{place}: {name} must be an object, got {held!r:.60}")
    for preset, held in presets.items():
        if not isinstance(held, dict):
            raise ModelError(
                f'{place}: presets.{preset} must be an object such as {{"commit.threshold": 0.97}}, got {held!r:.60}'
            )
    return Own(method=method, max_new_tokens=length, settings=settings, presets=presets, place=str(place))


def write(folder: Path, own: Own) -> None:
    """Write the choices of a folder, atomically."""
    text = json.dumps(own.to_dict(), indent=2) + "\n"
    write_atomically(folder / FILE, lambda place: place.write_text(text))
