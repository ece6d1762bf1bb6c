"""Several blocks at once: batch against alone, engine against the reference loop, one block as ever, and what is saved."""

import dataclasses
import random

import pytest
import torch

import unmask
from tests.reference import alone
from unmask.engine.engine import Engine, Limits
from unmask.engine.generate import answer
from unmask.engine.request import Completion, Request
from unmask.methods import TABLE
from unmask.models.denoiser import Denoiser
from unmask.models.toy import EOS, MASK, toy

# Of a method: the options that go with several blocks on a full-attention model, and on a block-causal one.
METHODS = (
    ("vanilla", {"multi_block": 2}),
    ("fast-dllm", {"multi_block": 3, "block_add": 0.25, "cache": "none"}),
    ("fast-dllm", {"multi_block": 3, "block_add": 0.25, "block_active": 0.5}),
    ("fast-dllm", {"factor": 1.0, "multi_block": 8, "block_add": 0.0}),
    ("r2-dllm", {"multi_block": 4, "block_add": 0.1, "cache": "prefix", "temperature": 1.0}),
    ("r2-dllm", {"multi_block": 2, "draft_steps": 3}),
    ("streaming-dllm", {"multi_block": 3}),
    ("fast-dllm", {}),
    ("freedave", {"multi_block": 3, "block_add": 1.0}),
    ("eb-sampler", {"multi_block": 3}),
    ("fast-dllm", {"multi_block": 3, "cache": "none", "edit_threshold": 0.5, "max_post_steps": 3}),
    ("llada2", {"multi_block": 2, "edit_threshold": 0.9, "draft_steps": 3, "max_post_steps": 3}),
    ("sdar", {"multi_block": 2, "block_add": 0.75}),
)
FAMILIES = (("llada", None), ("dream", None), ("sdar", 4), ("llada2", 4))


def model(family: str, block: int | None) -> Denoiser:
    """In float64, so that nothing hangs on how a sum is rounded."""
    options = {} if block is None else {"block": block}
    return toy(family, seed=5, sharpness=3, dtype=torch.float64, **options)


def requests(block: int | None) -> list[Request]:
    rng, asked = random.Random(0), []
    for number in range(2 * len(METHODS)):
        name, options = METHODS[number % len(METHODS)]
        method = unmask.method(name, **options)
        if block is None:
            method = method.change(block_length=8)
        length = rng.choice((1, 3, 5, 8, 11, 20))
        asked.append(
            Request(
                prompt=tuple(rng.randrange(EOS) for _ in range(length)),
                method=method,
                max_new_tokens=32 if block is None else (13, 20)[number % 2],
                seed=number,
                temperature=method.temperature or 0.0,
                fixed={9: 5, 2: EOS} if number % 5 == 0 else {},
            )
        )
    return asked


def timeless(completion: Completion) -> Completion:
    """Without time, and with the prompt tokens that another request had computed counted as its own."""
    whole = completion.query_tokens + completion.cached_tokens
    return dataclasses.replace(completion, seconds=0.0, query_tokens=whole, cached_tokens=0)


@pytest.mark.parametrize("stays", [False, True])
@pytest.mark.parametrize(("family", "block"), FAMILIES)
def test_the_engine_equals_the_reference_loop(
    family: str, block: int | None, stays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All at once, and few at a time with forwards launched ahead, on and off the tables of graphs."""
    monkeypatch.setattr(Denoiser, "replayable", stays)
    denoiser, asked = model(family, block), requests(block)
    expected = [alone(denoiser, request) for request in asked]
    engine = Engine(denoiser, Limits.fitting(denoiser, asked, rows=3), ahead=True)
    for made in (answer(denoiser, asked), engine.generate(asked)):
        assert [timeless(row) for row in made] == expected
    for request, row in zip(asked, expected, strict=True):
        assert len(row.token_ids) == request.max_new_tokens
        assert MASK not in row.token_ids


@pytest.mark.parametrize("name", [name for name in TABLE if not name.startswith("fast-dllm-v2")])
def test_one_block_and_a_block_that_opens_last_are_todays_decoding(name: str) -> None:
    """Without a cache of stale keys the commits of windows whose blocks open one after the other are those of one block."""
    rng, forwards = random.Random(2), 0
    for family, block in (("llada", None), ("sdar", 4)):
        denoiser = model(family, block)
        prompts = [[rng.randrange(EOS) for _ in range(length)] for length in (1, 6, 8)]
        context = {"cache": "none", "block_length": 8, "suffix_window": None} if block is None else {"cache": "block"}
        sides = []
        if unmask.method(name).edit is not None or unmask.method(name).commit.moves:
            continue  # a block that is complete and still rewritten lets the next one open
        for options in ({}, {"multi_block": 1}, {"multi_block": 3, "block_add": 1.0}):
            method = unmask.method(name, **context, **options)
            rows = unmask.generate(denoiser, prompts, method=method, max_new_tokens=24)
            sides.append([(row.token_ids, row.forwards) for row in rows])
        assert sides[0] == sides[1]
        ours, wide = sides[0], sides[2]
        assert [row[0] for row in wide] == [row[0] for row in ours]
        # Drafts run into the next blocks.
        assert all(row[1] <= other[1] for row, other in zip(wide, ours, strict=True))
        forwards += sum(row[1] for row in ours)
    assert forwards > 0 or name.startswith("llada2.")


@pytest.mark.parametrize(("family", "block"), FAMILIES[::2])
def test_several_blocks_need_fewer_forwards_and_commit_every_position_once(family: str, block: int | None) -> None:
    denoiser, rng = model(family, block), random.Random(4)
    prompts = [[rng.randrange(EOS) for _ in range(length)] for length in (3, 8, 15)]
    context = {} if block is not None else {"cache": "none", "block_length": 8}
    counts = []
    for multi in (1, 3):
        records: list[unmask.StepRecord] = []
        method = unmask.method("fast-dllm", threshold=0.7, multi_block=multi, stop_at_eos=None, **context)
        rows = unmask.generate(denoiser, prompts, method=method, max_new_tokens=24, observer=records.append)
        for index, row in enumerate(rows):
            mine = [record.committed[record.rows.index(index)] for record in records if index in record.rows]
            places = [place for committed in mine for place in committed]
            assert len(places) == len(set(places))
            assert set(range(len(prompts[index]), len(prompts[index]) + 24)) <= set(places)
            assert len(mine) == row.forwards <= 24 + 4  # a block on a grid reaches behind the answer
        counts.append(sum(row.forwards for row in rows))
    assert counts[1] < counts[0]


def test_what_cannot_go_together_is_refused_in_one_line() -> None:
    with pytest.raises(unmask.ConfigError, match="sub_blocks and several blocks at once"):
        unmask.method("fast-dllm-v2", multi_block=2)
    dream = unmask.method("fast-dllm-official", multi_block=2, block_length=8)
    with pytest.raises(unmask.ConfigError, match="the published Dream loop decodes one block after the other"):
        unmask.generate(model("dream", None), [[1]], method=dream, max_new_tokens=16)
    with pytest.raises(unmask.ConfigError, match="several blocks at once need a model whose row i predicts token i"):
        unmask.generate(model("fast_dllm_v2", 4), [[1]], method=unmask.method("fast-dllm", multi_block=2), max_new_tokens=16)
