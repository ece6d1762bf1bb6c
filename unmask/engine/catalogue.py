"""What is known of a model without loading it: of the shelf's and the embedded ones, and of any checkpoint folder.

entry("sdar-4b").facts      each with where it was read, and when
entry("./checkpoint")       the same of a folder, whose files are the source
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from unmask.decode.spec import ModelSpec
from unmask.engine.own import default_method_of
from unmask.errors import ModelError
from unmask.methods import load
from unmask.models import TABLE, memory, own
from unmask.models.loading import build, choices, read_json
from unmask.models.names import EMBEDDED, on_shelf, resolve
from unmask.models.room import free, laid_out
from unmask.models.shape import Shape
from unmask.models.shelf import UNKNOWN, Known, shelf

PACKAGE, LICENCE = "this package", "apache-2.0"
SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "repetition_penalty")
KINDS = ("bf16", "int8", "int4")  # types of weights, the largest first


class Said(NamedTuple):
    """A fact, where it was read, and when; a source of "" has not said it."""

    name: str
    value: Any
    source: str
    read: str = ""


class Setting(NamedTuple):
    """A setting that was published for a model, or calibrated: of one preset, or of every one ("")."""

    preset: str
    setting: str
    value: Any
    source: str
    read: str = ""

    @property
    def replaced(self) -> Any:
        """What the preset itself has in its place; None: it is off there."""
        held: Any = load(self.preset).to_dict() if self.preset else {}
        for step in self.setting.split("."):
            held = held.get(step) if isinstance(held, dict) else None
        return held


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A model, as `unmask models NAME` shows it; what is not known is "unknown".

    Attributes:
        hub_id: None: it is here.
        shape: None where its sizes are unknown.
        method: the preset that decodes where none is named.
        sampling: numbers of its generation_config.json, if that is here; never applied unasked.
    """

    name: str
    hub_id: str | None
    family: str
    parameters: int | str
    context: int | str
    licence: str
    shape: Shape | None
    facts: tuple[Said, ...]
    method: str
    settings: tuple[Setting, ...]
    sampling: Mapping[str, Any]

    @property
    def source(self) -> str:
        """Where its facts were read."""
        return "; ".join(dict.fromkeys(fact.source for fact in self.facts if fact.source))

    def needs(self, kinds: Iterable[str], device: torch.device) -> dict[str, memory.Need]:
        """What it takes there by the type of its weights, for a row of 2,048 tokens or its longest; nothing: not known."""
        if self.shape is None:
            return {}
        tokens = min(memory.TOKENS, self.context) if isinstance(self.context, int) else memory.TOKENS
        return {kind: memory.need(self.shape, kind=kind, tokens=tokens, packed=laid_out(device, kind)) for kind in kinds}

    def fitting(self, device: torch.device, kinds: Iterable[str] = KINDS) -> str:
        """The first of these types with which it fits into what is free there: "no": none, "unknown": not known."""
        left, needs = free(device), self.needs(kinds, device)
        if left is None or not needs:
            return UNKNOWN
        return next((kind for kind, need in needs.items() if need.total <= left), "no")


def entries() -> list[Entry]:
    """The embedded models, then the shelf."""
    return [*map(entry, EMBEDDED), *map(_published, shelf().values())]


def entry(name: str) -> Entry:
    """The entry of a name. Raises ModelError, with the nearest names, where nothing is known of it.

    >>> entry("unmask-tiny").parameters, entry("llada-8b").context, entry("stable-diffcoder-8b").shape
    (1556960, 4096, None)
    """
    place = resolve(name)
    if isinstance(place, Path):
        return _here(name, place)
    told, folder = on_shelf(name), place.cached("config.json")
    if told is not None:
        return _published(told)
    if folder is not None:
        return _here(name, folder)
    raise ModelError(f"nothing is known of {name}, which is not here: load it once, or take one that `unmask models` lists")


