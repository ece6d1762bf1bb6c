"""Block-causal models: cached against recomputed, batch against alone, engine against the reference loop, any order."""

import dataclasses
import random
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch

import unmask
from tests.reference import alone, same_forward
from unmask.context.plan import Query, assemble, entire
from unmask.context.policy import Window, block_causal, clean
from unmask.engine import simple
from unmask.engine.block_steps import BlockSteps
from unmask.engine.engine import Engine, Limits
from unmask.engine.forms import Form
from unmask.engine.generate import answer
from unmask.engine.request import Completion, Request
from unmask.engine.state import RequestState
from unmask.kernels.paged import paged_attention
from unmask.models import attention
from unmask.models.denoiser import Denoiser
from unmask.models.toy import EOS, MASK, toy

FAMILIES = ("sdar", "sdar_moe", "llada2", "llada2_2", "fast_dllm_v2")
METHODS = (
    ("vanilla", {}),
    ("vanilla-official", {}),
    ("fast-dllm", {}),
    ("fast-dllm", {"cache": "none"}),
    ("fast-dllm-official", {}),
    ("streaming-dllm", {}),
    ("r2-dllm", {}),
    ("r2-dllm", {"cache": "prefix", "temperature": 1.0, "top_p": 0.9}),
    ("freedave", {}),
    ("eb-sampler", {}),
    ("localleap", {}),
    ("r2-dllm", {"commit.rule": "entropy", "draft_steps": 3}),
    ("sdar", {}),
    ("sdar-official", {}),
    ("llada2", {}),
    ("llada2.1", {"max_post_steps": 3}),
    ("llada2.1-official", {"max_post_steps": 3}),
    ("llada2.2", {"max_post_steps": 3}),
    ("llada2.2-official", {"max_post_steps": 3}),
    ("llada2.2", {"max_post_steps": 4, "draft_steps": 3, "edit_threshold": 0.6}),
    ("fast-dllm-v2", {"sub_block": 2, "sub_block_cache": True}),
    ("fast-dllm-v2-official", {"sub_block": 2}),
    ("r2-dllm", {"edit_threshold": 0.9, "draft_steps": 3, "max_post_steps": 3}),
)
LENGTHS = (1, 3, 4, 5, 8, 11, 12, 26)


def prompts(seed: int = 0) -> list[tuple[int, ...]]:
    rng = random.Random(seed)
    return [tuple(rng.randrange(EOS) for _ in range(length)) for length in LENGTHS]


def model(family: str, block: int = 4) -> Denoiser:
    """In float64, so that nothing hangs on how a sum is rounded."""
    return toy(family, seed=5, sharpness=3, block=block, dtype=torch.float64)


def requests(family: str) -> list[Request]:
    """Every method in turn over prompts of every length and answers that end anywhere in a block."""
    asked, methods = [], [one for one in METHODS if family != "llada2_2" or "sub_block_cache" not in one[1]]
    for number, prompt in enumerate(prompts() * 3):
        name, options = methods[number % len(methods)]
        method = unmask.method(name, **options)
        sampling = {"temperature": method.temperature or 0.0, "top_p": method.top_p}
        asked.append(Request(prompt=prompt, method=method, max_new_tokens=(9, 12, 14)[number % 3], seed=number, **sampling))
    return asked


def timeless(completion: Completion) -> Completion:
    """Without time, and with the prompt tokens that another request had computed counted as its own."""
    whole = completion.query_tokens + completion.cached_tokens
    return dataclasses.replace(completion, seconds=0.0, query_tokens=whole, cached_tokens=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_engine_equals_the_reference_loop(family: str) -> None:
    """Rows of any prompt length, phase and method in one forward, or few at a time: what the loop makes of each alone."""
    denoiser, asked = model(family), requests(family)
    expected = [alone(denoiser, request) for request in asked]
    assert len({request.method.name for request in asked}) > 6
    assert [timeless(row) for row in answer(denoiser, asked)] == expected
    order = list(range(len(asked)))
    random.Random(1).shuffle(order)
    engine = Engine(denoiser, Limits.fitting(denoiser, asked, rows=3), ahead=True)
    shuffled = engine.generate([asked[number] for number in order])
    assert [timeless(row) for row in shuffled] == [expected[number] for number in order]
    for request, row in zip(asked, expected, strict=True):
        assert len(row.token_ids) == request.max_new_tokens
        assert MASK not in row.token_ids


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["fast-dllm", "fast-dllm-official"])
def test_every_forward_is_the_reference_loops(name: str, family: str) -> None:
    denoiser = model(family)
    for prompt in prompts():
        records: list[unmask.StepRecord] = []
        method = unmask.method(name)
        unmask.generate(denoiser, [prompt], method=method, max_new_tokens=10, observer=records.append)
        forwards = simple.decode(denoiser, prompt, method, max_new_tokens=10).forwards
        assert len(records) == len(forwards)
        assert all(same_forward(record, forward) for record, forward in zip(records, forwards, strict=True))


