"""`--weights`, `--adapter` and `unmask quantize` as a user meets them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.cli.test_cli import QUESTION, run
from unmask.models.loading import locate

NAME = "model.transformer.blocks.0.q_proj"


def adapter(folder: Path) -> Path:
    """An adapter of one matrix, large enough to be seen."""
    folder.mkdir()
    said = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "base_model_name_or_path": str(locate("unmask-tiny"))}
    (folder / "adapter_config.json").write_text(json.dumps(said))
    low = {
        f"base_model.model.{NAME}.lora_{side}.weight": torch.ones(shape) for side, shape in (("A", (1, 160)), ("B", (160, 1)))
    }
    save_file(low, folder / "adapter_model.safetensors")
    return folder


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 0, err
    made: dict[str, object] = json.loads(out.splitlines()[-1])
    return made


def test_a_model_is_quantised_once_or_at_every_load(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    output = tmp_path / "int8"
    made = document(capsys, "quantize", "unmask-tiny", str(output), "--weights", "int8")
    assert made["weights"] == "int8"
    asked = ("generate", QUESTION, "--max-new-tokens", "32")
    once = document(capsys, *asked, "--model", str(output))
    always = document(capsys, *asked, "--weights", "int8")
    assert once["token_ids"] == always["token_ids"]
    assert once["weights"] == always["weights"] == "int8"
    assert document(capsys, *asked)["weights"] is None
    code, out, err = run(capsys, "quantize", "unmask-tiny", str(output), "--weights", "int8")
    assert (code, out) == (2, "")
    assert err == f"error: {output} is there already: name a new folder\n"
    code, _, err = run(capsys, *asked, "--weights", "int9")
    assert (code, err) == (2, "error: unknown kind of weights 'int9': did you mean 'int8'? known: fp8, int4, int8\n")


def test_an_adapter_is_a_model_or_stands_beside_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter")
    asked = ("generate", QUESTION, "--max-new-tokens", "16")
    alone = document(capsys, *asked, "--model", str(folder))
    beside = document(capsys, *asked, "--adapter", str(folder))
    assert alone["token_ids"] == beside["token_ids"] != document(capsys, *asked)["token_ids"]


def test_answers_of_two_kinds_are_never_mixed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ("eval", "arithmetic", "--limit", "2", "--methods", "fast-dllm", "--max-new-tokens", "32")
    plain, smaller = document(capsys, *asked), document(capsys, *asked, "--weights", "int8")
    assert (plain["weights"], smaller["weights"]) == (None, "int8")
    assert len(list((tmp_path / "runs").rglob("fast-dllm.jsonl"))) == 2


def test_eval_keeps_keys_and_values_in_eight_bits(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder of its own; one folder never has answers of both."""
    monkeypatch.chdir(tmp_path)
    asked = ("eval", "arithmetic", "--limit", "2", "--methods", "fast-dllm", "--model", "unmask-tiny")
    code, _, err = run(capsys, *asked, "--kv-dtype", "fp8", "--output", "eight")
    assert code == 0, err
    assert '"kv_dtype": "float8_e4m3fn"' in (tmp_path / "eight" / "fast-dllm.jsonl").read_text()
    code, _, err = run(capsys, *asked, "--output", "eight")
    assert (code, "with other settings" in err) == (2, True)
