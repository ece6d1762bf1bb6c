"""A commit head's file: found beside its weights, refused beside others, and no part of what the weights are."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import unmask
from unmask.decode.commit_head import FACTS, CommitHead, HeadWeights
from unmask.models import commit_head
from unmask.models.loading import fingerprint

GOLDEN = Path(__file__).parents[1] / "golden" / "models"
WIDTH = 64


def head(fingerprint: str, width: int = WIDTH) -> CommitHead:
    return CommitHead(HeadWeights(torch.rand(4, width + FACTS + 1), torch.rand(4, 5), torch.rand(1, 5)), fingerprint)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(GOLDEN / "llada-seed3", tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_a_head_is_found_beside_its_weights(folder: Path) -> None:
    assert unmask.load(folder).head is None
    before, written = fingerprint(folder), head(fingerprint(folder))
    commit_head.write(written, folder / commit_head.FILE)
    assert fingerprint(folder) == before
    found = unmask.load(folder).head
    assert found is not None
    assert all(torch.equal(*pair) for pair in zip(found.weights, written.weights, strict=True))
    assert repr(found) == f"CommitHead({before})"
    commit_head.write(head(before), folder / commit_head.FILE)
    again = unmask.load(folder).head
    assert again is not None
    assert again.digest != found.digest


def test_a_head_of_other_weights_is_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    commit_head.write(head(fingerprint(GOLDEN / "llada-seed5")), folder / commit_head.FILE)
    with pytest.raises(
        unmask.ModelError, match=r"commit_head.safetensors was trained for the weights \w+, and here are \w+"
    ) as seen:
        unmask.load(folder)
    assert "\n" not in str(seen.value)
    save_file({"first_HX": torch.rand(4, 5)}, folder / commit_head.FILE)
    with pytest.raises(unmask.ModelError, match="not a readable commit head"):
        unmask.load(folder)
    (folder / commit_head.FILE).write_bytes(b"cut short")
    with pytest.raises(unmask.ModelError, match="not a readable commit head"):
        unmask.load(folder)


def test_a_head_of_another_width_is_refused(folder: Path) -> None:
    commit_head.write(head(fingerprint(folder), width=32), folder / commit_head.FILE)
    with pytest.raises(unmask.ModelError, match="32 channels, and the model's have 64"):
        unmask.load(folder)
