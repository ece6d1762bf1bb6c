"""Adapters merged while a checkpoint is read: what peft's own merging gives, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import unmask
from unmask.models.loading import identity
from unmask.models.lora import Adapter
from unmask.models.quantise import dequantise, kind

GOLDEN = Path(__file__).parents[1] / "golden" / "models"
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rank-stabilised": {"use_rslora": True},
    "of several ranks": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 3}},
    "DoRA": {"use_dora": True},
    "with a module": {"modules_to_save": ["ln_f"]},
}


def adapter(folder: Path, base: Path, named: str | None = None, **settings: Any) -> Path:
    """A random adapter as peft saves it."""
    import transformers
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = transformers.AutoModel.from_pretrained(base)
    made = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "ff_proj"], **settings))
    for parameter in made.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter.data, mean=float(parameter.dim() == 1), std=0.2)
    made.save_pretrained(folder, save_embedding_layers=False)
    said = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(said | {"base_model_name_or_path": named or str(base)}))
    return folder


def merged_by_peft(folder: Path, base: Path) -> dict[str, Tensor]:
    import transformers
    from peft import PeftModel

    model = PeftModel.from_pretrained(transformers.AutoModel.from_pretrained(base), folder).merge_and_unload()
    return dict(model.network.state_dict())


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "llada-seed3", tmp_path / "base"))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_a_merged_adapter_is_what_peft_makes_of_it(base: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = adapter(tmp_path / "adapter", base, **settings)
    right, plain = merged_by_peft(folder, base), unmask.load(base).network.state_dict()
    for model in (unmask.load(folder), unmask.load(base, adapter=folder)):
        made = model.network.state_dict()
        for name, tensor in right.items():
            torch.testing.assert_close(made[name], tensor, atol=1e-5, rtol=1e-5)
    assert not torch.equal(made["model.transformer.blocks.0.q_proj.weight"], plain["model.transformer.blocks.0.q_proj.weight"])
    # In rows of any number: what is quantised is read in parts.
    quantised = unmask.load(folder, weights="fp8")
    for name, tensor in quantised.network.named_parameters():
        if kind(tensor) is not None:
            torch.testing.assert_close(dequantise(tensor, torch.float32), right[name], atol=0.5, rtol=0.07)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_an_adapter_is_merged_in_the_checkpoints_type(base: Path, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter", base)
    right = merged_by_peft(folder, base)
    weights = load_file(base / "model.safetensors")
    save_file({name: tensor.bfloat16() for name, tensor in weights.items()}, base / "model.safetensors")
    model = unmask.load(folder)
    assert model.dtype == torch.bfloat16
    name = "model.transformer.blocks.0.q_proj.weight"
    torch.testing.assert_close(model.network.state_dict()[name].float(), right[name], atol=0.02, rtol=0.02)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_what_belongs_to_another_model_or_is_no_lora_is_refused(base: Path, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter", base)

    def refused(model: Path, words: str, **options: Any) -> None:
        with pytest.raises((unmask.ModelError, unmask.ConfigError), match=words) as caught:
            unmask.load(model, **options)
        assert "\n" not in str(caught.value)

    refused(GOLDEN / "dream-seed3", "is no adapter for this model, which has no tensor", adapter=folder)
    refused(folder, "is an adapter itself: name its base", adapter=folder)
    refused(base, r"no adapter_config\.json there", adapter=base)
    tensors, said = load_file(folder / "adapter_model.safetensors"), json.loads((folder / "adapter_config.json").read_text())
    save_file({name: tensor for name, tensor in tensors.items() if "lora_B" not in name}, folder / "adapter_model.safetensors")
    refused(folder, "has only one of lora_A and lora_B")
    narrow = {name: tensor[:, :-1].contiguous() if "lora_A" in name else tensor for name, tensor in tensors.items()}
    save_file(narrow, folder / "adapter_model.safetensors")
    refused(folder, r"is \[\d+, \d+\] in the model and \[\d+, \d+\] in the adapter")
    save_file(tensors | {"base_model.model.q_proj.lora_E": torch.ones(2)}, folder / "adapter_model.safetensors")
    refused(folder, "lora_E is no part of a LoRA of plain matrices")
    (folder / "adapter_model.safetensors").unlink()
    refused(folder, "neither of adapter_model.safetensors and adapter_model.bin")
    (folder / "adapter_config.json").write_text(json.dumps(said | {"base_model_name_or_path": "elsewhere/nothing here"}))
    refused(folder, r"neither of")  # the files come first
    save_file(tensors, folder / "adapter_model.safetensors")
    refused(folder, r"is an adapter for elsewhere/nothing here, which is not to be had .*: name the base as the model")
    (folder / "adapter_config.json").write_text(json.dumps(said | {"peft_type": "IA3"}))
    refused(base, "an adapter of kind IA3 is not read here, only LoRA", adapter=folder)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_an_adapter_finds_an_embedded_base_trained_elsewhere_and_is_another_model(tmp_path: Path) -> None:
    tiny = unmask.models.loading.locate("unmask-tiny")
    folder = adapter(tmp_path / "adapter", tiny, named="/somewhere/else/unmask/assets/unmask-tiny")
    assert unmask.load(folder).tokenizer is not None
    assert unmask.generate(unmask.load(folder), ["Hi"], max_new_tokens=8)[0].token_ids
    names = {identity("unmask-tiny"), identity(str(folder)), identity("unmask-tiny", weights="int8")}
    assert len(names) == 3
    assert identity(str(folder)) == identity("unmask-tiny", folder)
    assert Adapter(folder).base.endswith("unmask-tiny")
