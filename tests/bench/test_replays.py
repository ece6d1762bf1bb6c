"""A replay takes exactly the forwards that it replays, in both loops and with any logits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.bench.replays import SCHEDULES, Replay, engine_for, replay, requests
from unmask.bench.workload import SHAPES, shaped
from unmask.engine.generate import answer
from unmask.engine.request import StepRecord
from unmask.errors import ConfigError
from unmask.models.toy import toy


@settings(max_examples=15)
@given(st.integers(2, 64), st.sampled_from(["llada", "dream"]), st.sampled_from(["none", "prefix", "dual"]))
def test_every_count_is_met(forwards: int, family: str, cache: str) -> None:
    model = toy(family)
    asked = requests(model, replay(forwards, cache=cache), batch=2, prompt=5, answer=64)
    assert [row.forwards for row in engine_for(model, asked, rows=2).generate(asked)] == [forwards] * 2


def test_published_63_forwards_are_8_refreshes_and_55_block_forwards() -> None:
    model = toy()
    records: list[StepRecord] = []
    done = answer(model, requests(model, replay(63, cache="dual"), batch=1, prompt=5, answer=256), records.append)
    assert done[0].forwards == 63
    assert [sum(record.refresh == [kind] for record in records) for kind in (True, False)] == [8, 55]
    assert {rule for record in records for row in record.rule for rule in row} == {"replayed"}
    assert model.spec.mask_id not in done[0].token_ids


def test_schedules_fit_their_answers() -> None:
    blocks = {"SDAR": 4, "LLaDA2": 32}
    for family, published in SCHEDULES.items():
        for schedule in published:
            replay(schedule.forwards).rules(256, shifted=False, block=blocks.get(family))


def test_rows_that_wait_take_as_many() -> None:
    model = toy()
    asked = requests(model, replay(9, cache="dual"), batch=3, prompt=4, answer=64)
    assert {row.forwards for row in engine_for(model, asked, rows=2).generate(asked)} == {9}


@pytest.mark.parametrize(
    ("forwards", "suffix", "message"), [(1, None, "cannot take 1"), (65, None, "cannot take 65"), (8, 4, "whole suffix")]
)
def test_impossible_replays_are_refused(forwards: int, suffix: int | None, message: str) -> None:
    from unmask.methods.method import Suffix

    method: Replay = replay(forwards, suffix=None if suffix is None else Suffix(window=suffix))
    with pytest.raises(ConfigError, match=message):
        method.rules(64, shifted=False)


def test_small_shapes_have_the_proportions_of_the_large_ones() -> None:
    for large, small in (
        ("LLaDA-8B", "LLaDA-30M"),
        ("Dream-7B", "Dream-34M"),
        ("SDAR-8B", "SDAR-30M"),
        ("LLaDA2-mini", "LLaDA2-20M"),
    ):
        with torch.device("meta"):
            wide, narrow = (SHAPES[name][0](SHAPES[name][1]).shape for name in (large, small))
        for ratio in (
            lambda shape: shape.mlp / shape.width,
            lambda shape: shape.vocab / shape.width,
            lambda shape: shape.heads / shape.kv_heads,
        ):
            assert ratio(narrow) == pytest.approx(ratio(wide), rel=0.01)


def test_a_shaped_network_is_there_and_always_the_same() -> None:
    first, second = (shaped("LLaDA-30M", torch.device("cpu"), torch.bfloat16) for _ in range(2))
    assert first.dtype == torch.bfloat16
    assert 25e6 < sum(weight.numel() for weight in first.network.parameters()) < 35e6
    for one, other in zip(first.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(one, other)
        assert not one.requires_grad


def test_published_block_causal_shapes_have_their_parameters() -> None:
    for name, least, most in (("SDAR-8B", 8.1e9, 8.3e9), ("LLaDA2-mini", 16e9, 16.5e9)):
        with torch.device("meta"):
            network = SHAPES[name][0](SHAPES[name][1])
        assert least < sum(weight.numel() for weight in network.parameters()) < most


@pytest.mark.parametrize("name", ["SDAR-30M", "LLaDA2-20M"])
def test_a_block_causal_replay_takes_its_forwards_whatever_the_batch(name: str) -> None:
    model = shaped(name, torch.device("cpu"), torch.float32)
    assert model.spec.block is not None
    blocks = 64 // model.spec.block
    asked = requests(model, replay(2 * blocks), batch=2, prompt=model.spec.block * 2, answer=64)
    assert {row.forwards for row in engine_for(model, asked, rows=2).generate(asked)} == {2 * blocks}
    with pytest.raises(ConfigError, match="not as many"):
        replay(2 * blocks + 1).rules(64, shifted=False, block=model.spec.block)
