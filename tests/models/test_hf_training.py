"""Other people's training code takes our transformers classes: peft as CAUSAL_LM, the Trainer, and what both call."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoModel, AutoModelForCausalLM, Trainer, TrainingArguments

import unmask
from unmask.models.hf import wrap
from unmask.models.toy import CONFIGS, toy

MODELS = Path(__file__).parents[1] / "golden" / "models"
FOLDERS = [MODELS / "llada-seed3", MODELS / "dream-seed3"]
IDS = torch.tensor([[5, 6, 7, 23, 9, 23], [1, 23, 3, 4, 23, 2]])
LABELS = torch.where(IDS == 23, 8, -100)

each = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def _tuned(model: Any, folder: Path, **more: Any) -> Trainer:
    """Two steps of the Trainer on masked rows."""
    rows = [{"input_ids": ids, "labels": labels} for ids, labels in zip(IDS, LABELS, strict=True)] * 4
    args = TrainingArguments(
        str(folder),
        max_steps=2,
        per_device_train_batch_size=2,
        learning_rate=0.05,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        **more,
    )
    trainer = Trainer(model, args, train_dataset=rows)
    trainer.train()
    return trainer


@each
def test_the_loss_is_the_cross_entropy_of_the_labels_in_the_checkpoints_alignment(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    made = model(IDS, labels=LABELS)
    # Row i of Dream's logits predicts token i + 1.
    logits, labels = (made.logits[:, :-1], LABELS[:, 1:]) if "dream" in folder.name else (made.logits, LABELS)
    expected = cross_entropy(logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(made.loss, expected)
    asked = (LABELS != -100).sum()
    torch.testing.assert_close(model(IDS, labels=LABELS, num_items_in_batch=2 * asked).loss, expected / 2)


@each
def test_what_a_forward_may_also_be_asked(folder: Path) -> None:
    model = AutoModel.from_pretrained(folder)
    made = model(IDS, output_hidden_states=True)
    assert len(made.hidden_states) == 4  # three layers
    assert model(IDS).hidden_states is None
    torch.testing.assert_close(made.hidden_states[0], model.get_input_embeddings()(IDS))
    torch.testing.assert_close(model.get_output_embeddings()(made.hidden_states[-1]), made.logits)
    as_tuple = model(IDS, labels=LABELS, return_dict=False, use_cache=False)
    torch.testing.assert_close(as_tuple[1], made.logits)
    embedded = model(inputs_embeds=model.get_input_embeddings()(IDS))
    torch.testing.assert_close(embedded.logits, made.logits)
    for positions in (torch.arange(6), torch.arange(6).expand(2, 6)):
        torch.testing.assert_close(model(IDS, position_ids=positions).logits, made.logits)
    apart = model(IDS, position_ids=torch.tensor([0, 1, 2, 10, 11, 12])).logits
    assert not torch.allclose(apart, made.logits, atol=1e-3)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"use_cache": True}, "use_cache"),
        ({"past_key_values": ((),)}, "use_cache"),
        ({"output_attentions": True}, "output_attentions"),
        ({"position_ids": torch.tensor([0, 1, 2, 0, 1, 2])}, "position_ids"),
        ({"position_ids": torch.stack((torch.arange(6), torch.arange(1, 7)))}, "position_ids"),
        ({"inputs_embeds": torch.zeros(2, 6, 64)}, "input_ids"),
        ({"input_ids": None}, "input_ids"),
    ],
)
def test_what_it_cannot_do_is_refused(asked: dict[str, Any], said: str) -> None:
    model = AutoModel.from_pretrained(FOLDERS[0])
    with pytest.raises(unmask.ModelError, match=said):
        model(**{"input_ids": IDS, **asked})


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
@each
@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], "all-linear", ["lm_head", "ff_out", "wte", "embed_tokens"]])
def test_peft_tunes_it_as_a_causal_language_model(folder: Path, targets: Any, tmp_path: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(folder)
    before = base(IDS).logits
    model = get_peft_model(base, LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM"))
    torch.testing.assert_close(model(input_ids=IDS).logits, before)
    _tuned(model, tmp_path / "run")
    moved = model.eval()(input_ids=IDS).logits
    assert not torch.allclose(moved, before, atol=1e-3)
    model.save_pretrained(tmp_path / "adapter")
    again = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(again(input_ids=IDS).logits, moved)
    torch.testing.assert_close(model.merge_and_unload()(IDS).logits, moved, atol=1e-4, rtol=0)
    with pytest.raises(unmask.ModelError, match=r"unmask\.generate"):
        again.generate(input_ids=IDS)


@each
def test_the_trainer_tunes_it_whole_and_checkpointing_changes_nothing(folder: Path, tmp_path: Path) -> None:
    losses = []
    for checkpointing in (False, True):
        model = AutoModelForCausalLM.from_pretrained(folder)
        trainer = _tuned(model, tmp_path / "run", gradient_checkpointing=checkpointing, gradient_accumulation_steps=2)
        assert model.is_activation_checkpointing is checkpointing
        losses.append(trainer.state.log_history[-1]["train_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    model.save_pretrained(tmp_path / "tuned")
    torch.testing.assert_close(unmask.load(tmp_path / "tuned").network(IDS), model(IDS).logits)
    said = json.loads((tmp_path / "tuned" / "config.json").read_text())
    assert [name for name in ("dtype", "torch_dtype") if name in said] == ["dtype"]


def test_checkpointing_recomputes_the_layers() -> None:
    model = AutoModel.from_pretrained(FOLDERS[0]).train()
    model.activation_checkpointing_enable()
    calls = []
    model.network.blocks()[0].register_forward_pre_hook(lambda *_: calls.append(1))
    model(IDS, labels=LABELS).loss.backward()
    assert len(calls) == 2


@pytest.mark.parametrize("family", ["llada", "dream", "sdar", "llada2", "llada_moe", "fast_dllm_v2"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_vocabulary_grows_and_shrinks(family: str, tied: bool, tmp_path: Path) -> None:
    settings = {**CONFIGS[family], "weight_tying" if family == "llada" else "tie_word_embeddings": tied, "vocab_size": 30}
    network = type(toy(family).network)(settings)
    for tensor in network.parameters():  # the experts' are made empty: they come from a checkpoint
        torch.nn.init.normal_(tensor, std=0.1)
    model = wrap(network, settings).eval()
    before = model(IDS).logits
    for rows in (37, 24):
        embedding = model.resize_token_embeddings(rows)
        assert (len(embedding.weight), model.config.vocab_size, network.spec.vocab_size) == (rows, rows, rows)
        assert model.get_input_embeddings() is embedding
        assert (model.get_output_embeddings() is embedding) is tied
        after = model(IDS).logits
        assert after.shape[-1] == rows
        torch.testing.assert_close(after[..., :24], before[..., :24])
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(unmask.load(tmp_path).network(IDS), after)
    with pytest.raises(unmask.ModelError, match="at least 24"):
        model.resize_token_embeddings(23)


def test_embedding_size_grows_with_the_vocabulary(tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(Path(unmask.__file__).parent / "assets" / "unmask-tiny")
    model.resize_token_embeddings(600)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["vocab_size"], config["embedding_size"]) == (600, 600)
    assert unmask.load(tmp_path).spec.vocab_size == 600


STUB = """
import torch
from transformers import PreTrainedConfig, PreTrainedModel
class DreamConfig(PreTrainedConfig):
    model_type = "Dream"
