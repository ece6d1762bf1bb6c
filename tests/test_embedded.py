"""The embedded model really answers, and the methods really save forwards on it."""

import dataclasses

import pytest
import torch

import unmask
from tests.reference import alone
from unmask.engine.engine import Engine, Limits
from unmask.engine.prompt import encode
from unmask.engine.request import Request
from unmask.evals import load as load_task
from unmask.evals.run import evaluate
from unmask.evals.task import Source
from unmask.methods import load


def test_it_fits_into_the_package() -> None:
    model = unmask.load()
    assert sum(parameter.numel() for parameter in model.network.parameters()) <= 8_000_000
    assert model.spec.lookbehind == 0
    assert model.tokenizer.chat_template


def test_answers_and_savings() -> None:
    """36 held-out problems: vanilla right four times in five, R2-dLLM under Fast-dLLM's forwards and 40 % of vanilla's."""
    methods = {name: load(name) for name in ("vanilla", "fast-dllm", "r2-dllm")}
    runs = {run.name: run for run in evaluate(unmask.load(), load_task("arithmetic", Source(limit=36, seed=5)), methods)}
    for run in runs.values():
        assert sum(run.right()) / len(run.records) >= (0.8 if run.name == "vanilla" else 0.6), run.name
    forwards = {name: sum(record.forwards for record in run.records) for name, run in runs.items()}
    assert forwards["r2-dllm"] <= 0.4 * forwards["vanilla"]
    assert forwards["r2-dllm"] < forwards["fast-dllm"]


@pytest.mark.parametrize("name", ["vanilla", "fast-dllm", "r2-dllm"])
def test_drafts_do_not_change_its_answers(name: str) -> None:
    model = unmask.load(dtype="float64")
    questions = [item.prompt for item in load_task("arithmetic", Source(limit=4, seed=3)).items]
    base = unmask.generate(model, questions, method=unmask.method(name, cache="dual"), max_new_tokens=128)
    for drafts in (2, 4, 8):
        method = unmask.method(name, cache="dual", draft_steps=drafts)
        rows = unmask.generate(model, questions, method=method, max_new_tokens=128)
        assert [row.token_ids for row in rows] == [row.token_ids for row in base]
        assert all(row.forwards <= alone.forwards for row, alone in zip(rows, base, strict=True))


@pytest.mark.slow
def test_it_is_right_on_a_thousand() -> None:
    run = evaluate(unmask.load(), load_task("arithmetic", Source(limit=1000, seed=11)), {"vanilla": load("vanilla")})[0]
    assert sum(run.right()) >= 900


def test_batches_of_questions_equal_single_ones() -> None:
    model = unmask.load()
    questions = [item.prompt for item in load_task("arithmetic", Source(limit=6, seed=9)).items]
    for name in ("r2-dllm", "streaming-dllm", "freedave"):
        together = unmask.generate(model, questions, method=name)
        for question, row in zip(questions, together, strict=True):
            alone = unmask.generate(model, [question], method=name)[0]
            assert (row.text, row.token_ids, row.forwards) == (alone.text, alone.token_ids, alone.forwards)


def test_the_engine_answers_as_the_reference_loop() -> None:
    """Methods of every kind side by side in fp32, few rows at a time: text, tokens and costs of each request alone."""
    model = unmask.load()
    names = ("r2-dllm", "fast-dllm", "streaming-dllm", "freedave", "r2-dllm-official")
    requests = [
        Request(prompt=encode(model, item.prompt), method=load(names[number % len(names)]), max_new_tokens=64)
        for number, item in enumerate(load_task("arithmetic", Source(limit=15, seed=9)).items)
    ]
    for request, together in zip(requests, Engine(model, Limits(rows=6, tokens=400)).generate(requests), strict=True):
        assert dataclasses.replace(together, seconds=0.0) == alone(model, request)


def test_loading_in_half_precision_still_answers() -> None:
    model = unmask.load(dtype="bfloat16")
    assert model.dtype == torch.bfloat16
    assert unmask.generate(model, ["Mia has 23 apples. On Monday Mia buys 8. How many apples does Mia have?"])[0].tokens > 10


def test_the_tuned_twin_needs_fewer_forwards() -> None:
    task, method = load_task("arithmetic", Source(limit=60, seed=6)), {"fast-dllm": load("fast-dllm")}
    base, tuned = (evaluate(unmask.load(name), task, method)[0] for name in ("unmask-tiny-base", "unmask-tiny-r2"))
    assert sum(record.forwards for record in tuned.records) <= 0.85 * sum(record.forwards for record in base.records)
    assert sum(tuned.right()) >= 42


@pytest.mark.slow
def test_the_tuned_twin_is_as_right_on_a_thousand() -> None:
    task, method = load_task("arithmetic", Source(limit=1000, seed=12)), {"fast-dllm": load("fast-dllm")}
    base, tuned = (evaluate(unmask.load(name), task, method)[0] for name in ("unmask-tiny-base", "unmask-tiny-r2"))
    assert sum(tuned.right()) >= sum(base.right()) - 10


def test_the_block_causal_one_answers_and_its_cache_costs_no_answer() -> None:
    """36 held-out problems: the cache is exact, so recomputing everything gives the same answers in as many forwards."""
    model = unmask.load("unmask-tiny-block")
    assert model.spec.block == 8
    task = load_task("arithmetic", Source(limit=36, seed=5))
    methods = {"kept": load("fast-dllm"), "recomputed": load("fast-dllm", cache="none"), "r2-dllm": load("r2-dllm")}
    runs = {run.name: run for run in evaluate(model, task, methods)}
    kept, recomputed = runs["kept"].records, runs["recomputed"].records
    assert sum(runs["kept"].right()) >= 30
    assert [row.answer for row in kept] == [row.answer for row in recomputed]
    assert [row.forwards for row in kept] == [row.forwards for row in recomputed]
    assert sum(row.query_tokens for row in kept) < sum(row.query_tokens for row in recomputed) / 1.5


def test_without_a_method_the_embedded_model_writes_many_tokens_per_forward() -> None:
    """60 held-out problems: the settings that the model carries."""
    model = unmask.load("unmask-tiny")
    task = load_task("arithmetic", Source(limit=60, seed=8))
    answers = unmask.generate(model, [item.prompt for item in task.items], max_new_tokens=160)
    assert answers[0].method.name == "fast-dllm"
    forwards, tokens = (sum(getattr(answer, name) for answer in answers) for name in ("forwards", "tokens"))
    assert forwards <= 5.0 * len(answers)
    assert tokens >= 12 * forwards
    assert tokens >= 58 * len(answers)  # no shorter answers than before it was trained for this
    assert sum(task.score(item, answer.text)["exact"] for item, answer in zip(task.items, answers, strict=True)) >= 55
