"""Checkpoints as users have them: whole, sharded, in half precision, tied, broken in every way."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import unmask
from unmask.models import loading

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(params=["llada-seed3", "dream-seed3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    copy = tmp_path / "checkpoint"
    shutil.copytree(GOLDEN / "models" / request.param, copy)
    return copy


def shard(folder: Path, count: int = 3) -> None:
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    index = {}
    for number in range(count):
        file = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
        part = {name: weights[name] for name in names[number::count]}
        save_file(part, folder / file)
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def logits(model: unmask.Denoiser) -> torch.Tensor:
    with torch.inference_mode():
        made: torch.Tensor = model.network(torch.arange(20)[None])
    return made


def test_sharded_equals_single(folder: Path) -> None:
    single = logits(unmask.load(folder))
    shard(folder)
    assert torch.equal(logits(unmask.load(str(folder))), single)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_type_and_can_be_widened(folder: Path, kind: torch.dtype) -> None:
    weights = {name: tensor.to(kind) for name, tensor in load_file(folder / "model.safetensors").items()}
    exact = logits(unmask.load(folder))
    save_file(weights, folder / "model.safetensors")
    assert unmask.load(folder).dtype == kind
    wide = unmask.load(folder, dtype="float32")
    assert wide.dtype == torch.float32
    torch.testing.assert_close(logits(wide), exact, atol=1.5, rtol=0.1)
    rows = unmask.generate(unmask.load(folder), [[1, 2, 3]], max_new_tokens=32)
    assert len(rows[0].token_ids) == 32


def test_the_model_does_not_hang_on_to_its_files(folder: Path) -> None:
    model = unmask.load(folder)
    before = logits(model)
    (folder / "model.safetensors").write_bytes(b"gone")
    assert torch.equal(logits(model), before)


def test_tied_head_needs_no_tensor_of_its_own() -> None:
    from unmask.models.llada import LLaDA

    config = json.loads((GOLDEN / "models" / "llada-seed3" / "config.json").read_text())
    tied = LLaDA(config | {"weight_tying": True})
    assert "model.transformer.ff_out.weight" not in tied.state_dict()
    assert tied.head() is not None
    assert tied(torch.arange(5)[None]).shape == (1, 5, 24)


def test_biases_and_grouped_heads_follow_the_config() -> None:
    from unmask.models.llada import LLaDA

    config = json.loads((GOLDEN / "models" / "llada-seed3" / "config.json").read_text())
    network = LLaDA(config | {"n_kv_heads": 2, "include_qkv_bias": True})
    names = network.state_dict()
    assert names["model.transformer.blocks.0.k_proj.weight"].shape == (32, 64)
    assert names["model.transformer.blocks.0.q_proj.bias"].shape == (64,)
    assert "model.transformer.blocks.0.attn_out.bias" not in names


def expect(folder: Path, *words: str) -> None:
    with pytest.raises(unmask.ModelError) as caught:
        unmask.load(folder)
    line = str(caught.value)
    assert "\n" not in line
    for word in words:
        assert word in line, line


def test_unknown_architecture(folder: Path) -> None:
    change_config(folder, architectures=["GPT2LMHeadModel"])
    expect(folder, "config.json", "GPT2LMHeadModel", "LLaDAModelLM", "DreamModel")


def test_missing_config_key(folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["mask_token_id"]
    path.write_text(json.dumps(config))
    expect(folder, "config.json", "mask_token_id")


def test_config_that_is_no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    expect(folder, "config.json", "not valid JSON")


def test_config_of_the_wrong_type(folder: Path) -> None:
    change_config(folder, d_model="wide", hidden_size="wide")
    expect(folder, "config.json", "wrong type")


@pytest.mark.parametrize("bad", [None, 99, "x", [], [99]])
def test_ids_that_are_none(folder: Path, bad: object) -> None:
    change_config(folder, eos_token_id=bad)
    expect(folder, "config.json", "eos_token_id", "0 to 23")


def test_scaled_rotary_embeddings(folder: Path) -> None:
    change_config(folder, rope_parameters={"rope_type": "yarn", "factor": 4.0})
    expect(folder, "config.json", "yarn")


def test_norms_of_another_type_follow_the_embedding(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: w if "norm" in name or "ln_f" in name else w.bfloat16() for name, w in weights.items()},
        folder / "model.safetensors",
    )
    model = unmask.load(folder)
    assert {parameter.dtype for parameter in model.network.parameters()} == {torch.bfloat16}


def test_devices_and_types_that_are_not_there() -> None:
    folder = GOLDEN / "models" / "llada-seed3"
    assert unmask.load(folder, dtype=torch.float64).dtype == torch.float64
    for options in ({"device": "gpu"}, {"device": "cuda:99"}, {"dtype": torch.int8}, {"dtype": "float31"}):
        with pytest.raises(unmask.ConfigError):
            unmask.load(folder, **options)


def test_a_dream_tokenizer_needs_no_remote_code(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "models" / "dream-seed3", tmp_path / "dream")
    folder = tmp_path / "dream"
    (folder / "vocab.json").write_text(json.dumps({letter: number for number, letter in enumerate("abcdefgh")}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "DreamTokenizer",
                "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
                "added_tokens_decoder": {"21": {"content": "<|im_end|>", "special": True}},
            }
        )
    )
    model = unmask.load(folder)
    assert model.tokenizer.encode("abc") == [0, 1, 2]
    assert model.spec.eos_ids == (22,)


def test_unsupported_variant(folder: Path) -> None:
    change_config(folder, alibi=True, use_sliding_window=True)
    expect(folder, "config.json", "not supported")


def test_missing_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = sorted(weights)[3]
    del weights[name]
    save_file(weights, folder / "model.safetensors")
    expect(folder, name, "missing")


def test_misshapen_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(weights) if "q_proj.weight" in name)
    weights[name] = weights[name][:, :10].contiguous()
    save_file(weights, folder / "model.safetensors")
    expect(folder, "model.safetensors", name, "[64, 10]", "[64, 64]")


def test_a_tensor_too_many(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"model.extra.weight": torch.zeros(2)}, folder / "model.safetensors")
    expect(folder, "model.extra.weight", "no place")


def test_quantised_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(weights) if "q_proj.weight" in name)
    weights[name] = weights[name].to(torch.int8)
    save_file(weights, folder / "model.safetensors")
    expect(folder, name, "int8", "quantised")


def test_truncated_file(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    expect(folder, "model.safetensors", "cut short")


def test_no_weights_at_all(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    expect(folder, "model.safetensors")


def test_a_shard_that_is_not_there(folder: Path) -> None:
    shard(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()
    expect(folder, "model-00002-of-00003.safetensors", "index")


def test_a_shard_without_its_tensor(folder: Path) -> None:
    shard(folder)
    path = folder / "model-00002-of-00003.safetensors"
    part = load_file(path)
    name = sorted(part)[0]
    del part[name]
    save_file(part, path)
    expect(folder, path.name, name)


def test_no_such_model() -> None:
    with pytest.raises(unmask.ModelError, match="not a folder here"):
        unmask.load("./nowhere")
    with pytest.raises(unmask.ModelError, match="unmask-tiny"):
        unmask.load("nowhere")


def test_a_hub_id_offline_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(unmask.ModelError, match="cannot download 'nobody/nothing': offline") as caught:
        unmask.load("nobody/nothing")
    assert "\n" not in str(caught.value)


def test_a_tokenizer_of_its_authors(folder: Path) -> None:
    shutil.copy(loading.locate("unmask-tiny") / "tokenizer.json", folder)
    settings = {"tokenizer_class": "TheirTokenizer", "auto_map": {"AutoTokenizer": ["theirs.TheirTokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    expect(folder, "TheirTokenizer, is code of its authors", "remove auto_map from tokenizer_config.json")
    (folder / "tokenizer.json").unlink()
    expect(folder, "put a tokenizer.json beside tokenizer_config.json")


def test_corrupt_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    expect(folder, "tokenizer")


@pytest.mark.parametrize("named", [3, [3], [4, 3], [3, 22]])
def test_ends_of_text_of_the_generation_config_count_too(folder: Path, named: object, tmp_path: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": named}))
    listed = named if isinstance(named, list) else [named]
    assert unmask.load(folder).spec.eos_ids == tuple(dict.fromkeys([22, *listed]))  # config.json's first: it is the filler
    from transformers import AutoModel

    AutoModel.from_pretrained(folder).save_pretrained(tmp_path / "saved")
    assert unmask.load(tmp_path / "saved").spec.eos_ids == unmask.load(folder).spec.eos_ids
    change_config(folder, eos_token_id=None)
    assert unmask.load(folder).spec.eos_ids == tuple(listed)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": None}))
    with pytest.raises(unmask.ModelError, match="eos_token_id"):
        unmask.load(folder)
