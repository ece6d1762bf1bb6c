"""What is known of a model before it is loaded."""

import json
from pathlib import Path

import pytest
import torch

import unmask
from tests.models.test_shelf import COMMIT, checkpoint
from tests.models.test_shelf import cache as cache
from unmask.engine.catalogue import document, entries, entry
from unmask.engine.own import DEFAULT_METHOD
from unmask.models.names import EMBEDDED
from unmask.models.shelf import shelf

CPU = torch.device("cpu")


def test_every_model_with_a_name_is_there() -> None:
    shown = entries()
    assert [one.name for one in shown] == [*EMBEDDED, *shelf()]
    for one in shown:
        assert one.source
        row = document(one, CPU, whole=True)
        assert json.loads(json.dumps(row)) == row
        for fact in one.facts:
            assert (fact.value == "unknown") == (not fact.source)


def test_the_embedded_models_are_from_this_package() -> None:
    one = entry("unmask-tiny")
    assert (one.source, one.hub_id, one.family) == ("this package", None, "llada")
    assert one.method == "fast-dllm"
    threshold = next(part for part in one.settings if part[:2] == ("fast-dllm", "commit.threshold"))
    assert (threshold.value, threshold.replaced, threshold.source) == (0.99, 0.9, "unmask.json")


def test_a_row_of_the_models_longest_is_what_it_needs() -> None:
    model = entry("unmask-tiny")
    assert model.needs(["fp32"], CPU)["fp32"].keys_values == 2 * 4 * 160 * (512 + 16) * 4


def test_what_is_published_says_what_it_replaces() -> None:
    settings = {part[:2]: part for part in entry("dream-7b").settings}
    part = settings["r2-dllm", "temporal.threshold"]
    assert (part.value, part.replaced) == (0.8, 0.7)
    assert "table 8" in part.source
    assert entry("dream-7b").method == DEFAULT_METHOD


@pytest.mark.parametrize("name", ["sdar-1.7b", "JetLM/SDAR-1.7B-Chat"])
def test_sampling_numbers_are_shown_and_never_applied(cache: Path, name: str) -> None:
    assert entry(name).sampling == {}
    folder = cache / "models--JetLM--SDAR-1.7B-Chat" / "snapshots" / COMMIT
    (folder / "generation_config.json").write_text('{"temperature": 0.6, "top_k": 20, "eos_token_id": [22]}')
    assert entry(name).sampling == {"temperature": 0.6, "top_k": 20}
    method = unmask.generate(unmask.load(name), [[1, 2]], max_new_tokens=8)[0].method
    assert (method.temperature, method.top_k) == (None, None)


def test_a_folder_is_its_own_source(tmp_path: Path) -> None:
    place = checkpoint(tmp_path / "mine", "sdar_moe")
    one = entry(str(place))
    assert (one.source, one.family, one.licence) == (str(place), "sdar", "unknown")
    assert {fact.name: fact.value for fact in one.facts}["experts"] == "4 of 16 channels, 2 for each token"


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(unmask.ModelError, match="did you mean 'llada-8b'"):
        entry("llada8b")
    with pytest.raises(unmask.ModelError, match="nothing is known of someone/model"):
        entry("someone/model")


def test_what_is_unknown_says_so() -> None:
    row = document(entry("stable-diffcoder-8b"), CPU, whole=True)
    assert (row["memory"], row["fits"], row["context"], row["parameters"]) == ("unknown", "unknown", "unknown", 8 * 10**9)
