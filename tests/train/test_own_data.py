"""Fine-tuning on a conversation file: both patterns, LoRA and all weights, killed and resumed; examples left out and shown."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

import unmask
from tests.train.conversations import write
from tests.train.test_train import interrupted
from unmask.models import loading
from unmask.train import checkpoint
from unmask.train.begin import CONFIGS as LAYOUTS
from unmask.train.begin import initialise
from unmask.train.budget import estimate
from unmask.train.dataset import LeftOut, Sample, samples
from unmask.train.pretrain import PretrainConfig
from unmask.train.sft import SFTConfig, merge, sft
from unmask.train.show import show
from unmask.train.tokenizer import build, save, vocabulary

MIXTURE = {"chain": 1.0}
FAMILIES = {"full": "LLaDAModelLM", "block-causal": "SDARForCausalLM"}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An untrained checkpoint of either attention pattern, blocks of eight, with a tokenizer."""
    tokenizer = build(vocabulary(MIXTURE), model_max_length=256)
    config = PretrainConfig(output="", mixture=MIXTURE, width=32, layers=2, heads=2, mlp=48, max_length=256, block_length=8)
    folders = {pattern: tmp_path_factory.mktemp(pattern) for pattern in FAMILIES}
    for pattern, architecture in FAMILIES.items():
        settings = LAYOUTS[architecture](config, len(tokenizer))
        network = loading.build(settings, Path(pattern)).to_empty(device="cpu")
        initialise(network, torch.Generator().manual_seed(0))
        checkpoint.export(dict(network.state_dict()), settings, folders[pattern])
        save(tokenizer, folders[pattern])
    return folders


def tuning(base: Path, tmp_path: Path, **changes: Any) -> SFTConfig:
    data = tmp_path / "talk.jsonl"
    if not data.exists():
        write(data, 24)
    settings: dict[str, Any] = {"model": str(base), "data": str(data), "output": str(tmp_path / "tuned"), "length": 160}
    settings |= {"batch_size": 8, "micro_batch": 4, "epochs": 2, "learning_rate": 0.01, "block_length": None}
    settings |= {"checkpoint_every": 2, "precision": "fp32", "lora": {"rank": 4, "target_modules": ["q_proj", "v_proj"]}}
    return SFTConfig.from_dict(settings | changes)


@pytest.mark.parametrize("pattern", FAMILIES)
@pytest.mark.parametrize("lora", [True, False])
def test_a_killed_run_on_conversations_goes_on_and_loads_everywhere(
    pattern: str, lora: bool, bases: dict[str, Path], tmp_path: Path
) -> None:
    changes: dict[str, Any] = {} if lora else {"lora": None}
    whole: list[float] = []
    sft(
        tuning(bases[pattern], tmp_path, output=str(tmp_path / "whole"), **changes),
        lambda step, measured: whole.append(measured["loss"]),
    )
    config = tuning(bases[pattern], tmp_path, **changes)
    parts = interrupted(lambda report: sft(config, report), after=3)
    assert [parts[step] for step in range(len(whole))] == whole
    assert len(whole) == 6
    folder = merge(config) if lora else Path(config.output)
    tokens = torch.arange(20, 60)[None]
    ours = unmask.load(folder).network(tokens)
    torch.testing.assert_close(AutoModel.from_pretrained(folder)(tokens).logits, ours)
    assert not torch.allclose(ours, unmask.load(bases[pattern]).network(tokens), atol=1e-3)
    assert unmask.generate(unmask.load(folder), ["3 pens and 4 more?"], max_new_tokens=32)[0].forwards > 0


