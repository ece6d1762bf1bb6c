"""Models by hub id, from a hub on this machine: which files are fetched, and what is said of a repository that is no model."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save

import unmask
from tests.cli.test_cli import run
from tests.hub import Hub
from tests.serve.live import until
from unmask.engine.own import default_method_of
from unmask.models.loading import locate

QUESTION = "Mia has 23 apples. On Monday Mia buys 8. How many apples does Mia have?"
TINY = locate("unmask-tiny")
CONFIG = (TINY / "config.json").read_text()
ROOT = Path(__file__).parents[2]
ASKED = [path.name for path in TINY.iterdir() if path.suffix in (".json", ".txt", ".jinja")]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with Hub() as served:
        served.use(monkeypatch, tmp_path / "cache")
        yield served


def refused(name: str) -> str:
    with pytest.raises(unmask.ModelError) as caught:
        unmask.load(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_model_is_its_describing_files_and_its_weights_and_nothing_else(hub: Hub) -> None:
    others = {"pytorch_model.bin": b"x", "other.safetensors": b"x", "onnx/config.json": "{}", "README.md": "#", "run.py": "x"}
    stored = hub.add_folder("org/tiny", TINY)
    stored.revisions["main"].update({name: data.encode() if isinstance(data, str) else data for name, data in others.items()})
    model = unmask.load("org/tiny")
    assert sorted(hub.downloads()) == sorted([*ASKED, "model.safetensors"])
    (made,) = unmask.generate(model, [QUESTION], max_new_tokens=64)
    assert made.text == unmask.generate(unmask.load("unmask-tiny"), [QUESTION], max_new_tokens=64)[0].text
    assert model.name == "org/tiny"


def test_facts_are_read_before_the_weights_are_there(hub: Hub) -> None:
    hub.add_folder("org/tiny", TINY)
    assert default_method_of("org/tiny") == default_method_of("unmask-tiny")
    assert sorted(hub.downloads()) == sorted(ASKED)


def test_shards_are_those_that_the_index_names(hub: Hub) -> None:
    tensors = load_file(TINY / "model.safetensors")
    files = {path.name: path.read_bytes() for path in TINY.iterdir() if path.name != "model.safetensors"}
    half = len(tensors) // 2
    shards = {"model-00001-of-00002.safetensors": dict(list(tensors.items())[:half])}
    shards["model-00002-of-00002.safetensors"] = dict(list(tensors.items())[half:])
    index = {"weight_map": {name: file for file, held in shards.items() for name in held}}
    files["model.safetensors.index.json"] = json.dumps(index).encode()
    for name, held in shards.items():
        files[name] = save(held)
    files["consolidated.safetensors"] = b"x"
    stored = hub.add("org/shards", files)
    unmask.load("org/shards")
    assert "consolidated.safetensors" not in hub.downloads()
    del files["model-00002-of-00002.safetensors"]
    stored.revisions["half"] = files
    assert refused("org/shards@half") == (
        "'org/shards@half' on the Hugging Face hub lacks model-00002-of-00002.safetensors, which its "
        "model.safetensors.index.json names"
    )


def test_bin_files_come_only_where_there_are_no_safetensors(hub: Hub) -> None:
    files = {path.name: path.read_bytes() for path in TINY.iterdir() if path.name != "model.safetensors"}
    hub.add("org/bin", files | {"pytorch_model.bin": b"x"})
    hub.add(
        "org/sharded",
        files | {"pytorch_model.bin.index.json": b'{"weight_map": {"a": "one.bin"}}', "one.bin": b"x", "two.bin": b"x"},
    )
    for name, wanted in (("org/bin", "pytorch_model.bin"), ("org/sharded", "one.bin")):
        assert (locate(name) / wanted).exists()
        assert "two.bin" not in hub.downloads()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"model.gguf": "x"}, "has no config.json: it is no checkpoint that can be loaded here"),
        ({"config.json": CONFIG}, "has no weights that can be loaded here: neither model.safetensors nor pytorch_model.bin"),
        ({"config.json": CONFIG, "model.safetensors.index.json": "{}"}, "model.safetensors.index.json: no weight_map"),
        ({"config.json": "[", "model.safetensors": "x"}, "config.json: not valid JSON"),
    ],
)
def test_a_repository_that_is_no_model(hub: Hub, files: dict[str, str], said: str) -> None:
    hub.add("org/odd", files)
    assert said in refused("org/odd")


def test_revisions(hub: Hub) -> None:
    stored = hub.add_folder("org/tiny", TINY)
    config = json.loads((TINY / "config.json").read_text())
    stored.revisions["short"] = stored.revisions["main"] | {
        "config.json": json.dumps(config | {"max_sequence_length": 256}).encode()
    }
    assert unmask.load("org/tiny", revision="short").spec == unmask.load("org/tiny@short").spec
    assert unmask.load("org/tiny@short").spec != unmask.load("org/tiny").spec
    assert "has no revision 'long'" in refused("org/tiny@long")
    for name in ("unmask-tiny", str(TINY)):
        with pytest.raises(unmask.ConfigError, match="is no hub id, and only those have revisions"):
            unmask.load(name, revision="short")
    with pytest.raises(unmask.ConfigError, match="names one already; leave one of the two out"):
        unmask.load("org/tiny@short", revision="short")


def test_a_folder_of_that_name_comes_first(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "tiny").symlink_to(TINY)
    assert locate("org/tiny") == Path("org/tiny")
    assert hub.requests == []


def test_the_command_line_says_it_in_one_line(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.add_folder("org/tiny", TINY, access="gated")
    code, _, err = run(capsys, "generate", "Hi", "--model", "org/tiny")
    assert code == 2
    assert err.startswith("error: 'org/tiny' is gated: accept its licence at http")
    assert err.count("\n") == 1


def test_a_command_that_was_killed_goes_on(hub: Hub, tmp_path: Path) -> None:
    """The command line itself, which knows the hub from its environment alone."""
    stored = hub.add_folder("org/tiny", TINY)
    command = [sys.executable, "-m", "unmask", "generate", QUESTION, "--model", "org/tiny", "--max-new-tokens", "32"]
    told = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "other"), "HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1"}
    hub.held.add("model.safetensors")  # its second half does not come
    first = subprocess.Popen(command, cwd=ROOT, env=os.environ | told, stderr=subprocess.PIPE)
    try:
        until(lambda: "model.safetensors" in hub.downloads(), seconds=300)
    finally:
        first.kill()
        first.communicate()
    hub.held.clear()
    hub.requests.clear()
    again = subprocess.run(command, cwd=ROOT, env=os.environ | told, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "Mia" in again.stdout
    assert hub.downloads() == ["model.safetensors"]
    assert len(stored.files("main")) > 3