@pytest.mark.parametrize("family", ["sdar", "sdar_moe", "llada2", "llada2_2"])
@pytest.mark.parametrize("name", ["vanilla", "r2-dllm", "sdar"])
def test_a_cached_decode_is_the_recomputed_one(name: str, family: str) -> None:
    """The same tokens from the same evidence, forward by forward, with a fraction of the query tokens."""
    denoiser = model(family)
    for prompt in prompts():
        sides = []
        for cache in ("block", "none"):
            records: list[unmask.StepRecord] = []
            row = unmask.generate(
                denoiser, [prompt], method=unmask.method(name, cache=cache), max_new_tokens=14, observer=records.append
            )[0]
            sides.append((row, records))
        (kept, kept_records), (whole, whole_records) = sides
        assert (kept.token_ids, kept.forwards) == (whole.token_ids, whole.forwards)
        for one, other in zip(kept_records, whole_records, strict=True):
            torch.testing.assert_close(torch.tensor(one.confidence), torch.tensor(other.confidence), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("block", [4, 8])
def test_cached_logits_equal_recomputed_ones(block: int, family: str) -> None:
    """In fp32: prefill in pieces, a clean query along with the next block's, other rows beside them, drafts."""
    denoiser = toy(family, seed=2, block=block)
    pool = denoiser.pool(32)
    tokens = [tuple(random.Random(row).randrange(EOS) for _ in range(3 * block)) for row in range(3)]
    pages = [pool.take(4) for _ in tokens]

    def final(row: int, begin: int, end: int) -> Query:
        return Query(plan=clean(begin, end, block), tokens=tokens[row][begin:end], start=begin, length=0, pages=pages[row])

    with torch.inference_mode():
        pieces = [final(0, 0, block), final(1, 0, 2 * block)]
        packed, plan = assemble(pieces, device=denoiser.device)
        denoiser.states(packed, plan, pool)
        last = block_causal(block)(_window(2 * block, block), 1)
        asked = []
        for row, begin in ((0, block), (1, None), (2, 0)):
            if begin is not None:
                asked.append(final(row, begin, 2 * block))
            own = tokens[row][2 * block :]
            asked.append(
                Query(plan=last, tokens=own, start=2 * block, length=block, pages=pages[row], follows=begin is not None)
            )
        logits = denoiser.forward(*assemble(asked, device=denoiser.device), pool).split(block)
        for row, made in enumerate(logits):
            expected = denoiser.forward(
                *assemble([entire(tokens[row], 2 * block, 3 * block, block=block)], device=denoiser.device), None
            )
            # Where row i - 1 predicts token i the first is known only where the block before is queried too.
            known = slice(1 if denoiser.spec.lookbehind and row == 1 else 0, None)
            torch.testing.assert_close(made[known], expected[known], atol=1e-5, rtol=1e-5)


def _window(start: int, block: int) -> Window:
    return Window(prompt=start, start=start, end=start + block, total=start + block, origin=0)


@pytest.mark.parametrize("family", ["sdar", "fast_dllm_v2"])
def test_a_long_prompt_comes_in_pieces_that_a_forward_holds(family: str) -> None:
    denoiser, prompt = model(family), tuple(range(20)) * 6
    request = Request(prompt=prompt, method=unmask.method("fast-dllm"), max_new_tokens=8)
    whole = timeless(answer(denoiser, [request])[0])
    limits = dataclasses.replace(Limits.fitting(denoiser, [request]), tokens=50)
    cut = Engine(denoiser, limits).generate([request])[0]
    assert whole.query_tokens == cut.query_tokens
    assert (whole.token_ids, whole.forwards + 2) == (cut.token_ids, cut.forwards)
    with pytest.raises(unmask.RequestError, match="forwards of up to 8 tokens"):
        Engine(denoiser, dataclasses.replace(limits, tokens=7)).submit(request)


def test_nothing_is_spent_that_is_not_needed() -> None:
    """Prefill and a finished block's clean query ride along, and the last block has none."""
    denoiser, lengths = model("sdar"), []
    for prompt in prompts():
        answer_length = 16 - len(prompt) % 4
        row = unmask.generate(denoiser, [prompt], method=unmask.method("vanilla"), max_new_tokens=answer_length)[0]
        if row.finish_reason == "length":
            lengths.append(len(prompt))
            blocks = -(-answer_length // 4)
            # Each token of an earlier block once more, and the prompt's complete blocks.
            assert row.forwards == answer_length
            assert row.query_tokens == 4 * row.forwards + len(prompt) // 4 * 4 + 4 * (blocks - 1)
    assert len(lengths) > 3


@pytest.mark.parametrize("family", FAMILIES)
def test_block_forwards_that_stay_decide_as_packed_ones_do(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser, asked = model(family), requests(family)
    packed = [timeless(row) for row in answer(denoiser, asked)]
    seen, call = Counter[bool](), BlockSteps.__call__

    def counted(self: BlockSteps, form: Form, rows: Sequence[RequestState]) -> Any:
        seen.update(row.turn().clean is not None for row in rows)
        return call(self, form, rows)

    monkeypatch.setattr(Denoiser, "replayable", True)
    monkeypatch.setattr(BlockSteps, "__call__", counted)
    assert [timeless(row) for row in answer(denoiser, asked)] == packed
    assert min(seen[False], seen[True]) > 10  # with the block before, and without


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cache": "dual"}, "cache=dual means nothing"),
        ({"suffix_window": 8}, "a suffix window means nothing"),
        ({"prompt_interval": 2}, "a prompt_interval means nothing"),
    ],
)
def test_named_settings_that_mean_nothing_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(unmask.ConfigError, match=said) as caught:
        unmask.generate(model("sdar"), [[1]], method=unmask.method("r2-dllm", **options), max_new_tokens=8)
    assert "\n" not in str(caught.value)


def test_another_block_length_runs_with_one_warning() -> None:
    with pytest.warns(UserWarning, match="trained with blocks of 4 tokens and runs with 8"):
        one = unmask.generate(model("sdar"), [[1, 2, 3]], method=unmask.method("vanilla", block_length=8), max_new_tokens=13)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other = unmask.generate(model("sdar", block=8), [[1, 2, 3]], method=unmask.method("vanilla"), max_new_tokens=13)[0]
    assert (one.token_ids, one.forwards) == (other.token_ids, other.forwards)


def test_the_exact_cache_is_refused_where_there_is_none() -> None:
    with pytest.raises(unmask.ConfigError, match="cache=block needs a model of block-causal attention"):
        unmask.generate(toy("llada"), [[1]], method=unmask.method("fast-dllm", cache="block"), max_new_tokens=32)


@pytest.mark.parametrize("family", ["sdar", "fast_dllm_v2"])
def test_a_kernels_queries_of_one_block_equal_those_under_a_mask(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way that prefill takes on a GPU, with the kernel's plain twin in its place."""
    denoiser, asked = model(family), requests(family)
    masked = [timeless(row) for row in answer(denoiser, asked)]
    calls = Counter[int]()

    def counted(q_BLHD: torch.Tensor, *rest: object, **page: int) -> torch.Tensor:
        calls[q_BLHD.shape[1]] += 1
        return paged_attention(q_BLHD, *rest, **page)  # type: ignore[arg-type]

    monkeypatch.setattr(attention, "accelerated", lambda x: True)
    monkeypatch.setattr(attention, "paged_attention", counted)
    assert [timeless(row) for row in answer(denoiser, asked)] == masked
    assert max(calls) == 4  # of a block, or of a sub-block by itself


def test_a_model_that_routes_by_blocks_is_asked_about_whole_blocks() -> None:
    method = unmask.method("fast-dllm-v2", sub_block=2, sub_block_cache=True)
    with pytest.raises(unmask.ConfigError, match="chooses experts per block, which a query must hold whole"):
        unmask.generate(model("llada2_2"), [[1]], method=method, max_new_tokens=8)
    with pytest.raises(unmask.ConfigError, match="it runs with no other block_length"):
        unmask.generate(model("llada2_2"), [[1]], method=unmask.method("vanilla", block_length=8), max_new_tokens=8)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_marks_for_moving_tokens_are_no_text_where_no_rule_reads_them(temperature: float) -> None:
    """LLaDA2.2 may predict DELETE and SPLIT anywhere; a published loop that knows neither writes them."""
    sure = toy("llada2_2", seed=3, sharpness=8.0)
    delete, split = sure.spec.marks

    def marks(method: str) -> int:
        made = unmask.generate(sure, [[1, 2, 3], [5], [7, 8]], method=method, max_new_tokens=24, temperature=temperature)
        return sum(token in (delete, split) for one in made for token in one.token_ids)

    assert marks("vanilla-official") > 0
    for method in ("vanilla", "fast-dllm", "r2-dllm", "eb-sampler", "llada2.1", "llada2.2", "llada2.2-official"):
        assert marks(method) == 0, method
