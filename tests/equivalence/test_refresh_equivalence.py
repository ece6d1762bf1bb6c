"""Decodes that keep the prompt's keys: equal to the default where they must be, cheaper, and never reading what is stale."""

import random
from dataclasses import replace

import pytest
import torch
from torch import nn

import unmask
from unmask.context.plan import Query
from unmask.context.pool import PAGE, KVPool
from unmask.engine.state import RequestState
from unmask.methods.method import Refresh
from unmask.models.denoiser import Denoiser
from unmask.models.toy import EOS, toy

FAMILIES = ("llada", "dream")
PRESETS = ("fast-dllm", "r2-dllm", "streaming-dllm", "freedave")
INTERVALS = (2, 3, None)


def prompts() -> list[list[int]]:
    """Of any length, a page's and its neighbours' among them."""
    rng = random.Random(7)
    return [[rng.randrange(EOS) for _ in range(length)] for length in (1, 2, PAGE - 1, PAGE, PAGE + 1, 40)]


def told(completion: unmask.Completion) -> tuple[list[int], int, int]:
    return completion.token_ids, completion.forwards, completion.query_tokens


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", PRESETS)
def test_an_interval_of_one_is_the_default(name: str, family: str) -> None:
    model = toy(family, seed=5, sharpness=3)
    for cache in ("prefix", "dual"):
        method = unmask.method(name, block_length=8, cache=cache)
        one, other = (
            unmask.generate(model, prompts(), method=every, max_new_tokens=32)
            for every in (method, replace(method, refresh=Refresh(prompt_interval=1)))
        )
        assert [told(row) for row in one] == [told(row) for row in other]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("name", PRESETS)
def test_a_row_does_not_depend_on_its_batch(name: str, interval: int | None, family: str) -> None:
    model = toy(family, seed=5, sharpness=3)
    for cache in ("prefix", "dual"):
        method = unmask.method(name, block_length=8, cache=cache, prompt_interval=interval)
        batch = unmask.generate(model, prompts(), method=method, max_new_tokens=48)
        alone = [unmask.generate(model, [prompt], method=method, max_new_tokens=48)[0] for prompt in prompts()]
        assert [told(row) for row in batch] == [told(row) for row in alone]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("interval", [2, None])
def test_drafts_do_not_change_the_answer(interval: int | None, family: str) -> None:
    """How often the first block's forwards rewrite the prompt's last position, which Dream reads, depends on the drafts."""
    saved = 0
    for sharpness in (1.0, 4.0):
        model = toy(family, seed=2, sharpness=sharpness, dtype=torch.float64)
        base, drafted = (
            unmask.generate(
                model,
                prompts(),
                method=unmask.method("vanilla", cache="dual", block_length=8, prompt_interval=interval, draft_steps=drafts),
                max_new_tokens=48,
            )
            for drafts in (1, 4)
        )
        assert [row.token_ids for row in drafted] == [row.token_ids for row in base]
        saved += sum(alone.forwards - row.forwards for row, alone in zip(drafted, base, strict=True))
    assert saved > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_of_one_layer_cannot_tell(family: str) -> None:
    """Keys of the first layer know nothing of their context, so that remembered ones are exact; those of the second do."""
    for layers in (1, 2):
        model = toy(family, seed=3, sharpness=2, dtype=torch.float64)
        for module in model.network.modules():
            if isinstance(module, nn.ModuleList):
                del module[layers:]
        for cache in ("prefix", "dual"):
            whole, kept = (
                replace(unmask.method("fast-dllm", block_length=8, cache=cache, prompt_interval=interval), stop_at_eos=None)
                for interval in (1, None)
            )
            one, other = (unmask.generate(model, prompts(), method=method, max_new_tokens=32) for method in (whole, kept))
            assert ([row.token_ids for row in one] == [row.token_ids for row in other]) == (layers == 1)
            if layers == 1:
                saved = [base.query_tokens - row.query_tokens for base, row in zip(one, other, strict=True)]
                assert saved == [3 * (len(prompt) - model.spec.lookbehind) for prompt in prompts()]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("name", PRESETS)
def test_nothing_stale_is_read(name: str, interval: int | None, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a block's first forward all memory but the prompt's is made not a number, before a whole refresh that too."""
    model, pools = toy(family, seed=5, sharpness=3), list[KVPool]()
    make, queries = Denoiser.pool, RequestState.queries

    def made(self: Denoiser, pages: int) -> KVPool:
        pools.append(make(self, pages))
        return pools[-1]

    def poisoned(self: RequestState, states: int) -> list[Query]:
        plan = self.turn().block
        if self.refreshes:
            assert plan is not None
            slots = [page * PAGE + slot for page in self.pages for slot in range(PAGE)]
            kept = 0 if plan.fresh else self.canvas.prompt - self.recipe.lookbehind
            for layer in (*pools[-1].keys, *pools[-1].values):
                layer[slots[kept:]] = torch.nan
        return queries(self, states)

    for cache in ("prefix", "dual"):
        method = unmask.method(name, block_length=8, cache=cache, prompt_interval=interval)
        for prompt in prompts():
            clean = unmask.generate(model, [prompt], method=method, max_new_tokens=32)[0]
            seen: list[unmask.StepRecord] = []
            with monkeypatch.context() as patched:
                patched.setattr(Denoiser, "pool", made)
                patched.setattr(RequestState, "queries", poisoned)
                row = unmask.generate(model, [prompt], method=method, max_new_tokens=32, observer=seen.append)[0]
            assert told(row) == told(clean)
            assert torch.tensor([record.confidence for record in seen]).isfinite().all()
