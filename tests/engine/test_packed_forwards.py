"""Packed forwards in buckets decide as those launched kernel by kernel do; on the CPU a replay is a plain call."""

import dataclasses
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

import unmask
from tests.grammar.toys import held
from tests.reference import alone, as_alone, timeless
from tests.together import attend_together
from unmask.context.buckets import SIZES, TILE, WHOLE, Bucket, Numbers, buckets
from unmask.context.plan import Query, entire
from unmask.context.policy import clean
from unmask.engine import graphs
from unmask.engine.engine import Engine, Limits
from unmask.engine.generate import answer
from unmask.engine.packed_forwards import PackedForwards
from unmask.engine.request import Request
from unmask.grammar.regex import whole
from unmask.models.denoiser import Denoiser
from unmask.models.toy import EOS, toy

# What a packed forward of a bidirectional model is: a refresh, one behind a kept prompt, block and suffix, everything.
METHODS: list[tuple[str, dict[str, Any]]] = [
    (name, {"block_length": 8, **context})
    for name in ("fast-dllm", "r2-dllm", "streaming-dllm", "freedave", "eb-sampler")
    for context in (
        {"cache": "dual"},
        {"cache": "dual", "prompt_interval": 2},
        {"cache": "prefix", "suffix_window": 5},
        {"cache": "prefix", "draft_steps": 3},
        {"cache": "none"},
    )
]
METHODS += [(name, {"block_length": 8}) for name in ("vanilla-official", "fast-dllm-official", "streaming-dllm-official")]
GRID: list[tuple[str, dict[str, Any]]] = [
    ("vanilla", {}),
    ("fast-dllm-official", {}),
    ("r2-dllm", {"draft_steps": 3}),
    ("freedave", {}),
    ("fast-dllm", {"multi_block": 2, "block_add": 0.5}),
    ("llada2.1", {"max_post_steps": 3}),
]


def model(family: str) -> Denoiser:
    """In float64, so that nothing hangs on how a sum is rounded."""
    return toy(family, seed=5, sharpness=3, dtype=torch.float64)


def requests(count: int, methods: Sequence[tuple[str, dict[str, Any]]]) -> list[Request]:
    """Of methods in turn; short and long prompts and answers, every third one sampled."""
    rng = random.Random(count)
    named = [unmask.method(name, **options) for name, options in methods]
    return [
        Request(
            prompt=tuple(rng.randrange(EOS) for _ in range(rng.choice([1, 2, 9, 30, 70]))),
            method=named[number % len(named)],
            max_new_tokens=rng.choice([16, 24]),
            temperature=float(number % 3 == 2) if named[number % len(named)].parity != "official" else 0.0,
            seed=number,
        )
        for number in range(count)
    ]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Counter[int | None]:
    """Forwards by tile; None: launched kernel by kernel."""
    attend_together(monkeypatch)
    monkeypatch.setattr(Denoiser, "replayable", True)
    found: Counter[int | None] = Counter()
    replayed, launched = PackedForwards.replayed, PackedForwards.launched

    def in_bucket(self: PackedForwards, tile: int | None, *given: Any) -> Any:
        forward = replayed(self, tile, *given)
        found[tile] += forward is not None
        return forward

    def alone(self: PackedForwards, *given: Any) -> Any:
        found[None] += 1
        return launched(self, *given)

    monkeypatch.setattr(PackedForwards, "replayed", in_bucket)
    monkeypatch.setattr(PackedForwards, "launched", alone)
    return found


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_answers_are_those_of_the_reference(family: str, made: Counter[int | None], monkeypatch: pytest.MonkeyPatch) -> None:
    """All kinds of contexts in one engine, whose rows come and go."""
    as_alone(Engine(model(family), Limits(rows=6, tokens=700)), requests(2 * len(METHODS), METHODS), monkeypatch)
    assert min(made[WHOLE], made[TILE]) > 20
    assert made[None] == 0