def test_it_learns_the_conversations(bases: dict[str, Path], tmp_path: Path) -> None:
    losses: list[float] = []
    sft(tuning(bases["full"], tmp_path, lora=None, epochs=20), lambda step, measured: losses.append(measured["loss"]))
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_what_cannot_be_used_is_left_out_and_named(bases: dict[str, Path], tmp_path: Path) -> None:
    data = write(tmp_path / "talk.jsonl", 6)
    long = {"prompt": "3 + 4? " * 60, "completion": "7"}
    with data.open("a") as file:
        file.write('nonsense\n{"text": "Hi"}\n\n' + json.dumps(long) + "\n")
    told: list[LeftOut] = []
    config = tuning(bases["full"], tmp_path, batch_size=2)
    folder = sft(config, left_out=told.append)
    assert [str(one).removeprefix(f"{data}:").split(":")[0] for one in told] == ["7", "8", "10"]
    for one, words in zip(told, ("not JSON", "expected", "the length is 160"), strict=True):
        assert words in one.error
    assert (folder / "left_out.txt").read_text().splitlines() == [str(one) for one in told]
    assert "on 6 examples" in (folder / "README.md").read_text()
    data.write_text("nonsense\n" * 3)
    with pytest.raises(unmask.ConfigError, match=r"none of 3 examples can be used; .*talk.jsonl:1: not JSON"):
        sft(tuning(bases["full"], tmp_path, output=str(tmp_path / "none")))
    with pytest.raises(unmask.ConfigError, match="no such file"):
        sft(tuning(bases["full"], tmp_path, data=str(tmp_path / "nowhere")))


def test_adapters_stand_where_they_are_named(bases: dict[str, Path], tmp_path: Path) -> None:
    config = tuning(
        bases["block-causal"], tmp_path, epochs=1, lora={"rank": 2, "target_modules": ["self_attn.q_proj", "lm_head"]}
    )
    sft(config)
    pattern = json.loads((tmp_path / "tuned" / "adapter_config.json").read_text())["target_modules"]
    assert pattern == r"model\.layers\.\d+\.(self_attn\.q_proj)|lm_head"
    merged, base = unmask.load(merge(config)).network, unmask.load(bases["block-causal"]).network
    changed = {name for name, tensor in merged.state_dict().items() if not torch.equal(tensor, base.state_dict()[name])}
    assert {name.rpartition(".")[0] for name in changed} == {
        "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "lm_head",
    }  # fmt: skip
    assert estimate(config, None, None).trained == 2 * 2 * (32 + 32) + 2 * (32 + base.shape.vocab)
    for names, words in ((["q_porj"], "did you mean 'q_proj'"), ("q_proj", "must be a list")):
        with pytest.raises(unmask.ConfigError, match=words):
            sft(tuning(bases["block-causal"], tmp_path, output=str(tmp_path / "odd"), lora={"target_modules": names}))


def test_all_weights_of_a_base_that_names_another_type(bases: dict[str, Path], tmp_path: Path) -> None:
    """A base that transformers 5 saved has "dtype" in its config; what comes out is float32 for everybody."""
    base = tmp_path / "base"
    checkpoint.copy_tokenizer(bases["full"], base.mkdir() or base)
    settings = loading.read_json(bases["full"] / "config.json")
    (base / "config.json").write_text(json.dumps(settings | {"dtype": "bfloat16"}))
    (base / "model.safetensors").write_bytes((bases["full"] / "model.safetensors").read_bytes())
    folder = sft(tuning(base, tmp_path, lora=None, epochs=1))
    assert AutoModel.from_pretrained(folder).dtype == torch.float32


# --- what is shown ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", FAMILIES)
def test_an_example_is_shown_as_the_model_sees_it(pattern: str, bases: dict[str, Path], tmp_path: Path) -> None:
    config = tuning(bases[pattern], tmp_path)
    model = unmask.load(bases[pattern])
    found = list(samples(config, model, block_length=config.block(model.spec), seed=0))
    number = next(place for place, one in enumerate(found, start=1) if isinstance(one, Sample) and len(one.encoded.answers) > 1)
    about, runs = show(config, number)
    assert f"talk.jsonl:{number}: " in about
    assert ("block-causal" in about) == (pattern == "block-causal")
    assert {run.role for run in runs} <= {"system", "user", "assistant", "filler"}
    assert {run.state for run in runs if run.role == "user"} <= {"given", "hidden"}
    assert "asked" in {run.state for run in runs}
    learned = sum(run.tokens for run in runs if run.role != "filler" and run.state in ("learned", "asked", "later"))
    assert learned == sum(end - begin for begin, end in found[number - 1].encoded.answers)  # type: ignore[union-attr]
    sample = found[number - 1]
    assert isinstance(sample, Sample)
    assert sum(run.tokens for run in runs if run.role != "filler") == len(sample.encoded.tokens)
    written = "".join(run.text for run in runs if run.role != "filler")
    assert written == model.tokenizer.decode(sample.encoded.tokens.tolist())
    with pytest.raises(unmask.ConfigError, match="example 99: the data has 24"):
        show(config, 99)
