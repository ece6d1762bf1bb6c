"""Logits that are no numbers end their own row, with an error that says so, and harm no other."""

import asyncio
import dataclasses
import math
from collections.abc import Callable

import pytest
import torch

import unmask
from tests.reference import alone
from unmask.cli import report
from unmask.context.plan import ForwardPlan
from unmask.context.pool import KVPool
from unmask.engine import simple
from unmask.engine.aio import AsyncEngine
from unmask.engine.engine import Engine, Limits
from unmask.engine.health import Health
from unmask.engine.request import Completion, Request
from unmask.models.denoiser import Denoiser
from unmask.models.toy import toy

POISON = 7  # a row whose prompt begins with it gets no numbers
MODEL = toy("llada", seed=5, sharpness=3)
Spoil = Callable[[torch.Tensor, torch.Tensor], None]


def request(prompt: int, method: str = "fast-dllm", **more: object) -> Request:
    return Request(prompt=(prompt, 2, 3), method=unmask.method(method, block_length=8), max_new_tokens=16, **more)  # type: ignore[arg-type]


def spoiled(monkeypatch: pytest.MonkeyPatch, value: float, *, forwards: range = range(1), hidden: bool = False) -> None:
    """Forwards of these numbers, from now on, make nothing but `value` of poisoned rows: logits, or keys and values too."""
    real, calls = Denoiser.forward, [0]

    def forward(self: Denoiser, tokens_N: torch.Tensor, plan: ForwardPlan, pool: KVPool | None) -> torch.Tensor:
        logits_RV = real(self, tokens_N, plan, pool)
        here, calls[0] = calls[0], calls[0] + 1
        if here not in forwards:
            return logits_RV
        starts = (tokens_N == POISON).nonzero().flatten().tolist()
        reads = plan.read_R.tolist()
        for start in starts:  # of a refresh, which queries the row from its beginning
            after = [begin for begin in range(start + 1, len(tokens_N)) if tokens_N[begin] == 1 and tokens_N[begin + 1] == 2]
            end = min(after, default=len(tokens_N))
            logits_RV[[row for row, place in enumerate(reads) if start <= place < end]] = value
        if hidden and pool is not None:
            for layer in (*pool.keys, *pool.values):
                layer[:-16] = value
        return logits_RV

    monkeypatch.setattr(Denoiser, "forward", forward)


def costs(completion: Completion) -> tuple[list[int], int]:
    return completion.token_ids, completion.forwards


@pytest.mark.parametrize("method", ["fast-dllm", "vanilla", "r2-dllm", "freedave", "eb-sampler"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_row_without_numbers_ends_alone(monkeypatch: pytest.MonkeyPatch, method: str, value: float) -> None:
    requests = [request(POISON if place == 1 else 1, method, temperature=place % 2) for place in range(3)]
    expected = [alone(MODEL, one) for one in requests]
    spoiled(monkeypatch, value)
    with pytest.raises(unmask.LogitsError, match=r"no numbers .* in forward 0 of prompt 1") as caught:
        Engine(MODEL, Limits.fitting(MODEL, requests)).generate(requests)
    first, second, third = caught.value.completions
    assert second is None
    assert (costs(first), costs(third)) == (costs(expected[0]), costs(expected[2]))


def test_one_position_is_enough_and_one_token_of_no_probability_is_not() -> None:
    logits = torch.zeros(1, 4, 8)
    logits[0, 2, 5] = -math.inf
    assert unmask.generate(_saying(logits), [[1, 2]], method=unmask.method("vanilla", block_length=4), max_new_tokens=4)[
        0
    ].token_ids
    logits[0, 2, 5] = math.nan
    with pytest.raises(unmask.LogitsError):
        unmask.generate(_saying(logits), [[1, 2]], method=unmask.method("vanilla", block_length=4), max_new_tokens=4)


def _saying(logits_1LV: torch.Tensor) -> Denoiser:
    """A model that says this of every block of its length."""
    logits = torch.zeros(4, MODEL.spec.vocab_size)
    logits[:, :8] = logits_1LV[0]

    class Saying(Denoiser):
        def forward(self, tokens_N: torch.Tensor, plan: ForwardPlan, pool: KVPool | None) -> torch.Tensor:
            self.states(tokens_N, plan, pool)
            return logits[: len(plan.read_R)]

    return Saying(**{part.name: getattr(MODEL, part.name) for part in dataclasses.fields(MODEL) if part.init})


def test_the_reference_loop_says_so_too(monkeypatch: pytest.MonkeyPatch) -> None:
    spoiled(monkeypatch, math.nan)
    with pytest.raises(unmask.LogitsError, match="in forward 0"):
        simple.decode(MODEL, [POISON, 2], unmask.method("vanilla", block_length=8), max_new_tokens=8)


def test_the_memory_that_it_leaves_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next row gets its pages, and reads masked slots with weight 0: 0 times NaN would be NaN."""
    good = request(1)
    expected = alone(MODEL, good)
    engine = Engine(MODEL, Limits(rows=1, memory=2 * MODEL.page_bytes))
    with monkeypatch.context() as patched:
        spoiled(patched, math.nan, hidden=True)
        with pytest.raises(unmask.LogitsError):
            engine.generate([request(POISON)])
    assert costs(engine.generate([good])[0]) == costs(expected)


def test_a_stream_ends_with_the_error_and_health_turns_and_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with AsyncEngine(Engine(MODEL, Limits(rows=4))) as engine:
            with monkeypatch.context() as patched:
                spoiled(patched, math.nan)
                with pytest.raises(unmask.LogitsError, match="in forward 0"):
                    await engine.complete(request(POISON))
                assert engine.trouble == "failing"
            assert (await engine.complete(request(1))).token_ids
            assert engine.trouble is None
            assert engine.engine.load[:3] == (0, 0, 0)

    asyncio.run(asyncio.wait_for(test(), 60))


def test_health_bears_two_bad_forwards_among_others_and_not_three() -> None:
    health = Health(1.0, 60.0)
    for _ in range(2):
        health.end(0.0, rows=4, broken=1)
        health.end(0.0, rows=0, broken=0, raised=True)
        assert health.trouble(0.0) is None
        health.end(0.0, rows=4, broken=0)
    for _ in range(3):
        health.end(0.0, rows=4, broken=1)
    assert health.trouble(0.0) == "failing"
    health.end(0.0, rows=1, broken=0)
    assert health.trouble(0.0) is None
    health.begin(10.0)
    assert (health.trouble(10.5), health.trouble(11.5)) == (None, "stuck")  # the first forward is over


def test_the_command_line_says_it_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(unmask.LogitsError("the model's logits are no numbers")) == 1
    assert capsys.readouterr().err == "error: the model's logits are no numbers\n"
