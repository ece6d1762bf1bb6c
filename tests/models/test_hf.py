"""transformers' Auto classes load our checkpoints without remote code, whichever is imported first."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

GOLDEN = Path(__file__).parents[1] / "golden"
PROGRAM = """
import sys
{imports}
from transformers import AutoConfig, AutoModel
model = AutoModel.from_pretrained(sys.argv[1])
print(type(model).__module__, type(AutoConfig.from_pretrained(sys.argv[1])).__name__)
"""


@pytest.mark.parametrize(
    "imports",
    [
        "import unmask",
        "import transformers\nimport unmask",
        "from transformers import AutoModel\nimport unmask",
        "import unmask.models.hf",
    ],
)
def test_importing_unmask_registers(imports: str) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM.format(imports=imports), str(GOLDEN / "models" / "dream-seed3")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == ["unmask.models.hf", "DreamConfig"]


def test_configs_alone_are_known_too() -> None:
    code = "import sys, unmask; from transformers import AutoConfig; print(AutoConfig.from_pretrained(sys.argv[1]).d_model)"
    folder = str(GOLDEN / "models" / "llada-seed3")
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code, folder], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "64"


def test_importing_unmask_is_light() -> None:
    code = "import sys, unmask; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["llada-seed3", "dream-seed3"])
@pytest.mark.parametrize("auto", ["AutoModel", "AutoModelForCausalLM"])
def test_raw_logits_and_a_round_trip(name: str, auto: str, tmp_path: Path) -> None:
    import transformers

    import unmask

    known = load_file(GOLDEN / "logits" / f"{name}.safetensors")
    model = getattr(transformers, auto).from_pretrained(GOLDEN / "models" / name)
    with torch.inference_mode():
        torch.testing.assert_close(model(known["tokens"]).logits, known["logits_full"], atol=1e-4, rtol=0)
    model.save_pretrained(tmp_path)
    again = unmask.load(tmp_path)
    assert again.spec == unmask.load(GOLDEN / "models" / name).spec
    with torch.inference_mode():
        torch.testing.assert_close(again.network(known["tokens"]), known["logits_full"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["sdar", "llada2"])
def test_a_network_that_decodes_merged_is_saved_all_the_same(family: str, tmp_path: Path) -> None:
    """Its tensors are views, of joined experts strided ones."""
    import unmask
    from unmask.models.hf import wrap
    from unmask.models.merged import Merge
    from unmask.models.toy import toy

    model = replace(toy(family), steps=(Merge(),))
    expected = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    made = [unmask.generate(model, [[1, 2, 3]], method=unmask.method("fast-dllm"), max_new_tokens=8)[0].token_ids]
    wrap(model.network, model.network.config).save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in expected.items())
    made += [unmask.generate(model, [[1, 2, 3]], method=unmask.method("fast-dllm"), max_new_tokens=8)[0].token_ids]
    assert made[0] == made[1]


def test_padding_is_refused() -> None:
    import transformers

    import unmask

    model = transformers.AutoModel.from_pretrained(GOLDEN / "models" / "llada-seed3")
    with pytest.raises(unmask.ModelError, match=r"unmask\.generate"):
        model(torch.ones(1, 4, dtype=torch.long), attention_mask=torch.tensor([[0, 1, 1, 1]]))


def test_a_network_of_no_known_architecture_is_refused_by_name() -> None:
    import unmask
    from unmask.models.hf import wrap
    from unmask.models.llada import LLaDA
    from unmask.models.toy import CONFIGS

    class Stranger(LLaDA):
        pass

    with pytest.raises(unmask.ModelError, match=r"Stranger .*LLaDAModelLM"):
        wrap(Stranger(CONFIGS["llada"]), CONFIGS["llada"])


def test_every_architecture_has_a_wrapper_of_its_name_and_a_config_of_its_type() -> None:
    from unmask.models import TABLE
    from unmask.models.hf import WRAPPERS
    from unmask.models.hf_config import CONFIGS

    assert {name: wrapper.__name__ for name, wrapper in WRAPPERS.items()} == {name: name for name in TABLE}
    for name, family in TABLE.items():
        if family.model_type is None:
            continue
        assert WRAPPERS[name].config_class is CONFIGS[family.model_type]
        assert CONFIGS[family.model_type].model_type == family.model_type


def test_a_llama_with_a_mask_is_ours_and_every_other_stays_transformers(tmp_path: Path) -> None:
    """Its architecture is Llama's: transformers goes on with its own class, and the two agree under a mask of one block."""
    import json

    import transformers

    import unmask
    from unmask.models.hf import wrap

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 24}
    llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, num_key_value_heads=2, eos_token_id=22)).eval()
    llama.save_pretrained(tmp_path)
    with pytest.raises(unmask.ModelError, match=r"neither config\.json nor the tokenizer names a mask token"):
        unmask.load(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"mask_token_id": 23, "block_size": 8}))
    model = unmask.load(tmp_path)
    tokens, mask = torch.arange(16)[None], torch.zeros(1, 1, 16, 16)
    mask[..., :8, 8:] = -torch.inf
    with torch.inference_mode():
        expected = llama(tokens, attention_mask=mask).logits
        torch.testing.assert_close(model.network(tokens), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(wrap(model.network, config)(tokens).logits, expected, atol=1e-5, rtol=0)
    assert type(transformers.AutoModelForCausalLM.from_pretrained(tmp_path)) is transformers.LlamaForCausalLM


def test_a_tokenizer_that_names_its_mask_is_enough(tmp_path: Path) -> None:
    import json

    from unmask.models.loading import beside

    for named in ("<mask>", {"content": "<mask>"}):
        settings = {"mask_token": named, "added_tokens_decoder": {"7": {"content": "<mask>"}}}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        found = beside(tmp_path)
        assert (found.mask, found.added) == ("<mask>", {"<mask>": 7})
