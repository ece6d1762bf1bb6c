"""Requests that begin alike share keys and values, and nothing of their answers changes by it."""

import dataclasses
import random

import pytest
import torch

import unmask
from tests.reference import alone
from unmask.context.plan import ForwardPlan
from unmask.context.pool import PAGE, KVPool
from unmask.context.prefix_cache import Lease, PrefixCache
from unmask.engine.engine import Engine, Limits
from unmask.engine.request import Completion, Progress, Request
from unmask.methods import TABLE
from unmask.models.denoiser import Denoiser
from unmask.models.toy import EOS, MASK, toy

SYSTEM = 1024  # tokens of a system prompt


def model(family: str = "sdar", block: int | None = 4, *, seed: int = 5) -> Denoiser:
    made = toy(family, seed=seed, sharpness=3, block=block)
    made.network.spec = dataclasses.replace(made.spec, max_length=2048)
    return made


def words(count: int, seed: int) -> tuple[int, ...]:
    rng = random.Random(seed)
    return tuple(rng.randrange(EOS) for _ in range(count))


def asking(prompt: tuple[int, ...], method: str = "fast-dllm", **options: object) -> Request:
    return Request(prompt=prompt, method=unmask.method(method), **({"max_new_tokens": 16} | options))  # type: ignore[arg-type]


def same(completion: Completion, expected: Completion) -> bool:
    """Equal in all but time, and in what a shared beginning saves."""
    saved = {"seconds": 0.0, "query_tokens": 0, "cached_tokens": 0}
    return dataclasses.replace(completion, **saved) == dataclasses.replace(expected, **saved)  # type: ignore[arg-type]


