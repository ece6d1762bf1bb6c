"""Presets, their options and the settings schema."""

import importlib
import inspect

import pytest

import unmask
from unmask.methods import TABLE, load, options
from unmask.methods.method import Method, Refresh


@pytest.mark.parametrize("name", TABLE)
def test_a_preset_survives_a_round_trip_and_has_a_docstring(name: str) -> None:
    method = load(name)
    assert Method.from_dict(method.to_dict()) == method
    assert method.name == name
    assert {"block_length", "cache", "prompt_interval", "draft_steps"} <= set(options(name))
    assert method.official == name.endswith("-official")


def test_options_reach_every_part() -> None:
    method = load("vanilla", cache="dual", suffix_window=8, suffix_tail=2, draft_steps=3, block_length=None, temperature=0.5)
    assert (method.cache, method.block_length, method.temperature) == ("dual", None, 0.5)
    assert method.suffix is not None
    assert (method.suffix.window, method.suffix.tail) == (8, 2)
    assert method.draft is not None
    assert method.draft.steps == 3
    assert load("r2-dllm", prompt_interval=4).refresh == Refresh(prompt_interval=4)
    assert load("r2-dllm", prompt_interval=None).refresh == Refresh(prompt_interval=None)
    assert load("r2-dllm", prompt_interval=1) == load("r2-dllm")
    assert load("freedave", draft_steps=1).draft is None
    assert load("streaming-dllm", suffix_window=None).suffix is None


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: load("r2dllm"), ["r2dllm", "r2-dllm", "vanilla"]),
        (lambda: load("r2-dllm", treshold=0.9), ["treshold", "did you mean 'threshold'"]),
        (lambda: load("r2-dllm", threshold=1.5), ["threshold", "from 0 to 1", "1.5"]),
        (lambda: load("r2-dllm", threshold=True), ["threshold", "True"]),
        (lambda: load("r2-dllm", threshold="0.9"), ["threshold", "'0.9'"]),
        (lambda: load("r2-dllm", cache="dule"), ["cache", "dual"]),
        (lambda: load("r2-dllm", temporal_metric="mean"), ["temporal.metric", "ave"]),
        (lambda: load("r2-dllm", token_pick="middle"), ["token_cluster.pick", "mid"]),
        (lambda: load("r2-dllm", block_length=0), ["block_length", "at least 1"]),
        (lambda: load("vanilla", steps=2.5), ["steps", "2.5"]),
        (lambda: load("vanilla", score="margin"), ["timestep"]),
        (lambda: load("vanilla", schedule="odd"), ["schedule", "timestep"]),
        (lambda: load("freedave", draft_steps=0), ["draft.steps", "at least 1"]),
        (lambda: load("vanilla", suffix_window=None, suffix_tail=1), ["suffix_window"]),
        (lambda: load("r2-dllm", prompt_interval=0), ["refresh.prompt_interval", "at least 1"]),
        (lambda: load("vanilla", prompt_interval=2), ["prompt_interval", "cache=dual", "cache=none"]),
        (lambda: load("r2-dllm-official", prompt_interval=None), ["prompt_interval", "without -official"]),
        (lambda: Method.from_dict({"comit": {}}), ["comit", "did you mean 'commit'"]),
        (lambda: Method.from_dict({"commit": {"rule": "treshold"}}), ["treshold", "threshold"]),
        (lambda: Method.from_dict({"commit": {"threshold": 0.9}}), ["rule"]),
        (lambda: Method.from_dict({"commit": {"rule": "quota", "threshold": 0.9}}), ["threshold", "steps"]),
        (lambda: Method.from_dict({"temporal": {"steps": 3}}), ["temporal", "threshold", "missing"]),
        (lambda: Method.from_dict({"suffix": 3}), ["suffix", "mapping"]),
        (lambda: Method.from_dict({"dynamic_threshold": {"alpha": 0.1}}), ["dynamic_threshold", "threshold"]),
    ],
)
def test_bad_settings_are_named(call: object, words: list[str]) -> None:
    assert callable(call)
    with pytest.raises(unmask.ConfigError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line
    for word in words:
        assert word in line


def test_every_method_file_names_its_paper() -> None:
    for entry in TABLE.values():
        module = inspect.getmodule(importlib.import_module(entry.split(":")[0]))
        assert module is not None
        assert module.__doc__ is not None
        assert "arXiv" in module.__doc__
