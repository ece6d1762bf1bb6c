"""Checkpoints as people have them: .bin files, fp8 with scales, weights of kinds that are not read, facts that disagree."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import unmask
from unmask.models.weights import suited

GOLDEN = Path(__file__).parents[1] / "golden" / "models"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "llada-seed3", tmp_path / "checkpoint"))


def config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(folder: Path, words: str) -> None:
    with pytest.raises(unmask.ModelError, match=words) as caught:
        unmask.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("shards", [1, 2])
def test_bin_files_are_read_as_safetensors_are(folder: Path, zipped: bool, shards: int) -> None:
    weights = load_file(folder / "model.safetensors")
    right = unmask.load(folder).network.state_dict()
    (folder / "model.safetensors").unlink()
    names, index = sorted(weights), {}
    for number in range(shards):
        file = "pytorch_model.bin" if shards == 1 else f"pytorch_model-{number + 1:05d}-of-{shards:05d}.bin"
        part = {name: weights[name] for name in names[number::shards]}
        torch.save(part, folder / file, _use_new_zipfile_serialization=zipped)
        index |= dict.fromkeys(part, file)
    if shards > 1:
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    made = unmask.load(folder).network.state_dict()
    assert all(torch.equal(made[name], tensor) for name, tensor in right.items())
    assert unmask.load(folder, weights="int8").weights == "int8"


class Code:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return print, ("run",)


def test_a_pickle_that_would_run_code_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Code()}, folder / "pytorch_model.bin")
    refused(folder, r"pytorch_model\.bin holds more than tensors, and code of a checkpoint is never run: use its safetensors")
    torch.save([torch.zeros(2)], folder / "pytorch_model.bin")
    refused(folder, "not a table of tensors by their names")
    (folder / "pytorch_model.bin").write_bytes(b"PK\x03\x04 cut short")
    refused(folder, "not a readable PyTorch file|holds more than tensors")
    assert "run" not in capsys.readouterr().out


def fp8(folder: Path, block: tuple[int, int]) -> dict[str, torch.Tensor]:
    """The folder's matrices in fp8 by blocks; returns what they stand for."""
    weights, stored = load_file(folder / "model.safetensors"), {}
    rows, columns = block
    for name, tensor in list(weights.items()):
        if "blocks" not in name or tensor.dim() < 2:
            stored[name] = tensor
            continue
        count = [-(-length // size) for length, size in zip(tensor.shape, block, strict=True)]
        scale = torch.rand(count, generator=torch.Generator().manual_seed(1)) + 0.5
        wide = scale.repeat_interleave(rows, 0)[: tensor.shape[0]].repeat_interleave(columns, 1)[:, : tensor.shape[1]]
        stored[name], stored[f"{name}_scale_inv"] = (tensor / wide).to(torch.float8_e4m3fn), scale
        weights[name] = stored[name].float() * wide
    save_file(stored, folder / "model.safetensors")
    config(folder, quantization_config={"quant_method": "fp8", "weight_block_size": [rows, columns]})
    return weights


def test_fp8_with_the_scales_of_its_blocks_is_read_as_what_it_stands_for(folder: Path) -> None:
    """Blocks of 48 fit no side of a matrix: the last ones are cut."""
    right = fp8(folder, (48, 16))
    made = unmask.load(folder)
    assert made.dtype == torch.float32
    assert all(torch.equal(made.network.state_dict()[name], tensor) for name, tensor in right.items())
    assert unmask.load(folder, dtype="bfloat16").dtype == torch.bfloat16
    assert unmask.load(folder, weights="int8").weights == "int8"
    config(folder, quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]})
    refused(folder, r"_scale_inv has shape \[\d+, \d+\], not \[1, 1\]: blocks are of \[128, 128\]")


def test_fp8_without_scales_is_no_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: w.to(torch.float8_e4m3fn) if w.dim() > 1 else w for name, w in weights.items()}, folder / "model.safetensors"
    )
    refused(folder, "is float8_e4m3fn without the scales that belong to it")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"quant_method": "gptq", "bits": 4}, r"quantised as GPTQ \(4 bits\), which is not read here: take the checkpoint"),
        ({"quant_method": "awq", "w_bit": 4}, r"quantised as AWQ \(4 bits\)"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, r"quantised as bitsandbytes \(4 bits\)"),
        ({"load_in_8bit": True}, "quantised as bitsandbytes, "),
        ({"quant_method": "compressed-tensors"}, "quantised as compressed-tensors"),
        ({"quant_method": "of tomorrow"}, "quantised as of tomorrow"),
        ("int8", "quantization_config must be an object, got 'int8'"),
    ],
)
def test_a_kind_that_is_not_read_is_named_before_its_tensors_are_missed(folder: Path, said: object, words: str) -> None:
    config(folder, quantization_config=said)
    weights = load_file(folder / "model.safetensors")
    save_file({name.replace("q_proj.weight", "q_proj.qweight"): w for name, w in weights.items()}, folder / "model.safetensors")
    refused(folder, words)


@pytest.mark.parametrize(
    ("ending", "kind"), [("g_idx", "GPTQ"), ("qzeros", "AWQ"), ("weight.absmax", "bitsandbytes"), ("SCB", "bitsandbytes")]
)
def test_a_kind_that_only_its_tensors_give_away(folder: Path, ending: str, kind: str) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {f"model.transformer.blocks.0.q_proj.{ending}": torch.ones(2)}, folder / "model.safetensors")
    refused(folder, f"quantised as {kind}, which")


def test_a_gptq_of_before_says_so_beside_its_config(folder: Path) -> None:
    (folder / "quantize_config.json").write_text("{}")
    refused(folder, "quantised as GPTQ")


def test_gguf_is_llama_cpps(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model.gguf")
    refused(folder, r"holds GGUF, which is llama\.cpp's")


def test_one_architecture_may_stand_without_its_list(folder: Path) -> None:
    config(folder, architectures="LLaDAModelLM")
    assert unmask.load(folder).spec == unmask.load(GOLDEN / "llada-seed3").spec


def test_a_mask_that_the_tokenizer_calls_another_is_refused(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(unmask.models.loading.locate("unmask-tiny"), tmp_path / "tiny"))
    config(copy, mask_token_id=7)
    refused(
        copy, r"mask_token_id of config\.json is 7 \('.+'\), but the tokenizer's mask token '<\|mask\|>' is 2: correct the one"
    )


def test_float16_stands_in_where_a_gpu_has_no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.warns(UserWarning, match=r"cuda:0 has no bfloat16: the weights become float16"):
        assert suited(torch.bfloat16, gpu) == torch.float16
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert suited(torch.float32, gpu) == torch.float32
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
        assert suited(torch.bfloat16, gpu) == torch.bfloat16
        assert suited(torch.bfloat16, torch.device("cpu")) == torch.bfloat16