@pytest.mark.parametrize(("family", "methods"), [("dream", METHODS), ("sdar", GRID)])
def test_every_record_is_that_of_a_forward_launched_kernel_by_kernel(
    family: str, methods: list[tuple[str, dict[str, Any]]], made: Counter[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """But the last digits of a confidence; all rows in one batch."""
    denoiser, asked = model(family), requests(len(methods), methods)
    replayed: list[unmask.StepRecord] = []
    launched: list[unmask.StepRecord] = []
    answers = answer(denoiser, asked, replayed.append)
    assert made[None] == 0
    monkeypatch.setattr(Denoiser, "replayable", False)
    assert [timeless(row) for row in answers] == [timeless(row) for row in answer(denoiser, asked, launched.append)]
    for one, other in zip(replayed, launched, strict=True):
        assert dataclasses.replace(one, confidence=[]) == dataclasses.replace(other, confidence=[])
        for mine, theirs in zip(one.confidence, other.confidence, strict=True):
            assert mine == pytest.approx(theirs, abs=1e-9)


def test_nothing_is_committed_before_all_is_said(made: Counter[int | None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory fails where the windows of a second form are scored: both are tried again, and all answers are right."""
    methods = [("fast-dllm", {"block_length": length, "cache": "none"}) for length in (4, 8)]  # the last one comes first
    project, failed = Denoiser.project, [0]

    def failing(self: Denoiser, hidden_RC: torch.Tensor) -> torch.Tensor:
        failed[0] += len(hidden_RC) % 8 == 4
        if failed[0] == 1 and len(hidden_RC) % 8 == 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return project(self, hidden_RC)

    asked = requests(2, methods)
    engine = Engine(model("llada"), Limits(rows=2))
    monkeypatch.setattr(Denoiser, "project", failing)
    with pytest.warns(UserWarning, match="did not fit into the device's memory"):
        as_alone(engine, asked, monkeypatch)
    assert made[WHOLE] > 2


@pytest.mark.parametrize("family", ["sdar", "sdar_moe", "llada2", "llada2_2", "fast_dllm_v2"])
def test_so_they_are_of_block_causal_models(family: str, made: Counter[int | None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts of many blocks, and in parts where the budget is small; drafts, and several blocks at once."""
    denoiser, asked = (
        model(family),
        requests(18, [one for one in GRID if family != "fast_dllm_v2" or "multi_block" not in one[1]]),
    )
    as_alone(Engine(denoiser, Limits(rows=5)), asked, monkeypatch)
    assert made[4] > 5
    made.clear()
    cut = Engine(denoiser, Limits(rows=5, tokens=64)).generate(asked)
    assert made[4] > 5
    monkeypatch.setattr(Denoiser, "replayable", False)
    assert [row.token_ids for row in cut] == [alone(denoiser, request).token_ids for request in asked]


def test_answers_held_to_a_grammar_are_replayed_too(made: Counter[int | None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Their block forwards are packed ones, because a graph holds no constraint: the network of them is replayed."""
    method = unmask.method("r2-dllm", block_length=8, cache="dual", draft_steps=3)
    asked = [
        Request(prompt=(1,) * (1 + 9 * place), method=method, max_new_tokens=16, constraint=held(whole("[ab01]*1"), 16))
        for place in range(4)
    ]
    as_alone(Engine(model("llada"), Limits(rows=4)), asked, monkeypatch)
    assert made[TILE] > made[WHOLE] > 0


def test_what_no_bucket_holds_is_launched_kernel_by_kernel(made: Counter[int | None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Forwards longer than the largest, whole sequences without a call for all lengths, and the parts of a block."""
    monkeypatch.setattr("unmask.context.buckets.SIZES", (64,))
    asked = requests(6, METHODS[:1])
    as_alone(Engine(model("llada"), Limits(rows=3)), asked, monkeypatch)
    assert min(made[WHOLE], made[None]) > 0
    made.clear()
    parts = [("fast-dllm-v2", {"sub_block": 2, "sub_block_cache": True})]
    as_alone(Engine(model("fast_dllm_v2"), Limits(rows=3)), requests(4, parts), monkeypatch)
    assert min(made[4], made[None]) > 0
    made.clear()
    monkeypatch.setattr("unmask.kernels.varlen.together", lambda x: False)
    as_alone(Engine(model("llada"), Limits(rows=3)), asked, monkeypatch)
    assert +made == {None: made[None]}


def test_a_network_is_captured_at_its_second_use_and_fails_softly(
    made: Counter[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every other capture fails; after a warm-up none is made any more."""
    tried = [0]

    def capture(compute: graphs.Compute) -> graphs.Compute:
        tried[0] += 1
        if tried[0] % 2:
            raise torch.OutOfMemoryError("no room for a graph")
        return lambda: compute()

    monkeypatch.setattr(graphs, "capturing", lambda device: capture)
    asked = requests(8, METHODS[4:5])
    engine = Engine(model("llada"), Limits(rows=4))
    with pytest.warns(UserWarning, match="could not be captured"):
        engine.warm_up(asked)
    warm = tried[0]
    assert warm >= len(SIZES)
    assert engine.load.fallbacks["graph"] == (warm + 1) // 2
    as_alone(engine, asked, monkeypatch)
    assert tried[0] == warm
    assert made[WHOLE] > 5


def asked_of(lengths: Sequence[int]) -> list[Query]:
    """Rows of those lengths that remember nothing, of which the last four tokens are predicted."""
    return [entire([token % EOS for token in range(length)], length - 4, length) for length in lengths]


def states_of(denoiser: Denoiser, queries: Sequence[Query], size: int) -> torch.Tensor:
    """The states that a bucket of that many tokens makes of them."""
    bucket = next(bucket for bucket in buckets(WHOLE) if bucket.tokens == size)
    numbers = Numbers.asked(queries, [1] * len(queries), WHOLE, 1)
    assert bucket.holds(numbers)
    tokens_N, plan = bucket.plan(torch.tensor(bucket.filled(numbers, 1)), torch.tensor([[0], [1]]))
    return denoiser.states(tokens_N, plan, denoiser.pool(1))[: len(numbers.read)]


def test_a_row_gets_the_same_bits_alone_and_among_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one bucket; whatever stands in its other places."""
    attend_together(monkeypatch)
    denoiser = toy("dream", seed=5)
    with torch.inference_mode():
        among = states_of(denoiser, asked_of([9, 30, 17]), 64)
        assert torch.equal(states_of(denoiser, asked_of([30]), 64), among[4:8])
        assert torch.equal(states_of(denoiser, asked_of([30, 5]), 64)[:4], among[4:8])


@pytest.mark.parametrize(
    ("queries", "tile", "size"),
    [
        (lambda: asked_of([60]), WHOLE, 64),
        (lambda: asked_of([64]), WHOLE, 64),
        (lambda: asked_of([64, 65]), WHOLE, 192),
        (lambda: asked_of([4] * 5), WHOLE, 128),  # more sequences than there are starts
        (lambda: [Query(clean(8, 40, 8), [1] * 32, 8, 0, pages=(0, 1, 2))] * 2, 8, 64),
        (lambda: [Query(clean(8, 40, 8), [1] * 32, 8, 0, pages=(0, 1, 2))] * 3, 8, 128),
    ],
)
def test_the_smallest_bucket_that_holds_a_forward(queries: Callable[[], list[Query]], tile: int, size: int) -> None:
    asked = queries()
    numbers = Numbers.asked(asked, [0] * len(asked), tile, 1)
    assert next(bucket.tokens for bucket in buckets(tile) if bucket.holds(numbers)) == size


def test_buckets_are_whole_tiles() -> None:
    assert {bucket.tokens % 24 for bucket in buckets(24)} == {0}
    assert [bucket.tokens for bucket in buckets(96)][:2] == [96, 192]
    assert Bucket(WHOLE, 64, 64) in set(buckets(WHOLE))


def test_requests_that_remember_nothing_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine that `generate` makes for them has no page of memory."""
    attend_together(monkeypatch)
    asked = [Request(prompt=(1, 2, 3), method=unmask.method("vanilla", block_length=8, cache="none"), max_new_tokens=16)] * 2
    expected = answer(toy("llada"), asked)
    monkeypatch.setattr(Denoiser, "replayable", True)
    assert [row.token_ids for row in answer(toy("llada"), asked)] == [row.token_ids for row in expected]
