"""A checkpoint's own choices: where they are read, what they replace, what is refused, and who is told."""

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

import unmask
from tests.cli.test_cli import run
from unmask.cli.calibrate import _save
from unmask.decode.rules import Threshold
from unmask.engine.engine import Engine
from unmask.engine.own import default_method, default_method_of
from unmask.evals import load
from unmask.evals.run import evaluate
from unmask.evals.task import Source
from unmask.models import own
from unmask.models.loading import described, locate
from unmask.serve.app import create_app
from unmask.serve.options import Options

CHOICES = {
    "method": "fast-dllm",
    "settings": {"block_length": 16},
    "presets": {"fast-dllm": {"commit.threshold": 0.7}, "r2-dllm": {"temporal": None, "suffix": {"window": 8}}},
}
QUESTION = "Compute 12 - 9."


def folder(at: Path, choices: Any, *, model: str = "unmask-tiny") -> Path:
    """A checkpoint with that unmask.json."""
    place = at / "checkpoint"
    place.mkdir()
    for file in locate(model).iterdir():
        (place / file.name).symlink_to(file.resolve())
    (place / own.FILE).unlink(missing_ok=True)
    (place / own.FILE).write_text(choices if isinstance(choices, str) else json.dumps(choices))
    return place


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("own"), CHOICES)


@pytest.fixture(scope="module")
def model(place: Path) -> unmask.Denoiser:
    return unmask.load(place)


def used(model: unmask.Denoiser, method: Any = None) -> unmask.Method:
    return unmask.generate(model, [QUESTION], method=method, max_new_tokens=32)[0].method


def test_without_a_method_the_models_own_decodes(model: unmask.Denoiser, place: Path) -> None:
    method = used(model)
    assert (method.name, method.commit, method.block_length) == ("fast-dllm", Threshold(threshold=0.7), 16)
    assert default_method(model) == default_method_of(str(place)) == "fast-dllm"
    assert model.defaults == {"block_length": 16}


def test_a_preset_by_name_has_them_too_and_what_is_named_stays(model: unmask.Denoiser) -> None:
    method = used(model, "r2-dllm")
    assert (method.temporal, method.suffix.window if method.suffix else None) == (None, 8)
    assert used(model, unmask.method("r2-dllm", suffix_window=None)).suffix is None
    assert used(model, unmask.method("fast-dllm", threshold=0.95)).commit == Threshold(threshold=0.95)
    assert used(model, unmask.method("fast-dllm")).commit == Threshold(threshold=0.7)
    assert used(model, "fast-dllm-official").commit == Threshold(threshold=0.9)
    assert unmask.method("fast-dllm").commit == Threshold(threshold=0.9)


def test_a_mapping_that_bears_a_presets_name_has_its_own_settings(model: unmask.Denoiser) -> None:
    read = unmask.Method.from_dict(unmask.method("r2-dllm", suffix_window=None).to_dict())
    method = used(model, read)
    assert method.suffix is None
    assert method.temporal == unmask.method("r2-dllm").temporal


def test_a_model_without_the_file_decodes_as_before(tmp_path: Path) -> None:
    plain = unmask.load(folder(tmp_path, {}))
    assert plain.own.to_dict() == {}
    assert used(plain) == unmask.method("r2-dllm").change(max_new_tokens=32)


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"methods": "r2-dllm"}, "unknown key 'methods'"),
        ({"method": 3}, "method must be the name of a preset, got 3"),
        ({"presets": ["r2-dllm"]}, "presets must be an object"),
        ({"presets": {"r2-dllm": 0.9}}, "presets.r2-dllm must be an object such as"),
        ("{", "not valid JSON"),
        ({"method": "r2dllm"}, "did you mean 'r2-dllm'"),
        ({"presets": {"r2dllm": {}}}, "did you mean 'r2-dllm'"),
        ({"presets": {"r2-dllm-official": {}}}, "name r2-dllm"),
        ({"presets": {"fast-dllm": {"commit.treshold": 0.9}}}, "did you mean 'threshold'"),
        ({"presets": {"fast-dllm": {"commit.threshold": 9}}}, "from 0 to 1, got 9"),
        ({"presets": {"fast-dllm": {"temporal.steps": 3}}}, 'turn it on as a whole, "temporal"'),
        ({"presets": {"fast-dllm": {"name": "mine"}}}, "name says what a method is"),
        ({"settings": {"commit.sureness": 0.9}}, "no preset has commit.sureness"),
        ({"settings": {"commit.threshold": "high"}}, "from 0 to 1, got 'high'"),
    ],
)
def test_mistakes_name_the_file_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, choices: Any, words: str
) -> None:
    place = folder(tmp_path, choices)
    with pytest.raises(unmask.UnmaskError, match=r"unmask\.json") as caught:
        used(unmask.load(place))
    assert words in str(caught.value)
    code, _, err = run(capsys, "generate", QUESTION, "--model", str(place), "--max-new-tokens", "32")
    assert code == 2
    assert words in err
    assert err.count("\n") == 1


