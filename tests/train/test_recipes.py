"""Every file of configs/ is one that this version can run, and the large ones fit where they say."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from unmask.train.budget import Budget, estimate
from unmask.train.collect import CollectConfig
from unmask.train.head import HeadConfig
from unmask.train.pretrain import PretrainConfig
from unmask.train.sft import SFTConfig

CONFIGS = Path(__file__).parents[2] / "configs"
LARGE = sorted(path.stem for path in CONFIGS.glob("*.yaml") if "\nshape:" in path.read_text())


def kind(settings: Mapping[str, object]) -> type[HeadConfig | PretrainConfig | CollectConfig | SFTConfig]:
    """Whose settings a file holds, by one that only they have."""
    if "passes" in settings:
        return HeadConfig
    if "steps" in settings:
        return PretrainConfig
    return CollectConfig if "limit" in settings else SFTConfig


def budget(name: str, **changes: object) -> Budget:
    settings = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()) | changes
    shape, examples = settings.pop("shape"), settings.pop("examples")
    return estimate(SFTConfig.from_dict(settings), shape, examples)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_is_read(path: Path) -> None:
    settings = yaml.safe_load(path.read_text())
    for name in ("shape", "examples"):
        settings.pop(name, None)
    made = kind(settings).from_dict(settings)
    plain = {name: value for name, value in settings.items() if not isinstance(value, dict | list)}
    assert {name: getattr(made, name) for name in plain} == plain


@pytest.mark.parametrize("name", LARGE)
def test_every_large_recipe_says_what_it_needs(name: str) -> None:
    needs = budget(name)
    assert needs.memory_bytes < 72 * 2**30  # of an H100's 80 GB
    assert 0.5 < needs.hours < 100
    assert needs.hours * 3600 * 0.4 * 989e12 == pytest.approx(needs.flops)
    assert needs.parameters == pytest.approx(
        {"llada-8b": 8.016e9, "dream-7b": 7.616e9, "sdar-4b": 4.411e9, "llada2-mini": 16.26e9}[name.split("-", 1)[1]], rel=0.001
    )


def test_the_recipes_that_the_issue_names_are_there() -> None:
    both = {f"{kind}-{model}" for kind in ("d3llm", "dparallel", "tad", "ours") for model in ("llada-8b", "dream-7b")}
    assert both | {"ours-sdar-4b", "ours-llada2-mini"} <= set(LARGE)


def test_what_is_new_costs_forwards_and_memory() -> None:
    """Under LoRA with checkpointing a token costs 2 + 2 + 2 per parameter; a forward without gradient 2 more."""
    plain = budget("dparallel-llada-8b", certainty=0.0, gradient_checkpointing=True)

    def changed(**settings: object) -> Budget:
        return budget("dparallel-llada-8b", certainty=0.0, gradient_checkpointing=True, **settings)

    assert changed(on_policy=0.5).flops == pytest.approx(plain.flops * 7 / 6)
    taught = changed(pattern="trajectory", near=8)
    assert taught.flops == pytest.approx(plain.flops * 8 / 6)
    assert taught.weights_bytes == 2 * plain.weights_bytes
    assert changed(window="answer").activation_bytes > plain.activation_bytes
    alone = changed(complementary=False, window="answer")
    decoding = changed(complementary=False, window="answer", pattern="decode")
    assert decoding.flops == pytest.approx(alone.flops * 14 / 6, rel=0.05)
    assert budget("dparallel-llada-8b").activation_bytes > budget("dparallel-llada-8b", certainty=0.0).activation_bytes
    mini = budget("ours-llada2-mini")
    assert mini.active == pytest.approx(1.44e9, rel=0.15)  # published: 1.4 billion of 16
