"""The start of a pre-training: another family's weights, by role, and a block-causal model that is trained from them."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

import unmask
from tests.train.test_train import interrupted, small
from unmask.models import loading
from unmask.models.network import Network
from unmask.models.toy import CONFIGS as TOYS
from unmask.models.toy import toy
from unmask.tasks import problems
from unmask.train import noise
from unmask.train.begin import CONFIGS, initialise, roles, take_over
from unmask.train.data import batch
from unmask.train.pretrain import PretrainConfig, pretrain

ROOT = Path(__file__).parents[2]
SMALL = small(Path())
VOCABULARY = 40


def network(architecture: str, config: PretrainConfig = SMALL, vocabulary: int = 40) -> Network:
    made = loading.network_class(architecture)(CONFIGS[architecture](config, vocabulary))
    initialise(made, torch.Generator().manual_seed(0))
    return made


@pytest.mark.parametrize("family", sorted(TOYS))
def test_every_parameter_has_one_role(family: str) -> None:
    made = toy(family).network
    assert sorted(map(id, roles(made).values())) == sorted(map(id, made.parameters()))


def test_weights_of_another_family_begin_as_nearly_the_same_function() -> None:
    """The embedded model as an SDAR one, every token visible: only the norms of queries and keys are new."""
    before = unmask.load("unmask-tiny-base", device="cpu", dtype="float32")
    sizes = replace(SMALL, width=160, layers=4, heads=5, mlp=512, max_length=512)
    after = network("SDARForCausalLM", sizes, before.spec.vocab_size)
    shown = batch(
        before.tokenizer, problems("chain", "train", seed=0), random.Random(0), tokens=2048, block_length=8, longest=64
    )
    generator = torch.Generator().manual_seed(0)
    hidden = noise.bernoulli(shown.answer_BT, torch.full((len(shown.tokens_BT), 1), 0.3), generator)
    noisy_BT = shown.tokens_BT.masked_fill(hidden, before.spec.mask_id)
    everything = torch.ones(noisy_BT.shape[1], noisy_BT.shape[1], dtype=torch.bool)

    def right() -> float:
        with torch.inference_mode():
            states = after.hidden(noisy_BT, mask_QQ=everything)
            return (after.project(states).argmax(-1) == shown.tokens_BT)[hidden].float().mean().item()

    take_over(after, before.network, shown.tokens_BT)
    for role, parameter in roles(before.network).items():
        assert torch.equal(roles(after)[role], parameter)
    assert right() > 0.9
    for number in range(4):
        for norm in ("q_norm", "k_norm"):
            torch.nn.init.ones_(roles(after)[f"{number}.{norm}.0.weight"])
    assert right() < 0.7


def test_weights_that_do_not_fit_are_refused() -> None:
    tokens_BT = torch.zeros(1, 4, dtype=torch.int64)
    wide = network("LLaDAModelLM", replace(SMALL, width=64))
    with pytest.raises(unmask.ConfigError, match="width=64"):
        take_over(network("SDARForCausalLM"), wide, tokens_BT)
    with pytest.raises(unmask.ConfigError, match="cannot begin"):  # norms would be lost
        take_over(network("LLaDAModelLM"), network("SDARForCausalLM"), tokens_BT)


def test_a_block_causal_model_goes_on_from_a_full_one(tmp_path: Path) -> None:
    begin = pretrain(small(tmp_path / "begin"))
    config = replace(
        small(tmp_path / "whole"),
        architecture="SDARForCausalLM",
        begin=str(begin),
        block_length=8,
        block_lengths=[4, 8, 16],
    )
    whole: list[float] = []
    model = unmask.load(pretrain(config, lambda step, measured: whole.append(measured["loss"])))
    assert model.spec.block == 8
    parts = interrupted(lambda report: pretrain(replace(config, output=str(tmp_path / "parts")), report), after=4)
    assert [parts[step] for step in range(6)] == whole
    with pytest.raises(unmask.ConfigError, match="another tokenizer"):
        pretrain(replace(config, output=str(tmp_path / "other"), mixture={"sorting": 1.0}))


@pytest.mark.parametrize(
    "path",
    sorted(path for path in (ROOT / "configs").glob("unmask-tiny*.yaml") if "parallel" not in path.stem),
    ids=lambda path: path.stem,
)
def test_the_recipes_of_the_embedded_models_can_be_read(path: Path) -> None:
    config = PretrainConfig.from_dict(yaml.safe_load(path.read_text()))
    assert Path(config.output) == Path("runs") / path.stem


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architecture": "SDARForCausal"}, "did you mean 'SDARForCausalLM'"),
        ({"block_lengths": [4, 0]}, "block_lengths must be a number of at least 1"),
        ({"wholly": 1.0}, "wholly must be at least 0 and below 1"),
    ],
)
def test_bad_settings(changes: dict[str, object], said: str) -> None:
    with pytest.raises(unmask.ConfigError, match=said):
        PretrainConfig.from_dict({"output": "", "mixture": {"chain": 1.0}} | changes)
