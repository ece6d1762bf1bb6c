"""The authors' decoders of block-causal models, replayed: a sample here, all of them where slow tests run."""

import json
from pathlib import Path

import pytest

from tests import block_vectors as vectors

GOLDEN = Path(__file__).parent / "golden_block"
LOGITS = sorted(file.name.removesuffix(".safetensors") for file in (GOLDEN / "logits").glob("*.safetensors"))


def sampled(every: int) -> set[str]:
    """Some vectors of every case."""
    found: dict[str, list[str]] = {}
    for line in (GOLDEN / "trajectories.jsonl").read_text().splitlines():
        vector = json.loads(line)
        found.setdefault(f"{vector['model']} {vector['case']}", []).append(vector["id"])
    return {one for group in found.values() for one in group[::every]}


@pytest.mark.parametrize("name", LOGITS)
def test_logits_and_experts_equal_the_authors(name: str) -> None:
    experts = name.endswith(".moe")
    made = list(vectors.experts(GOLDEN, name.removesuffix(".moe")) if experts else vectors.logits(GOLDEN, name))
    assert made
    assert [key for key, same in made if not same] == []


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_decodes_equal_the_authors(every: int) -> None:
    chosen = sampled(every)
    made = list(vectors.trajectories(GOLDEN, lambda vector: vector["id"] in chosen))
    assert len(made) == len(chosen)
    assert {vector["id"]: wrong for vector, wrong in made if wrong} == {}


def test_batches_equal_the_authors() -> None:
    """But for two, in which rows of a published batch depend on each other, as ours never do.

    The cache within a block is refreshed for all rows at once, and where rows stop one row begins with another token than in
    every other batch and by itself.
    """
    made = {batch["id"].split("/")[1]: same for batch, same in vectors.batches(GOLDEN)}
    assert made == {
        "batch_b8_sub4_t0.9": True,
        "batch_b8_sub4_t0.7_subcache": False,
        "batch_b16_sub4_t0.7_stop": True,
        "batch_b8_sub4_t0.7_stop": False,
    }
