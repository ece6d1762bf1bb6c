"""The shelf's file: every fact has a source, every config makes the network that is meant, every setting exists."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import unmask
from unmask.cli.calibrate import _save as save
from unmask.data.hub import Repository
from unmask.engine.own import check, completed, default_method
from unmask.models import TABLE, memory, own
from unmask.models.loading import build, described
from unmask.models.names import EMBEDDED, on_shelf, resolve
from unmask.models.shelf import Known, find, parse, published, shelf
from unmask.models.toy import CONFIGS, toy

COMMIT = "0123456789" * 4
ROWS = list(shelf().values())
WHOLE: list[dict[str, Any]] = [
    {"source": "its card", "read": "2026-11-26", "hub_id": "owner/model", "family": "llada"},
    {"unknown": ["licence", "context", "config"]},
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_fact_says_where_and_when_it_was_read(row: Known) -> None:
    for fact in (*row.facts.values(), *row.settings):
        assert len(fact.source) > 10
        assert re.fullmatch(r"20\d\d-[01]\d(-[0-3]\d)?", fact.read), fact
    assert row.name == row.name.lower()
    assert row.name not in EMBEDDED
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", row.hub_id)


def test_no_repository_has_two_names() -> None:
    assert len({row.hub_id for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"source": ""}, "a block needs `source` and `read`"),
        ({"read": None}, "a block needs `source` and `read`"),
        ({"parameter": 8}, "unknown fact 'parameter': did you mean 'parameters'"),
        ({"licence": "mit"}, "licence must be either said or listed"),
        ({"family": "gpt"}, "a family of llada, dream"),
    ],
)
def test_a_row_that_is_not_whole_is_refused(change: dict[str, Any], match: str) -> None:
    assert parse({"a-1b": WHOLE})["a-1b"].value("licence") == "unknown"
    block = {key: value for key, value in {**WHOLE[0], **change}.items() if value is not None}
    with pytest.raises(unmask.ModelError, match=rf"^shelf.yaml: a-1b: .*{match}"):
        parse({"a-1b": [block, WHOLE[1]]})


def test_a_row_that_leaves_something_out_is_refused() -> None:
    with pytest.raises(unmask.ModelError, match="config must be either said or listed"):
        parse({"a-1b": [WHOLE[0], {"unknown": ["licence", "context"]}]})


@pytest.mark.parametrize("row", [row for row in ROWS if "config" in row.facts], ids=lambda row: row.name)
def test_the_config_makes_a_network_of_the_family_with_as_many_parameters(row: Known) -> None:
    config = {"max_position_embeddings": 8, **row.facts["config"].value}
    network = build(config, Path(row.hub_id))
    assert TABLE[config["architectures"][0]].network.split(":")[0].endswith(f".{row.value('family')}")
    assert network.shape == row.shape
    assert memory.parameters(network.shape).total == sum(tensor.numel() for tensor in network.parameters())


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("sdar-1.7b", 4.06e9),
        ("sdar-4b", 8.83e9),
        ("sdar-8b", 16.4e9),
        ("trado-8b", 16.4e9),
        ("dream-coder-7b", 15.2e9),
        ("llada-8b", 16.03e9),
        ("llada-moe", 14.7e9),
        ("llada2.2-flash", 206e9),
    ],
)
def test_the_sizes_agree_with_the_published_files(name: str, size: float) -> None:
    """Sizes of the files as the hub's pages give them, all in bfloat16; of the last, twice the parameters of its page."""
    row = find(name)
    assert row is not None
    assert row.shape is not None
    assert memory.weights(row.shape, "bf16") == pytest.approx(size, rel=0.005)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_was_published_exists(row: Known) -> None:
    check(row.own)
    for preset, settings in row.own.presets.items():
        method = unmask.method(preset).with_defaults(settings)
        data = method.to_dict()
        for path, value in settings.items():
            held: Any = data
            for step in path.split("."):
                held = held[step]
            assert held == value or value.items() <= held.items()


def test_names() -> None:
    assert resolve("SDAR-1.7B") == resolve("sdar-1.7b") == Repository("JetLM/SDAR-1.7B-Chat")
    assert resolve("sdar-1.7b@v2") == Repository("JetLM/SDAR-1.7B-Chat", "v2")
    assert on_shelf("sdar-1.7b@v2") is find("sdar-1.7b")
    assert on_shelf("JetLM/SDAR-1.7B-Chat") is find("sdar-1.7b") is not None
    assert on_shelf("JetLM/SDAR-1.7B-Chat-b16") is None
    for name in EMBEDDED:
        assert isinstance(resolve(name), Path)


