"""unmask.json of a checkpoint's folder: the settings that were calibrated for it, and the method that it decodes with.

    {
      "method": "r2-dllm",                                   of calls that name none
      "max_new_tokens": 160,                                 of calls and methods that name none
      "settings": {"cache": "prefix"},                       of every preset
      "presets": {"r2-dllm": {"commit.threshold": 0.97}}     of one preset, above those of every one
    }

Every key may be left out, and so may the file. A setting has its dotted path; it replaces what a preset brings unnamed, never
what a call names, and nothing of an `-official` preset. Below it lies what was published for the checkpoint, where it is
certain whose it is (models/shelf.py). This module knows no method: unmask.engine.own checks the names.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unmask.errors import ModelError, unknown
from unmask.files import write_atomically
from unmask.models.stored import read_json

FILE = "unmask.json"
KEYS = ("method", "max_new_tokens", "settings", "presets")


@dataclass(frozen=True, kw_only=True, eq=False)
class Own:
    """A checkpoint's own choices.

    Attributes:
        place: the file that they are from, for errors.
        published: what holds where nothing was chosen here; None: nothing is known.
    """

    method: str | None = None
    max_new_tokens: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    place: str = FILE
    published: "Own | None" = None

    @property
    def usual_method(self) -> str | None:
        """The preset of calls that name none, if one is known."""
        return self.method or (self.published.usual_method if self.published else None)

    @property
    def usual_length(self) -> int | None:
        """The length of answers that have none, in tokens, if one is known."""
        return self.max_new_tokens or (self.published.usual_length if self.published else None)

    def of(self, preset: str) -> dict[str, Any]:
        """The settings of a preset, by their dotted paths.

        >>> Own(settings={"cache": "none"}, presets={"r2-dllm": {"temporal": None}}).of("r2-dllm")
        {'cache': 'none', 'temporal': None}
        """
        below = self.published.of(preset) if self.published else {}
        return {**below, **self.settings, **self.presets.get(preset, {})}

    def to_dict(self) -> dict[str, Any]:
        """What the file holds; nothing where nothing was chosen."""
        return {name: value for name in KEYS if (value := getattr(self, name))}

    def provenance(self) -> dict[str, Any]:
        """All that answers may depend on: what the file holds, and what was published."""
        below = self.published.to_dict() if self.published else {}
        return {**self.to_dict(), **({"published": below} if below else {})}


def read(folder: Path, published: Own | None = None) -> Own:
    """The choices of a folder, none where it has no such file, over what was published for its checkpoint.

    Raises ModelError where the file has another shape.
    """
    place = folder / FILE
    if not place.exists():
        return Own(published=published)
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
    return Own(method=method, max_new_tokens=length, settings=settings, presets=presets, place=str(place), published=published)


def write(folder: Path, own: Own) -> None:
    """Write the choices of a folder, atomically."""
    text = json.dumps(own.to_dict(), indent=2) + "\n"
    write_atomically(folder / FILE, lambda place: place.write_text(text))
