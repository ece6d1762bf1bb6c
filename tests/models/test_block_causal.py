"""Block-causal networks against the authors' logits, without a plan: what training and transformers see."""

import dataclasses
import json
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import unmask
from unmask.models.attention import block_causal
from unmask.models.config import Beside
from unmask.models.llada import LLaDA
from unmask.models.loading import build
from unmask.models.sdar import SDAR
from unmask.models.stored import read_json
from unmask.models.toy import CONFIGS, toy
from unmask.models.weights import fill

GOLDEN = Path(__file__).parents[1] / "golden_block"
MODELS = sorted(folder.name for folder in (GOLDEN / "models").iterdir())


@cache
def model(name: str) -> unmask.Denoiser:
    return load(GOLDEN / "models" / name)


def load(folder: Path) -> unmask.Denoiser:
    """A folder of the vectors, whose mask is 255, which some of their configs do not say."""
    config = {"mask_token_id": 255} | read_json(folder / "config.json")
    network = build(config, folder)
    fill(network, folder, device=torch.device("cpu"), dtype=None)
    return unmask.Denoiser(network=network.eval(), tokenizer=None, name=folder.name)


def with_block(model: unmask.Denoiser, length: int) -> unmask.Denoiser:
    if model.spec.block == length:
        return model
    with pytest.warns(UserWarning, match=f"runs with {length}"):
        return model.with_block(length)


@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_the_authors(name: str) -> None:
    known = load_file(GOLDEN / "logits" / f"{name}.safetensors")
    blocks = [block for block in (4, 8) if f"b{block}.tokens" in known]
    assert blocks or model(name).spec.block is None
    with torch.inference_mode():
        for block in blocks:
            network = with_block(model(name), block).network
            for tokens, logits in (("tokens", "logits_full"), ("tokens", "logits_block"), ("tokens_after", "logits_next")):
                expected = known[f"b{block}.{logits}"]
                made = network(known[f"b{block}.{tokens}"])[:, -expected.shape[1] :]
                torch.testing.assert_close(made, expected, atol=1e-3, rtol=0)
        if not blocks:
            torch.testing.assert_close(model(name).network(known["tokens"]), known["logits_full"], atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", [name for name in MODELS if (GOLDEN / "logits" / f"{name}.moe.safetensors").exists()])
def test_experts_equal_the_authors(name: str) -> None:
    known = load_file(GOLDEN / "logits" / f"{name}.moe.safetensors")
    layers = model(name).network.blocks()
    mixed = sorted({int(key.split(".")[1]) for key in known})
    assert mixed == [number for number, layer in enumerate(layers) if layer.mixed]
    for number in mixed:
        part, hidden = layers[number].parts().feed_forward, known[f"layers.{number}.hidden"]
        with torch.inference_mode():
            torch.testing.assert_close(part(hidden), known[f"layers.{number}.output"], atol=1e-3, rtol=0)
            experts, weights = part.router(hidden)
        if f"layers.{number}.experts" in known:
            order = experts.argsort(1)
            assert torch.equal(experts.gather(1, order), known[f"layers.{number}.experts"].long())
            torch.testing.assert_close(weights.gather(1, order), known[f"layers.{number}.weights"], atol=1e-5, rtol=0)


def test_a_network_that_routes_by_blocks_runs_with_no_other_length() -> None:
    routed = next(model(name) for name in MODELS if (moe := model(name).network.shape.moe) and moe.capacity)
    assert routed.with_block(8) is routed
    with pytest.raises(unmask.ConfigError, match="chooses experts per block of 8 tokens"):
        routed.with_block(4)


@pytest.mark.parametrize(
    "architecture",
    ["NemotronLabsDiffusionModel", "WeDLMForCausalLM", "DiffusionGemmaForBlockDiffusion", "PanguEmbeddedForCausalLM"],
)
def test_other_attention_patterns_are_refused_in_one_line(architecture: str) -> None:
    with pytest.raises(unmask.ModelError, match=f"{architecture} is not supported: .*(causal|no mask)") as caught:
        build({"architectures": [architecture]}, Path("there"))
    assert "\n" not in str(caught.value)


def test_the_first_architecture_decides_where_two_share_a_type() -> None:
    for family in ("llada", "llada_moe"):
        assert CONFIGS[family]["model_type"] == "llada"
        network = build(CONFIGS[family], Path("there"))
        assert isinstance(network, LLaDA) == (family == "llada")


def test_another_block_length_shares_the_weights_and_leaves_the_model_as_it_was() -> None:
    own = toy("sdar", block=4)
    wider = with_block(own, 8)
    assert (own.spec.block, wider.spec.block) == (4, 8)
    assert wider.with_block(8) is wider
    assert all(one is other for one, other in zip(own.network.parameters(), wider.network.parameters(), strict=True))
    tokens = torch.arange(16)[None]
    with torch.inference_mode():
        assert not torch.allclose(own.network(tokens), wider.network(tokens))


def test_a_block_length_that_means_nothing_is_refused() -> None:
    with pytest.raises(unmask.ConfigError, match="no block length"):
        toy("llada").with_block(8)
    with pytest.raises(unmask.ConfigError, match="at least 1"):
        toy("sdar").with_block(0)
    with pytest.raises(unmask.ConfigError, match="no blocks"):
        toy("dream", block=4)


@pytest.mark.parametrize("family", ["sdar", "sdar_moe", "llada2", "fast_dllm_v2"])
def test_later_blocks_change_nothing_before_them(family: str) -> None:
    network = toy(family, block=4).network
    tokens = torch.arange(12)[None]
    changed = tokens.clone()
    changed[0, 9] = 23
    with torch.inference_mode():
        one, other = network(tokens), network(changed)
    torch.testing.assert_close(one[:, :8], other[:, :8])
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
def test_transformers_sees_the_same_network_and_saves_what_was_published(name: str, tmp_path: Path) -> None:
    import transformers

    own = model(name).spec.block
    known, begin = load_file(GOLDEN / "logits" / f"{name}.safetensors"), f"b{own}." if own in (4, 8) else ""
    folder = tmp_path / "published"
    shutil.copytree(GOLDEN / "models" / name, folder)
    config = {"mask_token_id": 255} | read_json(folder / "config.json")
    if own == 32:
        config["block_size"], begin = 8, "b8."
    (folder / "config.json").write_text(json.dumps(config))
    found = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.inference_mode():
        logits = found(known[f"{begin}tokens"]).logits
    torch.testing.assert_close(logits, known[f"{begin}logits_full"], atol=1e-3, rtol=0)
    found.save_pretrained(tmp_path / "saved")
    assert set(load_file(tmp_path / "saved" / "model.safetensors")) == set(load_file(folder / "model.safetensors"))
    assert unmask.load(tmp_path / "saved").spec == unmask.load(folder).spec