# --- who is told ------------------------------------------------------------------------------------------------------


def test_the_command_line_shows_them(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    wanted = ("generate", QUESTION, "--model", str(place), "--max-new-tokens", "32")
    code, out, _ = run(capsys, *wanted)
    assert code == 0
    assert "[fast-dllm; the model's own: block_length=16, commit.threshold=0.7]" in out
    code, out, _ = run(capsys, *wanted, "--json")
    document = json.loads(out.splitlines()[-1])
    assert (document["method"], document["settings"]["commit"]["threshold"]) == ("fast-dllm", 0.7)
    code, out, _ = run(capsys, *wanted, "--set", "threshold=0.8", "--json")
    assert json.loads(out.splitlines()[-1])["settings"]["commit"]["threshold"] == 0.8


def test_a_server_decodes_with_them_and_says_so(model: unmask.Denoiser) -> None:
    with TestClient(create_app(Engine(model))) as client:
        asked = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 20}
        told = client.post("/v1/chat/completions", json=asked).json()["diffusion"]
        assert (told["method"], told["settings"]["commit"]["threshold"]) == ("fast-dllm", 0.7)
        told = client.post("/v1/completions", json={"prompt": QUESTION, "diffusion": {"threshold": 0.8}}).json()["diffusion"]
        assert told["settings"]["commit"]["threshold"] == 0.8
        told = client.post("/v1/completions", json={"prompt": QUESTION, "diffusion": {"method": "vanilla"}}).json()["diffusion"]
        assert told["method"] == "vanilla"
    assert Options(method="vanilla").of(model).preset == "vanilla"


def test_an_evaluation_measures_with_them(model: unmask.Denoiser) -> None:
    methods = {"fast-dllm": unmask.method("fast-dllm"), "named": unmask.method("fast-dllm", threshold=0.9)}
    runs = evaluate(model, load("chain", Source(limit=1)), methods, max_new_tokens=32)
    assert [run.method.to_dict()["commit"]["threshold"] for run in runs] == [0.7, 0.9]


# --- how they are saved -----------------------------------------------------------------------------------------------


def test_what_is_saved_is_used(tmp_path: Path) -> None:
    place = folder(tmp_path, {"presets": {"fast-dllm": {"commit.threshold": 0.8}}}, model="unmask-tiny-block")
    facts = described(str(place))
    certified = unmask.method("r2-dllm", threshold=0.83, token_threshold=None).with_defaults(facts.defaults)
    _save(place / own.FILE, "r2-dllm", certified, facts)
    assert own.read(place).to_dict() == {
        "method": "r2-dllm",
        "presets": {
            "fast-dllm": {"commit.threshold": 0.8},
            "r2-dllm": {"commit.threshold": 0.83, "token_cluster": None},
        },
    }
    assert used(unmask.load(place)) == certified.change(max_new_tokens=32)


def test_saving_needs_a_local_folder_and_a_preset(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    calibrate = ("calibrate", "chain", "--budget", "60", "--save")
    for arguments, words in (
        ((), "--save writes into the model's folder, and unmask-tiny is none"),
        (("--model", str(place), "--method", "r2-dllm-official"), "--save keeps settings of a preset"),
    ):
        code, _, err = run(capsys, *calibrate, *arguments)
        assert code == 2
        assert words in err