def run(engine: Engine, requests: list[Request], *, watch: bool = False) -> list[list[Progress]]:
    """All requests at once; each one's progress."""
    numbers = [engine.submit(request, watch=watch) for request in requests]
    seen: dict[int, list[Progress]] = {number: [] for number in numbers}
    while engine.busy:
        for progress in engine.step():
            seen[progress.number].append(progress)
    return [seen[number] for number in numbers]


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """No forward writes to a page that more than its row holds, and no mask is published; the pages published."""
    published: list[int] = []
    states, publish = Denoiser.states, PrefixCache.publish

    def writing(self: Denoiser, tokens_N: torch.Tensor, plan: ForwardPlan, pool: KVPool | None) -> torch.Tensor:
        assert pool is not None
        pages = set((plan.slots_M // PAGE).tolist()) - {pool.scratch}
        assert all(pool.holders(page) == 1 for page in pages)
        return states(self, tokens_N, plan, pool)

    def publishing(self: PrefixCache, lease: Lease, tokens: list[int], end: int) -> None:
        assert MASK not in tokens[:end]
        publish(self, lease, tokens, end)
        published.append(lease.published)

    monkeypatch.setattr(Denoiser, "states", writing)
    monkeypatch.setattr(PrefixCache, "publish", publishing)
    return published


@pytest.mark.parametrize("block", [4, 32])
def test_the_second_request_computes_what_is_its_own(block: int, guarded: list[int]) -> None:
    """A system prompt of 1,024 tokens, 32 own ones: the second's first forward holds those, a page and a block at most."""
    denoiser = model(block=block)
    system = words(SYSTEM, 0)
    engine = Engine(denoiser)
    for seed in (1, 2):
        (progress,) = run(engine, [asking(system + words(32, seed), max_new_tokens=64)], watch=True)
        completion = progress[-1].completion
        assert completion is not None
        first = next(made.record for made in progress if made.record and made.record.committed[0])
        before = [made.record for made in progress if made.record and made.record.forward <= first.forward]
        queried = sum(len(record.query_tokens[0]) for record in before if record)
        assert completion.cached_tokens == (SYSTEM if seed == 2 else 0)
        assert (queried <= 32 + PAGE + block) == (seed == 2)
        assert same(completion, alone(denoiser, asking(system + words(32, seed), max_new_tokens=64)))


def test_64_together_take_less_than_a_third_of_the_query_tokens() -> None:
    denoiser, system = model(), words(SYSTEM, 0)
    requests = [asking(system + words(32, seed), max_new_tokens=64) for seed in range(1, 65)]
    spent, answers = [], []
    for prefix_cache in (True, False):
        done = Engine(denoiser, Limits(prefix_cache=prefix_cache)).generate(requests)
        spent.append(sum(completion.query_tokens for completion in done))
        answers.append([(completion.token_ids, completion.forwards) for completion in done])
        assert sum(completion.cached_tokens > 0 for completion in done) == (63 if prefix_cache else 0)
    assert spent[0] < spent[1] / 3
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("family", "ahead", "stays"),
    [
        ("sdar", True, True),
        ("sdar_moe", False, False),
        ("llada2", True, False),
        ("fast_dllm_v2", True, True),
        ("fast_dllm_v2", False, False),
    ],
)
def test_any_order_any_memory_any_method_gives_each_its_own_answer(
    family: str, ahead: bool, stays: bool, guarded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beginnings shared in whole or part, answers sent back as the next turn, little memory: each equals it alone."""
    monkeypatch.setattr(Denoiser, "replayable", stays)
    rng = random.Random(3)
    denoiser = model(family, rng.choice([4, 8]))
    shared = words(80, 0)
    requests = [
        asking(
            shared[: rng.choice([0, 16, 37, 64, 80])] + words(rng.choice([1, 3, 20]), rng.randrange(4)),
            rng.choice([name for name in TABLE if not name.endswith("-official")]),
            max_new_tokens=rng.choice([7, 24]),
            temperature=rng.choice([0.0, 1.0]),
            seed=rng.randrange(3),
            cache_scope=rng.choice(["", "key"]),
        )
        for _ in range(24)
    ]
    expected = [alone(denoiser, request) for request in requests]
    requests += [  # the next turn of each chat
        dataclasses.replace(request, prompt=request.prompt + tuple(answer.token_ids[: answer.tokens]) + words(3, 9))
        for request, answer in zip(requests, expected, strict=True)
    ]
    expected += [alone(denoiser, request) for request in requests[24:]]
    order = rng.sample(range(48), 48)
    engine = Engine(denoiser, Limits(memory=16 * denoiser.page_bytes, rows=5, tokens=64), ahead=ahead)
    cached = 0
    for begin in range(0, 48, 12):
        chosen = order[begin : begin + 12]
        for place, progress in zip(chosen, run(engine, [requests[place] for place in chosen]), strict=True):
            completion = progress[-1].completion
            assert completion is not None
            assert completion.token_ids == expected[place].token_ids
            if len(requests[place].prompt) + 8 <= 64:  # a longer prompt comes in parts, which may be fewer now
                assert same(completion, expected[place])
            cached += completion.cached_tokens
        assert engine.load[:3] == (0, 0, 0)
    assert cached > 0
    assert guarded


def test_memory_stays_within_the_pool_and_what_left_is_computed_again() -> None:
    """Ten times more distinct prompts than fit, and then the first again."""
    denoiser = model()
    engine = Engine(denoiser, Limits(memory=12 * denoiser.page_bytes, rows=3))
    prompts = [words(50, seed) for seed in range(30)]
    for prompt in [*prompts, prompts[0], prompts[0]]:
        (done,) = engine.generate([asking(prompt)])
        assert engine.load.all_pages == 12
        assert 0 <= engine.load.kept_pages <= 12
        assert same(done, alone(denoiser, asking(prompt)))
    assert done.cached_tokens == 48


def test_the_next_turn_of_a_chat_finds_prompt_and_answer() -> None:
    denoiser = model()
    engine = Engine(denoiser)
    first = asking(words(30, 0), max_new_tokens=64)
    (done,) = engine.generate([first])
    assert done.tokens == 64
    turn = asking(first.prompt + tuple(done.token_ids) + words(9, 1))
    (answer,) = engine.generate([turn])
    assert answer.cached_tokens == 80  # of 94: the last block of the answer has had no clean forward
    assert same(answer, alone(denoiser, turn))


def test_samples_of_one_prompt_share_it_and_nothing_else() -> None:
    denoiser = model()
    requests = [asking(words(40, 0), temperature=1.0, seed=seed) for seed in range(5)]
    done = Engine(denoiser).generate(requests)
    assert [completion.cached_tokens for completion in done] == [0, 32, 32, 32, 32]
    assert len({tuple(completion.token_ids) for completion in done}) == 5
    for request, completion in zip(requests, done, strict=True):
        assert same(completion, alone(denoiser, request))


def test_a_waiting_request_computes_for_itself_where_the_other_is_aborted() -> None:
    denoiser = model()
    engine = Engine(denoiser, Limits(tokens=16))  # so a prompt takes several forwards
    first, second = (asking(words(100, 0) + words(5, seed)) for seed in (1, 2))
    gone, number = engine.submit(first), engine.submit(second)
    engine.step()
    engine.step()
    assert engine.load[:2] == (1, 1)
    engine.abort(gone)
    done = [progress.completion for _ in range(100) if engine.busy for progress in engine.step() if progress.completion]
    assert number not in engine
    assert done[0] is not None
    assert done[0].cached_tokens == 32  # of the two forwards before
    assert done[0].token_ids == alone(denoiser, second).token_ids


@pytest.mark.parametrize(
    ("family", "method", "limits"),
    [
        ("llada", "fast-dllm", Limits()),
        ("dream", "r2-dllm", Limits()),
        ("sdar", "fast-dllm", Limits(prefix_cache=False)),
        ("sdar", "vanilla-official", Limits()),  # takes the published forwards
    ],
)
def test_nothing_is_shared_by_full_attention_published_loops_or_where_it_is_off(
    family: str, method: str, limits: Limits
) -> None:
    denoiser = model(family, 4 if family == "sdar" else None)
    engine = Engine(denoiser, limits)
    request = asking(words(64, 0), method, max_new_tokens=32)
    for _ in range(2):
        (done,) = engine.generate([request])
        assert done.cached_tokens == 0
        assert same(done, alone(denoiser, request))
        assert done.query_tokens == alone(denoiser, request).query_tokens
    assert engine.load.kept_pages == 0


def test_another_scope_another_block_and_no_cache_share_nothing() -> None:
    denoiser, prompt = model(), words(64, 0)
    engine = Engine(denoiser)
    engine.generate([asking(prompt)])
    method = unmask.method("fast-dllm", cache="none")
    assert engine.generate([asking(prompt, cache_scope="another")])[0].cached_tokens == 0
    assert engine.generate([dataclasses.replace(asking(prompt), method=method)])[0].cached_tokens == 0
    other = dataclasses.replace(asking(prompt), method=unmask.method("fast-dllm", block_length=8))
    with pytest.warns(UserWarning, match="trained with blocks of 4"):
        (done,) = engine.generate([other])
    assert done.cached_tokens == 0
    assert engine.generate([asking(prompt)])[0].cached_tokens == 64
