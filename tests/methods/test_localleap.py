"""LocalLeap's preset, and that any preset takes its rule and the entropy threshold."""

import pytest

import unmask
from unmask.decode.rules import EntropyThreshold
from unmask.methods import from_client
from unmask.methods.localleap import LocalLeap
from unmask.methods.options import layered
from unmask.methods.table import TABLE
from unmask.models.toy import toy

PROMPTS = ([3, 1, 4], [1, 5, 9, 2, 6])


def test_the_preset_has_the_papers_numbers_and_no_official_twin() -> None:
    assert unmask.method("localleap").commit == LocalLeap(threshold=0.9, relaxed_threshold=0.75, radius=4)
    assert unmask.method("localleap", radius=2, relaxed_threshold=0.8).commit == LocalLeap(radius=2, relaxed_threshold=0.8)
    with pytest.raises(unmask.ConfigError, match="localleap"):
        unmask.method("localleap-official")


@pytest.mark.parametrize("rule", [EntropyThreshold(threshold=0.4), LocalLeap(threshold=0.4)])
@pytest.mark.parametrize("name", TABLE)
def test_any_preset_takes_another_base_rule_in_every_spelling(name: str, rule: EntropyThreshold | LocalLeap) -> None:
    settings = {"rule": rule.name, "threshold": 0.4}
    for chosen in (
        {"commit": settings},
        {"commit.rule": rule.name, "commit.threshold": 0.4},
        {"commit.rule": rule.name, "threshold": 0.4},
        {"commit": {"rule": rule.name}, "threshold": 0.4},
        {"commit": rule},
    ):
        method = unmask.method(name, **chosen)
        assert method.commit == rule
        assert unmask.Method.from_dict(method.to_dict()) == method
        if not isinstance(chosen.get("commit"), LocalLeap | EntropyThreshold):
            assert from_client(name, **chosen) == method


def test_the_other_settings_of_a_preset_stay_unless_they_mean_nothing_to_the_rule() -> None:
    method = unmask.method("r2-dllm", **{"commit.rule": "entropy"})
    assert method.change(commit=unmask.method("r2-dllm").commit) == unmask.method("r2-dllm")
    assert (
        unmask.method("llada2.1", mode="speed", **{"commit.rule": "entropy"}).edit
        == unmask.method("llada2.1", mode="speed").edit
    )
    assert unmask.method("streaming-dllm", **{"commit.rule": "entropy"}).dynamic_threshold is None
    assert unmask.method("streaming-dllm", **{"commit.rule": "threshold"}) == unmask.method("streaming-dllm")
    with pytest.raises(unmask.ConfigError, match="dynamic_threshold needs the rule threshold, not entropy"):
        unmask.method("streaming-dllm", **{"commit.rule": "entropy", "alpha": 0.3})
    with pytest.raises(unmask.ConfigError, match="option of vanilla 'radius'"):
        unmask.method("vanilla", **{"commit.rule": "entropy", "radius": 3})


def test_a_rule_that_a_request_names_takes_none_of_the_servers_settings_of_another() -> None:
    below = {"threshold": 0.8, "cache": "none", "temporal_steps": 4}
    kept = {"cache": "none", "temporal_steps": 4}
    assert layered(below, {"commit.rule": "entropy"}) == kept | {"commit.rule": "entropy"}
    assert layered(below, {"commit": {"rule": "entropy"}}) == kept | {"commit": {"rule": "entropy"}}


@pytest.mark.parametrize("rule", ["entropy", "localleap"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fast-dllm", {"cache": "none"}),
        ("r2-dllm", {"draft_steps": 3}),
        ("r2-dllm", {"cache": "prefix", "suffix_window": 6}),
        ("llada2.1", {"max_post_steps": 3}),
        ("streaming-dllm", {"temperature": 1.0}),
    ],
)
def test_they_run_with_rules_contexts_and_drafts_and_in_batches_as_alone(
    rule: str, name: str, options: dict[str, object]
) -> None:
    for family in ("llada", "sdar"):
        model = toy(family, seed=5, sharpness=3)
        chosen = {"commit.rule": rule, "threshold": 0.3, "block_length": 4 if family == "sdar" else 16}
        if family == "sdar":
            options = {key: value for key, value in options.items() if key != "suffix_window"}
        method = unmask.method(name, **chosen, **options)
        done = unmask.generate(model, PROMPTS, method=method, max_new_tokens=32)
        for prompt, row in zip(PROMPTS, done, strict=True):
            alone = unmask.generate(model, [prompt], method=method, max_new_tokens=32)[0]
            assert (alone.token_ids, alone.forwards, alone.commits) == (row.token_ids, row.forwards, row.commits)
            assert row.commits[rule] > 0
