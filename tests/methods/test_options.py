"""One setting, two spellings, for presets and for files; what is named is remembered, and what is not may be replaced."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import unmask
from unmask.methods import TABLE, from_client, load, options
from unmask.methods.method import Method
from unmask.methods.options import OPTIONS
from unmask.serve.options import Options
from unmask.serve.protocol import Diffusion
from unmask.serve.requests import choose

# Two values of each option, beside the one that turns its part off.
VALUES: dict[str, tuple[Any, Any]] = {
    "alpha": (0.1, 0.2),
    "cluster_size": (2, 4),
    "cluster_threshold": (0.6, 0.9),
    "cluster_max_unmasked": (0, None),
    "token_threshold": (0.5, 0.9),
    "token_min_length": (3, 4),
    "token_pick": ("mid", "random"),
    "temporal_steps": (2, 4),
    "temporal_threshold": (0.5, 0.9),
    "temporal_metric": ("ave", "max"),
    "suffix_window": (16, 64),
    "suffix_tail": (0, 2),
    "prompt_interval": (2, None),
    "draft_steps": (2, 3),
    "edit_threshold": (0.0, 0.8),
    "max_post_steps": (0, 3),
    "sub_block": (4, 16),
    "sub_block_cache": (True, False),
    "multi_block": (2, 4),
    "block_add": (0.1, 0.75),
    "block_active": (0.5, 0.95),
}


def preset_of(option: str) -> str:
    return next(name for name in TABLE if option in options(name) and load(name).cache != "none")


def test_every_option_is_tried() -> None:
    assert VALUES.keys() == OPTIONS.keys()


@pytest.mark.parametrize("option", OPTIONS)
def test_either_spelling_changes_a_preset_a_file_and_what_a_client_names(option: str, tmp_path: Path) -> None:
    name, setting = preset_of(option), OPTIONS[option].setting
    part, _, leaf = setting.partition(".")
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(load(name).to_dict()))
    off = OPTIONS[option].off
    for value in (*VALUES[option], *([off] if off is None or isinstance(off, int) else [])):
        made = [load(name, **{option: value}), load(name, **{setting: value})]
        made += [load(str(file), **{option: value}), load(str(file), **{setting: value})]
        made += [from_client(name, **{option: value}), load(name).change(**{setting: value})] if value != off else []
        assert len(set(map(repr, made))) == 1
        assert all(method == made[0] for method in made)
        assert getattr(made[0], part) is None if value == off else getattr(getattr(made[0], part), leaf) == value
        assert all(part in {path.partition(".")[0] for path in method.named} for method in made)


def test_the_base_rules_settings_are_options_by_their_own_names(tmp_path: Path) -> None:
    for name, option, value in (("vanilla", "steps", 64), ("r2-dllm", "threshold", 0.7), ("eb-sampler", "gamma", 0.5)):
        assert getattr(load(name, **{option: value}).commit, option) == value
        assert load(name, **{f"commit.{option}": value}) == load(name, **{option: value})
        file = tmp_path / "mine.yaml"
        file.write_text(yaml.safe_dump(load(name).to_dict()))
        assert load(str(file), **{option: value}) == load(name, **{option: value})
    assert load("fast-dllm", **{"commit.factor": 2.0}) == load("fast-dllm", factor=2.0)
    assert load("vanilla", **{"commit.rule": "schedule"}) == load("vanilla", schedule="timestep")
    assert load("r2-dllm", temporal=None) == load("r2-dllm", temporal_steps=None)
    assert load("freedave", **{"draft.match": "subset"}).draft == load("freedave-official").draft


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: load("fast-dllm", threshold=0.8, factor=1.0), "unknown commit setting of the rule factor 'threshold'"),
        (lambda: load("r2-dllm", cluster_size=None, cluster_threshold=0.9), "cluster_threshold needs a cluster_size"),
        (lambda: load("vanilla", cluster_threshold=0.9), "unknown option of vanilla 'cluster_threshold'"),
        (lambda: load("vanilla", **{"confidence_cluster.threshold": 0.9}), "unknown option of vanilla 'cluster_threshold'"),
        (lambda: load("r2-dllm", **{"commit.treshold": 0.9}), "did you mean 'threshold'"),
        (lambda: load("r2-dllm", parity="official"), "unknown option of r2-dllm 'parity'"),
        (lambda: load("r2-dllm", prompt_interval=True), "prompt_interval must be a whole number"),
        (lambda: load("fast-dllm", commit="learned", threshold=0.9), "commit must be a Commit or a mapping"),
        (lambda: load("fast-dllm", blocks=3, multi_block=4), "blocks must be a MultiBlock or a mapping"),
    ],
)
def test_what_does_not_go_together_is_refused(call: Any, said: str) -> None:
    with pytest.raises(unmask.ConfigError, match=said):
        call()


def test_a_request_may_turn_off_what_the_server_has_set() -> None:
    own = Options(settings={"temporal_threshold": 0.5, "commit.threshold": 0.8, "draft_steps": 3})
    made = choose(Diffusion.model_validate({"temporal_steps": None, "threshold": 0.7, "draft.steps": 1}), own)
    assert made == load("r2-dllm", temporal_steps=None, threshold=0.7)
    assert choose(Diffusion.model_validate({"draft.steps": 2}), own) == load(
        "r2-dllm", temporal_threshold=0.5, threshold=0.8, draft_steps=2
    )
    with pytest.raises(unmask.ConfigError, match="temporal_threshold needs a temporal_steps"):
        choose(Diffusion.model_validate({"temporal_threshold": 0.5}), Options(settings={"temporal_steps": None}))


# --- named or default -------------------------------------------------------------------------------------------------


OWN = {"block_length": 8, "cache": "prefix", "commit.threshold": 0.95, "draft": {"steps": 2}, "temporal.metric": "max"}


def test_what_is_named_is_kept_and_the_rest_replaced() -> None:
    assert not load("r2-dllm").named
    made = load("r2-dllm", threshold=0.7, temporal_steps=None)
    assert made.named == {"commit.threshold", "temporal"}
    own = made.with_defaults(OWN)
    assert (own.block_length, own.cache) == (8, "prefix")
    assert own.commit == made.commit
    assert own.draft is not None
    assert own.temporal is None
    assert own.named == made.named
    assert load("r2-dllm").with_defaults(OWN).commit == load("fast-dllm", threshold=0.95).commit
    assert load("fast-dllm").with_defaults({"temporal.metric": "max"}) == load("fast-dllm")
    fixed = load("fast-dllm", factor=2.0)
    assert fixed.with_defaults({"commit": {"rule": "quota"}, "commit.threshold": 0.1}) == fixed
    assert load("vanilla").with_defaults({"commit": {"rule": "threshold", "threshold": 0.8}}).commit.name == "threshold"


def test_names_come_from_options_changes_mappings_and_files(tmp_path: Path) -> None:
    assert load("vanilla", schedule="even", cache="dual").named == {"commit", "cache"}
    assert load("freedave", threshold=0.9).named == {"commit.rule", "commit.threshold"}
    assert load("r2-dllm", prompt_interval=2).change(top_k=5).named == {"refresh.prompt_interval", "top_k"}
    settings = {"cache": "dual", "commit": {"rule": "threshold"}, "suffix": None}
    held = {"cache", "commit.rule", "suffix"}
    assert Method.from_dict(settings).named == held
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings))
    assert load(str(tmp_path / "mine.yaml"), threshold=0.8).named == held | {"commit.threshold"}
    assert from_client(settings).named == held


@given(st.sampled_from(sorted(TABLE)), st.sets(st.sampled_from(["cache", "block_length", "top_k"])), st.booleans())
def test_naming_changes_no_equality_no_data_and_survives(name: str, named: set[str], kept: bool) -> None:
    plain = load(name)
    chosen = {option: {"cache": "prefix", "block_length": 8, "top_k": 3}[option] for option in named}
    method = load(name, **{option: getattr(plain, option) for option in named} if kept else chosen)
    assert method.named == named
    for twin in (copy.copy(method), copy.deepcopy(method), pickle.loads(pickle.dumps(method))):
        assert (twin, twin.named) == (method, method.named)
    assert "named" not in method.to_dict()
    if kept:
        assert method == plain
        assert hash(method) == hash(plain)
        assert method.to_dict() == plain.to_dict()
    own = method.with_defaults({"cache": "none", "block_length": 16, "top_k": 9})
    if method.official:
        assert own == method
    for option, value in (("cache", "none"), ("block_length", 16), ("top_k", 9)):
        replaced = not method.official and option not in named
        assert getattr(own, option) == (value if replaced else getattr(method, option))


def test_the_preset_itself_still_reads_its_own() -> None:
    fast = unmask.method("fast-dllm")
    assert fast.cache == "dual"
    assert fast.to_dict()["commit"] == {"rule": "threshold", "threshold": 0.9}
