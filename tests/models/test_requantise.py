"""`unmask quantize`: what it writes is read again as the same numbers, here and by transformers."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import unmask
from tests.models.test_quantised import checkpoint, distance, logits
from unmask.models import requantise
from unmask.models.quantise import WEIGHTS, dequantise, kind
from unmask.models.requantise import quantise_folder

PROMPTS = ["Mia has 23 apples. On Monday Mia buys 8. How many apples does Mia have?", "What is 3 + 4?"]


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("family", ["sdar", "llada2"])
def test_a_quantised_folder_is_the_model_that_load_quantises(
    family: str, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, output = checkpoint(tmp_path / "plain", family), tmp_path / "quantised"
    for most in (2 << 30, 9000):  # one file, several
        monkeypatch.setattr(requantise, "SHARD", most)
        shutil.rmtree(output, ignore_errors=True)
        quantise_folder(str(folder), output, weights)
        assert torch.equal(logits(unmask.load(output)), logits(unmask.load(folder, weights=weights)))
        assert unmask.load(output).weights == weights
        assert (output / "model.safetensors.index.json").exists() == (most == 9000)
        for file in output.glob("*.safetensors"):
            with safe_open(file, framework="pt") as tensors:
                assert all("q_proj._weight_" in name for name in tensors.keys() if "q_proj" in name)  # noqa: SIM118
    assert not (tmp_path / "quantised.partial").exists()


def test_everything_beside_the_weights_comes_along(tmp_path: Path) -> None:
    output = tmp_path / "tiny-int8"
    made = quantise_folder("unmask-tiny", output, "int8")
    assert made.bytes < 0.45 * made.bytes_before
    ours, theirs = unmask.load(output), unmask.load("unmask-tiny", weights="int8")
    assert [row.text for row in unmask.generate(ours, PROMPTS)] == [row.text for row in unmask.generate(theirs, PROMPTS)]
    assert ours.own.to_dict() == theirs.own.to_dict()
    assert {"tokenizer.json", "chat_template.jinja", "unmask.json"} <= {path.name for path in output.iterdir()}
    said = json.loads((output / "config.json").read_text())["quantization_config"]
    assert said["quant_method"] == "torchao"


@pytest.mark.parametrize("weights", ["int8", "fp8"])
def test_transformers_reads_it_too(weights: str, tmp_path: Path) -> None:
    import transformers

    folder = checkpoint(tmp_path / "plain")
    quantise_folder(str(folder), tmp_path / "quantised", weights)
    model = transformers.AutoModel.from_pretrained(tmp_path / "quantised", dtype=torch.float32)
    stored, plain = unmask.load(tmp_path / "quantised").network, unmask.load(folder).network
    tokens = torch.tensor([[1, 5, 9, 23, 23, 23]])
    with torch.inference_mode():
        for name, tensor in stored.named_parameters():
            if kind(tensor) is not None:
                plain.get_parameter(name).copy_(dequantise(tensor, torch.float32))
        assert distance(model(tokens).logits, plain(tokens)) < {"int8": 0.1, "fp8": 1e-3}[weights]


def test_it_can_be_stopped_and_is_never_half_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, output = checkpoint(tmp_path / "plain"), tmp_path / "quantised"

    def stopped(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(requantise, "save_file", stopped)
    with pytest.raises(KeyboardInterrupt):
        quantise_folder(str(folder), output, "int8")
    assert not output.exists()
    monkeypatch.undo()
    (tmp_path / "quantised.partial").mkdir()  # of a run that was killed
    quantise_folder(str(folder), output, "int8")
    assert unmask.load(output).weights == "int8"


def test_what_cannot_be_quantised_is_refused(tmp_path: Path) -> None:
    folder, output = checkpoint(tmp_path / "plain"), tmp_path / "quantised"
    quantise_folder(str(folder), output, "int8")
    with pytest.raises(unmask.ConfigError, match="quantised is there already: name a new folder"):
        quantise_folder(str(folder), output, "int8")
    with pytest.raises(unmask.ConfigError, match="are quantised already: name the checkpoint that it was made of"):
        quantise_folder(str(output), tmp_path / "again", "int8")
    with pytest.raises(unmask.ConfigError, match=r"quantised already: load it without weights='int4', or the model that"):
        unmask.load(output, weights="int4")
    lora = tmp_path / "adapter"
    lora.mkdir()
    from safetensors.torch import save_file

    (lora / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(output)}))
    save_file({}, lora / "adapter_model.safetensors")
    with pytest.raises(unmask.ConfigError, match=r"cannot be merged into .*, whose weights are quantised already"):
        unmask.load(lora)
