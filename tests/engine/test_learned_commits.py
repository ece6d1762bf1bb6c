"""The learned rule in decodes: engine and reference loop are equal, in batches, with drafts, in every context and family."""

import dataclasses
from typing import Any

import pytest
import torch

import unmask
from tests.engine.test_seams import PROMPTS, STAYS, expect_equal
from unmask.decode.commit_head import FACTS, CommitHead, HeadWeights
from unmask.engine.request import Request
from unmask.models.denoiser import Denoiser
from unmask.models.follow import Leader
from unmask.models.toy import EOS, toy

LEARNED = {"commit.rule": "learned", "threshold": 0.5}


def model(family: str) -> Denoiser:
    """A toy with a head of random weights."""
    made, generator = toy(family, seed=5, sharpness=3, dtype=torch.float64), torch.Generator().manual_seed(3)
    shapes = ((8, 32 + FACTS + 1), (8, 9), (1, 9))
    weights = HeadWeights(*(torch.randn(shape, generator=generator) for shape in shapes))
    return dataclasses.replace(made, head=CommitHead(weights, "toy"))


def requests(methods: list[unmask.Method], length: int = 32) -> list[Request]:
    prompts = [prompt for prompt in PROMPTS if EOS not in prompt]
    return [
        Request(prompt=tuple(prompt), method=methods[number % len(methods)], max_new_tokens=length)
        for number, prompt in enumerate(prompts)
    ]


@STAYS
@pytest.mark.parametrize("family", ["llada", "dream", "sdar", "llada2", "fast_dllm_v2"])
def test_it_decodes_alone_as_in_a_batch_with_other_methods(family: str, stays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Denoiser, "replayable", stays)
    changes: list[dict[str, Any]] = [{}, {"draft_steps": 3}, {"edit_threshold": 0.9, "max_post_steps": 2}, {"cache": "none"}]
    methods = [unmask.method("r2-dllm", **LEARNED, **change) for change in changes]
    done = expect_equal(model(family), requests([*methods, unmask.method("r2-dllm")]))
    assert sum(row.commits.get("learned", 0) for row in done) > 10
    assert "learned" not in done[-1].commits or len(done) % 5


@pytest.mark.parametrize("family", ["llada", "dream", "sdar"])
@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_drafts_do_not_change_what_it_writes(family: str, cache: str) -> None:
    if family == "sdar" and cache == "dual":
        cache = "block"
    denoiser = model(family)
    base = unmask.method("fast-dllm", **LEARNED, cache=cache)
    plain, drafted = (
        unmask.generate(denoiser, PROMPTS[:1] + PROMPTS[2:4], method=method, max_new_tokens=32)
        for method in (base, base.change(**{"draft.steps": 4}))
    )
    assert [row.token_ids for row in drafted] == [row.token_ids for row in plain]
    assert all(few.forwards <= many.forwards for few, many in zip(drafted, plain, strict=True))


def test_sub_blocks_suffixes_and_samples() -> None:
    llada, seeds = model("llada"), model("fast_dllm_v2")
    expect_equal(llada, requests([unmask.method("fast-dllm", **LEARNED, suffix_window=6, temperature=1.0)]))
    expect_equal(seeds, requests([unmask.method("fast-dllm-v2", **LEARNED, sub_block=2, sub_block_cache=True)]))


def test_without_a_head_a_request_is_refused_before_its_first_forward() -> None:
    with pytest.raises(unmask.ConfigError, match="unmask train head"):
        unmask.generate(toy(), [[1, 2]], method=unmask.method("fast-dllm", **LEARNED), max_new_tokens=32)


def test_hidden_states_are_those_of_the_form_that_decodes_and_followers_hear_of_the_forward() -> None:
    """The running form may be all that there is (quantised), and a leader's followers must make the same forward."""
    from unmask.context.plan import assemble, entire

    class Sender:
        told: list[str] = []  # noqa: RUF012

        def begin(self, message: object) -> None:
            self.told.append("begin")

        def end(self) -> None:
            self.told.append("end")

    denoiser = model("llada")
    facts = {field.name: getattr(denoiser, field.name) for field in dataclasses.fields(denoiser)}
    leader = Leader(**facts, sender=Sender())  # type: ignore[arg-type]
    tokens_N, plan = assemble([entire([1, 2, 3, 23, 23], 3, 5, block=None)], device=torch.device("cpu"))
    logits_RV, hidden_RC = leader.predict(tokens_N, plan, None, hidden=True)
    assert Sender.told == ["begin", "end"]
    assert leader.head is denoiser.head
    assert torch.equal(denoiser.running.project(hidden_RC), logits_RV)
    assert torch.equal(hidden_RC, denoiser.running.hidden(tokens_N, plan, None))


def test_editing_goes_with_every_rule_on_full_attention_and_leaves_fixed_text_alone() -> None:
    """R2-dLLM's rules behind each base rule, in one batch: as alone, to the end, and what was given stands."""
    fixed = {1: 7, 5: 4, 20: 1}
    edits: dict[str, Any] = {"edit_threshold": 0.3, "max_post_steps": 3, "block_length": 8}
    methods = [
        unmask.method("r2-dllm", **edits, **{"commit.rule": rule, "threshold": 0.5})
        for rule in ("threshold", "entropy", "localleap", "learned")
    ]
    methods += [unmask.method("llada2.1", max_post_steps=3, block_length=8, cache="none")]
    asked = [dataclasses.replace(request, fixed=fixed) for request in requests(methods, length=24) * 3]
    decoded_to_the_end = [method.change(stop_at_eos=None) for method in methods]
    asked = [dataclasses.replace(request, method=decoded_to_the_end[place % 5]) for place, request in enumerate(asked)]
    done = expect_equal(model("llada"), asked)
    assert all(row.token_ids[offset] == token for row in done for offset, token in fixed.items())
    assert sum(row.commits["edit"] for row in done) > 0
    assert all(row.forwards <= 24 + 3 * 3 for row in done)
