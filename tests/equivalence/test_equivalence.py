"""Classes of decodes that must be equal, over the whole product of methods, contexts and model families."""

import random

import pytest
import torch

import unmask
from unmask.context.plan import Query, assemble
from unmask.context.policy import Window, policy
from unmask.methods import TABLE
from unmask.models.toy import EOS, MASK, toy

FAMILIES = ("llada", "dream")
CACHES = ("none", "prefix", "dual")
SUFFIXES = (None, 6)


def prompts(count: int, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(EOS) for _ in range(rng.randint(1, 24))] for _ in range(count)]


def told(completion: unmask.Completion) -> tuple[list[int], int, int]:
    return completion.token_ids, completion.forwards, completion.query_tokens


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("name", TABLE)
def test_a_row_does_not_depend_on_its_batch(name: str, cache: str, suffix: int | None, family: str) -> None:
    """Any method, any context, both families, mixed lengths: batch == single, and every answer is complete."""
    model = toy(family, seed=5, sharpness=3)
    method = unmask.method(name, block_length=16, cache=cache, suffix_window=suffix)
    mixed = [[3], *prompts(3)]
    batch = unmask.generate(model, mixed, method=method, max_new_tokens=48)
    for prompt, row in zip(mixed, batch, strict=True):
        alone = unmask.generate(model, [prompt], method=method, max_new_tokens=48)[0]
        assert told(row) == told(alone)
        assert len(row.token_ids) == 48
        assert MASK not in row.token_ids


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vanilla", {}),
        ("vanilla", {"cache": "dual"}),
        ("vanilla", {"steps": 24, "cache": "prefix"}),
        ("vanilla", {"schedule": "timestep", "score": "margin"}),
        ("fast-dllm", {}),
        ("fast-dllm", {"factor": 1.0, "cache": "none"}),
        ("fast-dllm", {"cache": "prefix", "suffix_window": 4}),
        ("streaming-dllm", {"alpha": 0.4}),
        ("r2-dllm", {"temporal_metric": "ave"}),
        ("r2-dllm", {"temporal_metric": "max", "cache": "none"}),
        ("r2-dllm", {"temperature": 1.0, "top_p": 0.9}),
        ("r2-dllm-official", {}),
        ("streaming-dllm-official", {"cache": "dual"}),
    ],
)
def test_drafts_do_not_change_the_answer(name: str, options: dict[str, object], family: str) -> None:
    """FreeDave == its base, in fp64, for every number of drafts; and never more forwards."""
    saved = 0
    for sharpness in (1.0, 4.0):
        model = toy(family, seed=3, sharpness=sharpness, dtype=torch.float64)
        base = unmask.generate(model, prompts(4), method=unmask.method(name, block_length=16, **options), max_new_tokens=32)
        for drafts in (1, 2, 4, 8):
            method = unmask.method(name, block_length=16, draft_steps=drafts, **options)
            rows = unmask.generate(model, prompts(4), method=method, max_new_tokens=32)
            assert [row.token_ids for row in rows] == [row.token_ids for row in base]
            assert all(row.forwards <= alone.forwards for row, alone in zip(rows, base, strict=True))
            saved += sum(alone.forwards - row.forwards for row, alone in zip(rows, base, strict=True))
    assert saved > 0


def test_published_freedave_over_one_token_a_step_equals_it() -> None:
    """With a static base subset matching is exact matching."""
    model = toy("llada", seed=3, sharpness=4, dtype=torch.float64)
    base = unmask.method("vanilla-official", cache="dual", block_length=16)
    drafted = unmask.method("freedave-official", block_length=16)
    one = unmask.generate(model, prompts(3), method=base, max_new_tokens=32)
    other = unmask.generate(model, prompts(3), method=drafted, max_new_tokens=32)
    assert [row.token_ids for row in one] == [row.token_ids for row in other]
    assert sum(row.forwards for row in other) < sum(row.forwards for row in one)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_window_as_long_as_the_suffix_prunes_nothing(family: str) -> None:
    model = toy(family, seed=1, sharpness=2)
    for cache in CACHES:
        whole = unmask.method("r2-dllm", cache=cache, block_length=16)
        wide = unmask.method("r2-dllm", cache=cache, block_length=16, suffix_window=64)
        one = unmask.generate(model, prompts(3), method=whole, max_new_tokens=48)
        other = unmask.generate(model, prompts(3), method=wide, max_new_tokens=48)
        assert [told(row) for row in one] == [told(row) for row in other]


@pytest.mark.parametrize("family", FAMILIES)
def test_prefix_cache_of_a_first_block_is_exact_while_nothing_has_changed(family: str) -> None:
    """One commit after the refresh, the keys of an untouched prompt are only stale in layers above the first.

    So the cached forward is close to the exact one and not equal to it, which shows that the cache is really used.
    """
    model = toy(family, seed=2, dtype=torch.float64)
    records: dict[str, list[unmask.StepRecord]] = {"none": [], "prefix": []}
    for cache, seen in records.items():
        method = unmask.method("vanilla", cache=cache, block_length=16)
        unmask.generate(model, prompts(1), method=method, max_new_tokens=16, observer=seen.append)
    prompt = len(prompts(1)[0])
    lookbehind = model.spec.lookbehind
    assert len(records["none"][1].query_tokens[0]) == prompt + 16
    assert len(records["prefix"][1].query_tokens[0]) == 16 + lookbehind
    assert records["none"][0].committed == records["prefix"][0].committed


def test_seeds_make_samples_and_nothing_else_does() -> None:
    """A sample is a function of prompt and seed: not of the batch, its order, the number of drafts or the call."""
    model = toy("llada", seed=4)
    options = {"method": unmask.method("fast-dllm", block_length=16), "temperature": 1.0, "max_new_tokens": 32}
    prompt = prompts(1)[0]
    first, second, again = unmask.generate(model, [prompt] * 3, seed=[1, 2, 1], **options)
    assert first.token_ids == again.token_ids != second.token_ids
    assert unmask.generate(model, [prompts(2)[1], prompt], seed=[9, 2], **options)[1].token_ids == second.token_ids


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lookbehind", [0, 1])
def test_packed_queries_do_not_hear_each_other(family: str, lookbehind: int) -> None:
    """Logits of three block forwards behind each other, in fp64: those of each alone, a query's first token included."""
    model = toy(family, seed=2, dtype=torch.float64)
    pool = model.pool(9)
    asked = []
    for prompt in ([1, 2, 3], [4] * 20, [5] * 7):
        tokens, begin, pages = [*prompt, *[MASK] * 8], len(prompt), pool.take(3)
        for age in (0, 1):
            window = Window(prompt=begin, start=begin, end=begin + 4, total=len(tokens), lookbehind=lookbehind)
            plan = policy("dual", None)(window, age)
            query = Query(plan=plan, tokens=tokens[plan.query], start=begin, length=4, pages=pages)
            alone = model.forward(*assemble([query], device=model.device), pool)
        asked.append((query, alone))
    for order in (asked, asked[::-1]):
        together = model.forward(*assemble([query for query, _ in order], device=model.device), pool)
        torch.testing.assert_close(together, torch.cat([alone for _, alone in order]))