def test_a_folder_comes_before_a_short_name_and_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "sdar-4b", "dream")
    with pytest.warns(
        UserWarning, match="'sdar-4b' is the folder of that name here; the model of that short name is JetLM/SDAR-4B"
    ):
        model = unmask.load("sdar-4b")
    assert model.spec.lookbehind == 1
    assert model.own.usual_method is None


def checkpoint(folder: Path, family: str) -> Path:
    """A toy's checkpoint in a folder."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIGS[family]))
    state = {name: tensor.contiguous() for name, tensor in toy(family, sharpness=4.0).network.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub's cache, without a hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for repository, family in (("Dream-org--Dream-v0-Instruct-7B", "dream"), ("JetLM--SDAR-1.7B-Chat", "sdar")):
        place = tmp_path / f"models--{repository}"
        checkpoint(place / "snapshots" / COMMIT, family)
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text(COMMIT)
    return tmp_path


def used(model: unmask.Denoiser, method: Any) -> unmask.Method:
    return unmask.generate(model, [[1, 2, 3]], method=method, max_new_tokens=32)[0].method


@pytest.mark.parametrize("name", ["dream-7b", "Dream-org/Dream-v0-Instruct-7B"])
def test_published_settings_take_the_place_of_unnamed_ones(cache: Path, name: str) -> None:
    model = unmask.load(name)
    assert model.name == name
    assert default_method(model) == "r2-dllm"
    method = used(model, "r2-dllm")
    assert (method.temporal, method.token_cluster) == (
        unmask.method("r2-dllm", temporal_threshold=0.8).temporal,
        unmask.method("r2-dllm", token_threshold=0.85).token_cluster,
    )
    named = used(model, unmask.method("r2-dllm", temporal_threshold=0.7))
    assert named.temporal == unmask.method("r2-dllm").temporal
    assert named.token_cluster == method.token_cluster
    assert used(model, "r2-dllm-official") == unmask.method("r2-dllm-official").change(max_new_tokens=32)
    assert used(model, "freedave").draft == unmask.method("freedave", draft_steps=8).draft


def test_the_published_method_decodes_where_none_is_named(cache: Path) -> None:
    method = used(unmask.load("sdar-1.7b"), None)
    assert (method.name, method.block_length) == ("sdar", 4)


def test_what_a_folder_says_itself_comes_first(cache: Path) -> None:
    folder = cache / "models--Dream-org--Dream-v0-Instruct-7B" / "snapshots" / COMMIT
    choices = {
        "method": "fast-dllm",
        "presets": {"r2-dllm": {"temporal.threshold": 0.6}},
        "settings": {"commit.threshold": 0.97},
    }
    (folder / own.FILE).write_text(json.dumps(choices))
    model = unmask.load("dream-7b")
    assert default_method(model) == "fast-dllm"
    assert used(model, "fast-dllm").commit == unmask.method("fast-dllm", threshold=0.97).commit
    method = used(model, "r2-dllm")
    assert method.temporal == unmask.method("r2-dllm", temporal_threshold=0.6).temporal
    assert method.token_cluster == unmask.method("r2-dllm", token_threshold=0.85).token_cluster


@pytest.mark.parametrize("threshold", [0.7, 0.8])
def test_what_was_calibrated_holds_over_what_was_published(cache: Path, tmp_path: Path, threshold: float) -> None:
    """Also where it is the preset's own value, 0.7, or the published one, and the folder moves."""
    folder = cache / "models--Dream-org--Dream-v0-Instruct-7B" / "snapshots" / COMMIT
    facts = described("dream-7b")
    certified = completed(facts, unmask.method("r2-dllm", temporal_threshold=threshold))
    save(folder / own.FILE, "r2-dllm", certified, facts)
    shutil.copytree(folder, tmp_path / "moved")
    for model in (unmask.load("dream-7b"), unmask.load(tmp_path / "moved")):
        assert used(model, "r2-dllm") == certified.change(max_new_tokens=32)


def test_a_copy_is_another_model(cache: Path, tmp_path: Path) -> None:
    """Whatever its folder is called: it may have been trained further."""
    folder = cache / "models--Dream-org--Dream-v0-Instruct-7B" / "snapshots" / COMMIT
    copy = tmp_path / "Dream-org" / "Dream-v0-Instruct-7B"
    shutil.copytree(folder, copy)
    assert published(folder) is not None
    assert published(copy) is None
    assert used(unmask.load(copy), "r2-dllm") == unmask.method("r2-dllm").change(max_new_tokens=32)
    torch.testing.assert_close(*(next(unmask.load(place).network.parameters()) for place in (folder, copy)))
