"""A table of a paper, read from a file of configs/paper: a model, and for each task the settings and the published numbers.

The reader is strict and builds every method at once, so that a mistake shows before the first forward.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from unmask.decode.settings import from_mapping, whole
from unmask.errors import ConfigError, unknown
from unmask.methods import load
from unmask.methods.method import Method
from unmask.models.prompting import Prompting


@dataclass(frozen=True, kw_only=True)
class Published:
    """A paper's numbers of one method on one task, counted as its authors count.

    Attributes:
        accuracy: percent.
        forwards, seconds: mean per answer; None, here and below, if the paper does not give the number.
    """

    accuracy: float
    forwards: float | None = None
    tokens_per_second: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            most = 100 if name == "accuracy" else float("inf")
            if value is None and name != "accuracy":
                continue
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= most:
                raise ConfigError(f"published {name} must be a number from 0 to {most:g}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How unmask decodes a row of the table: a preset with options, or the reason why it does not."""

    preset: str | None = None
    options: Mapping[str, Any] | None = None
    not_run: str | None = None

    def __post_init__(self) -> None:
        if (self.preset is None) == (self.not_run is None):
            raise ConfigError("a row of the table has either a preset or, under not_run, why it has none")
        _mapping(self.options or {}, "options")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One task of the table.

    Attributes:
        task, shots, max_new_tokens: as unmask runs it.
        published: row -> the paper's numbers.
        options: row -> options of its preset for this task.
        instead_of: the paper's task, if unmask has only a similar one.
    """

    task: str
    shots: int
    max_new_tokens: int
    published: Mapping[str, Published]
    options: Mapping[str, Mapping[str, Any]] | None = None
    instead_of: str | None = None

    def __post_init__(self) -> None:
        whole("shots", self.shots, 0, required=True)
        whole("max_new_tokens", self.max_new_tokens, 1, required=True)
        for name, chosen in _mapping(self.options or {}, f"{self.task}: options").items():
            _mapping(chosen, f"{self.task}: options of {name}")

    @property
    def title(self) -> str:
        return f"{self.task}, {self.shots} shots, {self.max_new_tokens} tokens"

    @property
    def slug(self) -> str:
        return f"{self.task}-{self.shots}shot-{self.max_new_tokens}"


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A table of a paper.

    Attributes:
        paper, table: where it was published.
        model, hardware: what was measured.
        methods: row -> how unmask decodes it.
        caveats: what to know before comparing.
        chat_template, add_bos: how the paper asks its model, as `unmask.load` takes them.
    """

    paper: str
    table: str
    model: str
    hardware: str
    methods: Mapping[str, Recipe]
    entries: tuple[Entry, ...]
    caveats: tuple[str, ...]
    chat_template: bool = True
    add_bos: bool = False

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """Read a file's settings. Raises ConfigError, which names the key, for an unknown or missing key or a bad value."""
        parts = dict(settings)
        for name in ("entries", "caveats"):
            if not isinstance(parts.get(name, []), list):
                raise ConfigError(f"{name}: expected a list, got {parts[name]!r}")
        parts["methods"] = _each(Recipe, parts.get("methods", {}), "methods")
        parts["entries"] = tuple(_entry(entry, f"entry {number}") for number, entry in enumerate(parts.get("entries", []), 1))
        return from_mapping(cls, parts | {"caveats": tuple(parts.get("caveats", []))}, "table")

    def __post_init__(self) -> None:
        for name in ("chat_template", "add_bos"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be true or false, got {getattr(self, name)!r}")
        slugs = [entry.slug for entry in self.entries]
        if not slugs or len(set(slugs)) < len(slugs):
            raise ConfigError(
                f"a table needs entries, each with another task, shots or length; got {', '.join(slugs) or 'none'}"
            )
        for entry in self.entries:
            for name in (*entry.published, *(entry.options or {})):
                if name not in self.methods:
                    raise unknown(f"row of {entry.title}", name, self.methods)
            if not self.runnable(entry):
                raise ConfigError(f"{entry.title}: unmask runs none of its rows; leave it out")

    @property
    def prompting(self) -> Prompting:
        return Prompting(chat_template=self.chat_template, add_bos=self.add_bos)

    def is_of(self, model: str) -> bool:
        """Whether a model is the table's: one of its name, and so is a checkpoint folder of that name."""
        return Path(model).name == Path(self.model).name

    def runnable(self, entry: Entry) -> dict[str, Method]:
        """Row -> method, for the rows that unmask has a method for."""
        found = {}
        for name in entry.published:
            recipe = self.methods[name]
            if recipe.preset is not None:
                chosen = {**(recipe.options or {}), **(entry.options or {}).get(name, {})}
                found[name] = load(recipe.preset, **chosen, max_new_tokens=entry.max_new_tokens)
                found[name].block(entry.max_new_tokens)
        return found

    def only(self, tasks: Sequence[str]) -> Self:
        """The entries of these tasks."""
        known = {entry.task for entry in self.entries}
        for task in tasks:
            if task not in known:
                raise unknown("task of this table", task, known)
        return replace(self, entries=tuple(entry for entry in self.entries if entry.task in tasks))


def _entry(data: Any, where: str) -> Entry:
    if isinstance(data, Mapping) and "published" in data:
        data = {**data, "published": _each(Published, data["published"], f"{where}: published")}
    return from_mapping(Entry, data, where)


def _each(kind: type[Any], data: Any, where: str) -> dict[str, Any]:
    return {str(name): from_mapping(kind, part, f"{where}: {name}") for name, part in _mapping(data, where).items()}


def _mapping(data: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: expected a mapping, got {data!r}")
    return data
