"""The shelf: published models by short names, with what is known of each and where that was read (assets/shelf.yaml).

    find("sdar-1.7b").hub_id                  the repository to load
    find("sdar-1.7b").shape                   its sizes, from which models/memory.py works out what it needs
    published(folder)                         the settings that were published for the checkpoint in a folder of the hub's cache

Nothing here is loaded or downloaded, and no name of a method is known: tests/models/test_shelf.py checks the settings.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from unmask.data.hub import Repository
from unmask.decode.spec import ModelSpec
from unmask.errors import ModelError, unknown
from unmask.models import TABLE
from unmask.models.config import Beside
from unmask.models.family import network_class
from unmask.models.own import KEYS, Own
from unmask.models.shape import Shape

FILE = "shelf.yaml"
FACTS = ("hub_id", "family", "licence", "parameters", "config")  # what a block may hold, beside settings
REQUIRED = ("hub_id", "family", "licence", "context", "config")  # known or listed as unknown
UNKNOWN = "unknown"
_CONTEXT = ("max_position_embeddings", "max_sequence_length")


class Fact(NamedTuple):
    """Something that was read, where, and when (YYYY-MM-DD or YYYY-MM)."""

    value: Any
    source: str
    read: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Known:
    """A model of the shelf.

    Attributes:
        name: the short one.
        facts: by their names (FACTS); what is not there is unknown.
        settings: what was published for it, piece by piece, each as in an unmask.json.
    """

    name: str
    facts: Mapping[str, Fact]
    settings: tuple[Fact, ...] = ()

    def value(self, fact: str) -> Any:
        """A fact, or "unknown"."""
        return self.facts[fact].value if fact in self.facts else UNKNOWN

    @property
    def hub_id(self) -> str:
        return str(self.facts["hub_id"].value)

    @property
    def repository(self) -> Repository:
        return Repository(self.hub_id)

    @functools.cached_property
    def network(self) -> tuple[Shape, ModelSpec] | None:
        """Sizes and ids, read by the family as from a checkpoint; None where its config.json is unknown."""
        if "config" not in self.facts:
            return None
        config = dict.fromkeys(_CONTEXT, 0) | self.facts["config"].value
        kind = network_class(config["architectures"][0])
        return kind.read_config(kind.complete(config, Beside(repository=self.hub_id.rpartition("/")[2])))

    @property
    def shape(self) -> Shape | None:
        return None if self.network is None else self.network[0]

    @property
    def context(self) -> int | str:
        """The longest row in tokens, or "unknown"."""
        return UNKNOWN if self.network is None else self.network[1].max_length or UNKNOWN

    @functools.cached_property
    def own(self) -> Own:
        """The settings that were published for it; of two that name the same, the later one."""
        choices: dict[str, Any] = {}
        for fact in self.settings:
            for key, value in fact.value.items():
                choices[key] = choices.get(key, {}) | value if isinstance(value, Mapping) else value
        return Own(**choices, place=f"{FILE}: {self.name}")


@functools.cache
def shelf() -> Mapping[str, Known]:
    """All models, by their short names, in the file's order."""
    return parse(yaml.safe_load((resources.files("unmask") / "assets" / FILE).read_text(encoding="utf-8")))


def find(name: str) -> Known | None:
    """The model of a short name, whatever its case.

    >>> found = find("sdar-1.7b")
    >>> found.hub_id, found.shape.layers, found.context, find("nothing")
    ('JetLM/SDAR-1.7B-Chat', 28, 32768, None)
    """
    return shelf().get(name.lower())


def published(folder: Path) -> Own | None:
    """The published settings of the checkpoint in a folder, where it is certain whose it is: in the hub's cache.

    A folder of any other place may hold anything that was made from a model, whatever its name and its config.json say.

    >>> published(Path("models--Dream-org--Dream-v0-Instruct-7B/snapshots/0123")).presets["r2-dllm"]["temporal.threshold"]
    0.8
    >>> published(Path("Dream-v0-Instruct-7B")) is None
    True
    """
    if folder.parent.name != "snapshots":
        return None
    kind, _, repository = folder.parents[1].name.partition("--")
    found = next((known for known in shelf().values() if known.hub_id.replace("/", "--") == repository), None)
    return found.own if found is not None and kind == "models" else None


def parse(data: Mapping[str, Any]) -> dict[str, Known]:
    """The models of a file's content. Raises ModelError, which names the model, for a block or a row that is not whole.

    >>> parse({"a-1b": [{"source": "its card", "hub_id": "o/a"}]})
    Traceback (most recent call last):
    unmask.errors.ModelError: shelf.yaml: a-1b: a block needs `source` and `read`, got hub_id, source
    """
    made = {}
    for name, blocks in data.items():
        try:
            made[name] = _parse(name, blocks)
        except (ModelError, ValueError) as error:
            raise ModelError(f"{FILE}: {name}: {error}") from None
    return made


def _parse(name: str, blocks: list[dict[str, Any]]) -> Known:
    facts, settings, missing = dict[str, Fact](), list[Fact](), set[str]()
    for block in blocks:
        if set(block) == {UNKNOWN}:
            missing |= set(block[UNKNOWN])
            continue
        source, read = block.get("source"), str(block.get("read", ""))
        if not source or not read:
            raise ModelError(f"a block needs `source` and `read`, got {', '.join(sorted(block))}")
        told = {key: value for key, value in block.items() if key not in ("source", "read")}
        for key in told:
            if key not in (*FACTS, *KEYS):
                raise unknown("fact", key, (*FACTS, *KEYS))
        facts |= {key: Fact(value, source, read) for key, value in told.items() if key in FACTS}
        chosen = {key: value for key, value in told.items() if key in KEYS}
        settings += [Fact(chosen, source, read)] if chosen else []
    said = set(facts) | ({"context"} if set(_CONTEXT) & set(_config(facts)) else set())
    for fact in REQUIRED:
        if (fact in said) == (fact in missing):
            raise ModelError(f"{fact} must be either said or listed under `unknown`")
    if "hub_id" not in facts or facts["family"].value not in FAMILIES:
        raise ModelError(f"it needs a hub_id and a family of {', '.join(FAMILIES)}")
    return Known(name=name, facts=facts, settings=tuple(settings))


def _config(facts: Mapping[str, Fact]) -> Mapping[str, Any]:
    return facts["config"].value if "config" in facts else {}


# The files that read checkpoints, by their names.
FAMILIES = tuple(dict.fromkeys(family.network.split(":")[0].rpartition(".")[2] for family in TABLE.values()))
