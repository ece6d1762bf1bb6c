"""Every part says what its settings may hold and what of them a calibration tries; every rule says how it is shown."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

import unmask
from unmask.decode.rule import Commit, Look, RulePart
from unmask.decode.rules import All
from unmask.decode.settings import Child, Number, Part, Whole, bounds, number_field, plain
from unmask.methods.method import Method
from unmask.methods.table import FURTHER, TABLE, commit_rules, looks

KINDS: list[type[Part]] = [
    Method,
    *commit_rules().values(),
    *(bound.kind for bound in bounds(Method).values() if isinstance(bound, Child) and bound.kind is not Commit),
]


def test_the_kinds_are_those_of_every_preset() -> None:
    assert {type(part) for name in TABLE for part in unmask.method(name).parts.values()} < set(KINDS)
    assert set(FURTHER) == {kind for kind in KINDS if issubclass(kind, RulePart) and not issubclass(kind, Commit)}


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_has_a_range_within_its_bound_or_a_reason(kind: type[Part]) -> None:
    assert bounds(kind) or kind is All  # a whole block has no number
    for name, bound in bounds(kind).items():
        if not isinstance(bound, Number | Whole):
            continue
        if isinstance(bound.search, str):
            assert len(bound.search.split()) > 2, name
        else:
            low, high = bound.search
            assert bound.least <= low < high <= getattr(bound, "most", high), name


@pytest.mark.parametrize("kind", [kind for kind in KINDS if issubclass(kind, RulePart)])
def test_every_rule_has_a_look_with_words(kind: type[RulePart]) -> None:
    assert looks()[kind.name] is kind.look
    assert len(kind.look.sentence.split()) > 3
    assert kind.look.label == kind.name.replace("_", " ")


def test_a_field_without_a_bound_and_a_rule_without_a_look_are_mistakes() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Bare(Part):
        number: float = 0.5

    with pytest.raises(TypeError, match=r"Bare\.number has no bound"):
        Bare()
    with pytest.raises(TypeError, match="the rule invisible needs a look"):

        class Invisible(Commit):
            name: ClassVar[str] = "invisible"

    with pytest.raises(TypeError, match="search"):
        number_field(0.0, 1.0)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"light": "red"}, "#rrggbb, got 'red'"), ({"terminal": "blink red"}, "one of black, red"), ({"label": ""}, "label")],
)
def test_a_look_is_plain_data_of_known_kinds(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(unmask.ConfigError, match=said):
        Look(**{"label": "a", "sentence": "b", "terminal": "red", "light": "#000000", "dark": "#ffffff"} | changes)


@pytest.mark.parametrize("name", TABLE)
def test_what_is_not_given_is_left_out_and_what_means_something_is_kept(name: str) -> None:
    method = unmask.method(name, prompt_interval=None) if name in ("r2-dllm", "eb-sampler") else unmask.method(name)
    data = plain(method)
    assert "eos_id" not in data.get("stop_at_eos", {})
    assert "steps" not in data["commit"]
    assert data.get("refresh") == (None if method.refresh is None else {"prompt_interval": None})
    assert unmask.method("vanilla", block_length=None).to_dict()["block_length"] is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"suffix": 3}, "suffix must be a Suffix or a mapping of its settings, got 3"),
        ({"commit": "threshold"}, "commit must be a Commit"),
        ({"name": 3}, "name must be a text, got 3"),
        ({"temporal.steps": None}, "temporal: the setting 'threshold' is missing"),
        ({"cache.size": 3}, "cache is one value"),
        ({"commit.gamma": 3}, "unknown commit setting of the rule quota 'gamma'"),
        ({"named": ()}, "unknown method setting 'named'"),
        ({"commit": {"rule": "os:system"}}, "unknown commit rule 'os:system'"),
        ({"commit.official": True}, "unknown commit setting of the rule quota 'official'"),
    ],
)
def test_a_change_that_fits_nothing_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(unmask.ConfigError, match=said):
        Method().change(**change)