def _published(told: Known) -> Entry:
    facts = [Said(name, *fact) for name, fact in told.facts.items() if name != "config"]
    network, config, folder = told.network, told.facts.get("config"), told.repository.cached("config.json")
    if network is not None and config is not None:
        facts += [Said(name, value, config.source, config.read) for name, value in _sizes(*network).items()]
    said = {fact.name: fact.value for fact in facts}
    facts += [Said(name, UNKNOWN, "") for name in ("licence", "parameters", "context") if name not in said]
    settings = [
        Setting(preset, path, value, fact.source, fact.read)
        for fact in told.settings
        for preset, chosen in fact.value.get("presets", {}).items()
        for path, value in chosen.items()
    ]
    return Entry(
        name=told.name,
        hub_id=told.hub_id,
        family=told.value("family"),
        parameters=said.get("parameters", UNKNOWN),
        context=told.context,
        licence=told.value("licence"),
        shape=told.shape,
        facts=tuple(facts),
        method=default_method_of(told.name),
        settings=(*settings, *_chosen(choices(told.name))),
        sampling={} if folder is None else sampling(folder),
    )


def _here(name: str, folder: Path) -> Entry:
    network = build(read_json(folder / "config.json"), folder)
    source, licence = (PACKAGE, LICENCE) if name in EMBEDDED else (str(folder), UNKNOWN)
    family = TABLE[network.config["architectures"][0]].network.split(":")[0].rpartition(".")[2]
    facts = {"family": family, "licence": licence} | _sizes(network.shape, network.spec)
    return Entry(
        name=name,
        hub_id=None,
        family=family,
        parameters=memory.parameters(network.shape).total,
        context=network.spec.max_length,
        licence=licence,
        shape=network.shape,
        facts=tuple(Said(key, value, "" if value == UNKNOWN else source) for key, value in facts.items()),
        method=default_method_of(name),
        settings=_chosen(choices(name)),
        sampling=sampling(folder),
    )


def _sizes(shape: Shape, spec: ModelSpec) -> dict[str, Any]:
    """What a config says, in plain words."""
    moe = shape.moe
    experts = {} if moe is None else {"experts": f"{moe.experts} of {moe.mlp} channels, {moe.chosen} for each token"}
    return {
        "parameters": memory.parameters(shape).total,
        **({"context": spec.max_length} if spec.max_length else {}),
        "attention": "every token" if spec.block is None else f"block-causal, blocks of {spec.block}",
        "layers": shape.layers,
        "width": shape.width,
        "heads": f"{shape.heads}, {shape.kv_heads} of keys and values, of {shape.head_size} channels",
        "feed-forward": shape.mlp,
        **experts,
        "vocabulary": shape.vocab,
    }


def _chosen(choice: own.Own) -> tuple[Setting, ...]:
    """What the folder's own unmask.json says."""
    of: dict[str, Mapping[str, Any]] = {"": choice.settings, **choice.presets}
    return tuple(Setting(preset, path, value, own.FILE) for preset, held in of.items() for path, value in held.items())


def sampling(folder: Path) -> dict[str, Any]:
    """The sampling numbers of a folder's generation_config.json, which are shown and never applied."""
    place = folder / "generation_config.json"
    said = read_json(place) if place.exists() else {}
    return {name: said[name] for name in SAMPLING if name in said}


def document(one: Entry, device: torch.device, *, whole: bool) -> dict[str, Any]:
    """An entry as plain data; `whole`: with all facts, settings and parts of its memory. Bytes throughout."""
    needs = one.needs(KINDS, device)
    row = {
        "name": one.name,
        "hub_id": one.hub_id,
        "family": one.family,
        "parameters": one.parameters,
        "memory": {kind: need.total for kind, need in needs.items()} or UNKNOWN,
        "fits": one.fitting(device),
        "source": one.source,
    }
    if not whole:
        return row
    return row | {
        "licence": one.licence,
        "context": one.context,
        "facts": [fact._asdict() for fact in one.facts],
        "needs": {kind: need._asdict() for kind, need in needs.items()},
        "method": one.method,
        "settings": [setting._asdict() for setting in one.settings],
        "generation_config": dict(one.sampling),
    }


def sources(parts: Sequence[Said | Setting]) -> dict[tuple[str, str], int]:
    """Sources with their dates, numbered from 1 as they come."""
    pairs = dict.fromkeys((part.source, part.read) for part in parts if part.source)
    return {pair: number for number, pair in enumerate(pairs, start=1)}


def word(value: Any) -> str:
    """A value in a table.

    >>> word(151936), word(2560), word({"count": 3}), word(None)
    ('151,936', '2560', '{"count": 3}', 'off')
    """
    if value is None:
        return "off"
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) and value > 9999 else json.dumps(value)