class DreamModel(PreTrainedModel):
    config_class = DreamConfig
    def __init__(self, config):
        super().__init__(config)
        self.one = torch.nn.Linear(2, 2)
        self.post_init()
    def diffusion_generate(self):
        return "theirs"
"""


@pytest.mark.parametrize("brought", [("AutoConfig", "AutoModel"), ("AutoModel",)])
def test_trusted_remote_code_comes_before_ours(brought: tuple[str, ...], tmp_path: Path) -> None:
    config = json.loads((FOLDERS[1] / "config.json").read_text())
    classes = {"AutoConfig": "modeling_dream.DreamConfig", "AutoModel": "modeling_dream.DreamModel"}
    config["auto_map"] = {auto: classes[auto] for auto in brought}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((FOLDERS[1] / "model.safetensors").read_bytes())
    (tmp_path / "modeling_dream.py").write_text(STUB)

    theirs = AutoModel.from_pretrained(tmp_path, trust_remote_code=True)
    assert theirs.diffusion_generate() == "theirs"
    known = transformers.AutoConfig.from_pretrained(tmp_path, trust_remote_code=True)
    assert hasattr(AutoModel.from_config(known, trust_remote_code=True), "diffusion_generate")
    for settings in ({}, {"trust_remote_code": False}):
        assert type(AutoModel.from_pretrained(tmp_path, **settings)).__module__ == "unmask.models.hf"
    # A copy without the authors' file, as our own training writes: there is nothing to trust.
    (tmp_path / "modeling_dream.py").unlink()
    assert type(AutoModel.from_pretrained(tmp_path, trust_remote_code=True)).__module__ == "unmask.models.hf"


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
@pytest.mark.parametrize("task_type", [None, "CAUSAL_LM"])
def test_an_adapter_made_elsewhere_is_merged_by_the_command(task_type: str | None, tmp_path: Path) -> None:
    from unmask.cli import main

    base = AutoModel.from_pretrained(FOLDERS[1])
    tuned = get_peft_model(
        base, LoraConfig(r=2, target_modules=["q_proj", "lm_head"], task_type=task_type, init_lora_weights=False)
    )
    tuned.save_pretrained(tmp_path)
    with pytest.raises(SystemExit, match="0"):
        main(["train", "merge", "--set", f"model={FOLDERS[1]}", "--set", f"output={tmp_path}"])
    merged = unmask.load(tmp_path / "merged").network(IDS)
    torch.testing.assert_close(merged, tuned.eval()(input_ids=IDS).logits, atol=1e-4, rtol=0)
    assert set(load_file(tmp_path / "merged" / "model.safetensors")) == set(load_file(FOLDERS[1] / "model.safetensors"))
