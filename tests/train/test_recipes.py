"""Every file of configs/ is one that this version can run, and the large ones fit where they say."""

from pathlib import Path

import pytest
import yaml

from unmask.train.budget import Budget, estimate
from unmask.train.collect import CollectConfig
from unmask.train.pretrain import PretrainConfig
from unmask.train.sft import SFTConfig

CONFIGS = Path(__file__).parents[2] / "configs"
LARGE = sorted(path.stem for path in CONFIGS.glob("*.yaml") if "\nshape:" in path.read_text())


def budget(name: str, **changes: object) -> Budget:
    settings = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()) | changes
    shape, examples = settings.pop("shape"), settings.pop("examples")
    return estimate(SFTConfig.from_dict(settings), shape, examples)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_is_read(path: Path) -> None:
    settings = yaml.safe_load(path.read_text())
    kind = PretrainConfig if "steps" in settings else CollectConfig if "limit" in settings else SFTConfig
    for name in ("shape", "examples"):
        settings.pop(name, None)
    assert kind.from_dict(settings).output == settings["output"]


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
    plain = budget("ours-llada-8b", on_policy=0.0)
    assert budget("ours-llada-8b", on_policy=0.5).flops == pytest.approx(plain.flops * 7 / 6)
    taught = budget("ours-llada-8b", on_policy=0.0, pattern="trajectory", near=8)
    assert taught.flops == pytest.approx(plain.flops * 8 / 6)
    assert taught.weights_bytes == 2 * plain.weights_bytes
    assert budget("ours-llada-8b", on_policy=0.0, certainty=1.0).activation_bytes > plain.activation_bytes
    assert budget("ours-llada-8b", on_policy=0.0, window="answer").activation_bytes > plain.activation_bytes
    mini = budget("ours-llada2-mini")
    assert mini.active == pytest.approx(1.44e9, rel=0.15)  # published: 1.4 billion of 16
