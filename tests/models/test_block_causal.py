"""Block-causal networks against the authors' logits, without a plan: what training and transformers see."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import unmask
from unmask.models.attention import block_causal
from unmask.models.config import Beside
from unmask.models.loading import build
from unmask.models.sdar import SDAR
from unmask.models.toy import CONFIGS, toy

GOLDEN = Path(__file__).parents[1] / "golden_block"
MODELS = ["sdar-seed7"]


def with_block(model: unmask.Denoiser, length: int) -> unmask.Denoiser:
    if model.spec.block == length:
        return model
    with pytest.warns(UserWarning, match=f"runs with {length}"):
        return model.with_block(length)


@pytest.mark.parametrize("block", [4, 8])
@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_the_authors(name: str, block: int) -> None:
    known = load_file(GOLDEN / "logits" / f"{name}.safetensors")
    model = with_block(unmask.load(GOLDEN / "models" / name, device="cpu"), block)
    with torch.inference_mode():
        for tokens, logits in (("tokens", "logits_full"), ("tokens_after", "logits_next")):
            made = model.network(known[f"b{block}.{tokens}"])[:, -known[f"b{block}.{logits}"].shape[1] :]
            torch.testing.assert_close(made, known[f"b{block}.{logits}"], atol=1e-3, rtol=0)


def test_another_block_length_shares_the_weights_and_leaves_the_model_as_it_was() -> None:
    model = toy("sdar", block=4)
    wider = with_block(model, 8)
    assert (model.spec.block, wider.spec.block) == (4, 8)
    assert wider.with_block(8) is wider
    assert all(one is other for one, other in zip(model.network.parameters(), wider.network.parameters(), strict=True))
    tokens = torch.arange(16)[None]
    with torch.inference_mode():
        assert not torch.allclose(model.network(tokens), wider.network(tokens))


def test_a_block_length_that_means_nothing_is_refused() -> None:
    with pytest.raises(unmask.ConfigError, match="no block length"):
        toy("llada").with_block(8)
    with pytest.raises(unmask.ConfigError, match="at least 1"):
        toy("sdar").with_block(0)
    with pytest.raises(unmask.ConfigError, match="no blocks"):
        toy("dream", block=4)


def test_later_blocks_change_nothing_before_them() -> None:
    model = toy("sdar", block=4)
    tokens = torch.arange(12)[None]
    changed = tokens.clone()
    changed[0, 9] = 23
    with torch.inference_mode():
        one, other = model.network(tokens), model.network(changed)
    assert torch.equal(one[:, :8], other[:, :8])
    assert not torch.allclose(one[:, 8], other[:, 8])  # in its own block every token is seen, the later ones too


def test_copies_of_a_row_side_by_side_are_what_training_asks_for() -> None:
    """A noisy copy that sees the clean copy's earlier blocks: the same states as noisy blocks behind clean ones."""
    network, block = toy("sdar", block=4, dtype=torch.float64).network, 4
    clean = torch.arange(12)[None]
    noisy = clean.masked_fill(torch.rand(1, 12, generator=torch.Generator().manual_seed(0)) < 0.5, 23)
    positions = torch.arange(12)
    number = positions // block
    earlier, own = number[:, None] > number[None, :], number[:, None] == number[None, :]
    upper = torch.cat((block_causal(positions, block), torch.zeros(12, 12, dtype=torch.bool)), 1)
    mask = torch.cat((upper, torch.cat((earlier, own), 1)))
    with torch.inference_mode():
        states = network.hidden(torch.cat((clean, noisy), 1), positions_Q=positions.repeat(2), mask_QQ=mask)[:, 12:]
        for first in range(0, 12, block):
            row = torch.cat((clean[:, :first], noisy[:, first : first + block]), 1)
            torch.testing.assert_close(states[:, first : first + block], network.hidden(row)[:, first:])


@pytest.mark.parametrize(
    ("repository", "block"), [("SDAR-1.7B-Chat", 4), ("SDAR-8B-Chat-b16", 16), ("models--JetLM--SDAR-1.7B-Chat-b64", 64)]
)
def test_older_repositories_say_block_and_mask_elsewhere(repository: str, block: int, tmp_path: Path) -> None:
    config = {key: value for key, value in CONFIGS["sdar"].items() if key not in ("block_size", "mask_token_id")}
    folder = tmp_path / repository
    if repository.startswith("models--"):
        folder = folder / "snapshots" / "0123abcd"
    folder.mkdir(parents=True)
    with pytest.raises(unmask.ModelError, match="mask_token_id"):
        build(config, folder)
    added = {"added_tokens_decoder": {"21": {"content": "<|MASK|>"}}}
    (folder / "tokenizer_config.json").write_text(json.dumps(added))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [20, 22]}))
    spec = build(config, folder).spec
    assert (spec.block, spec.mask_id, spec.eos_ids) == (block, 21, (22, 20))


def test_a_config_that_names_its_block_is_believed() -> None:
    config = dict(CONFIGS["sdar"])
    assert SDAR.complete(config, Beside("SDAR-b16"))["block_size"] == 4
    for wrong in (0, "4", True, 2.5):
        with pytest.raises(unmask.ModelError, match="block_size"):
            SDAR(config | {"block_size": wrong})


def test_heads_need_not_divide_the_width() -> None:
    shape = toy("sdar").network.shape
    assert shape.attended == 48 != shape.width
    assert dataclasses.replace(shape, head_size=8).attended == 32


@pytest.mark.parametrize("name", MODELS)
def test_transformers_sees_the_same_network(name: str, tmp_path: Path) -> None:
    import transformers

    known = load_file(GOLDEN / "logits" / f"{name}.safetensors")
    model = transformers.AutoModelForCausalLM.from_pretrained(GOLDEN / "models" / name)
    own = unmask.load(GOLDEN / "models" / name).spec.block or 8
    with torch.inference_mode():
        logits = model(known[f"b{own}.tokens"]).logits
    torch.testing.assert_close(logits, known[f"b{own}.logits_full"], atol=1e-3, rtol=0)
    model.save_pretrained(tmp_path)
    assert unmask.load(tmp_path).spec == unmask.load(GOLDEN / "models" / name).spec
