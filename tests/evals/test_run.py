"""Running methods on a task: counts, files, and how a stopped run resumes."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest

import unmask
from unmask.evals import load
from unmask.evals.ablation import ablate
from unmask.evals.oracle import oracle
from unmask.evals.run import Run, evaluate
from unmask.evals.summary import against, summarise, table
from unmask.evals.task import Item, Source, Task
from unmask.files import Journal
from unmask.tasks import TASKS

METHODS = {name: unmask.method(name) for name in ("vanilla", "fast-dllm", "r2-dllm")}


@pytest.fixture(scope="module")
def model() -> unmask.Denoiser:
    return unmask.load("unmask-tiny-base")


@pytest.fixture(scope="module")
def task() -> Task:
    return load("arithmetic", Source(limit=6, seed=4))


@pytest.fixture(scope="module")
def runs(model: unmask.Denoiser, task: Task) -> list[Run]:
    return evaluate(model, task, METHODS, batch=4)


def test_what_is_generated_is_held_out_and_different(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*TASKS, "mixture"):
        items = load(name, Source(limit=40)).items
        assert {item.facts["problem"].split for item in items} == {"test"}
        assert len({item.prompt for item in items}) == 40
        assert len({item.id for item in items}) == 40
    assert {item.group for item in load("mixture", Source(limit=100)).items} == set(TASKS)
    assert load("chain", Source(limit=3)).items == load("chain", Source(limit=5)).items[:3]
    only = load("chain", Source(limit=1)).items[0].facts["problem"]
    monkeypatch.setattr("unmask.evals.generated.problems", lambda *_, **__: itertools.repeat(only))
    with pytest.raises(unmask.ConfigError, match="about 1 different held-out problems"):
        load("chain", Source(limit=2))


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        ("arithmatic", Source(), "did you mean 'arithmetic'"),
        ("gsm8k", Source(), "--data"),
        ("chain", Source(data=Path("x")), "leave --data"),
        ("chain", Source(shots=2), "leave --data and --shots out"),
    ],
)
def test_bad_sources(name: str, source: Source, words: str) -> None:
    with pytest.raises(unmask.ConfigError, match=words):
        load(name, source)


@pytest.mark.parametrize("name", [*TASKS])
def test_references_are_right_and_others_wrong(name: str) -> None:
    task = load(name, Source(limit=30))
    assert all(task.score(item, item.reference)["exact"] for item in task.items)
    assert not any(task.score(item, item.reference.replace("answer is", "answer is not"))["exact"] for item in task.items)


def test_answers_are_those_of_generate(model: unmask.Denoiser, task: Task, runs: list[Run]) -> None:
    for run in runs:
        for item, record in zip(task.items, run.records, strict=True):
            alone = unmask.generate(model, [item.prompt], method=run.method)[0]
            assert (record.answer, record.token_ids) == (alone.text, alone.token_ids)
            assert (record.forwards, record.tokens, record.commits) == (alone.forwards, alone.tokens, alone.commits)
            assert record.verdicts == task.score(item, alone.text)


def test_commits_add_up(runs: list[Run]) -> None:
    for run in runs:
        for record in run.records:
            assert sum(record.commits.values()) >= record.tokens
            assert sum(record.commits.values()) <= len(record.token_ids)
    assert set(runs[2].records[0].commits) == {"threshold", "token_cluster", "confidence_cluster", "temporal"}


def test_a_stopped_run_goes_on(model: unmask.Denoiser, task: Task, runs: list[Run], tmp_path: Path) -> None:
    def stop(name: str, done: int, right: float) -> None:
        if name == "fast-dllm" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(model, task, METHODS, folder=tmp_path, batch=2, report=stop)
    kept = (tmp_path / "vanilla.jsonl").read_text()
    assert kept.count("\n") == 3
    assert not (tmp_path / "r2-dllm.jsonl").read_text().count('"id"')
    with (tmp_path / "fast-dllm.jsonl").open("a") as file:
        file.write('{"id": "cut sho')
    done = evaluate(model, task, METHODS, folder=tmp_path, batch=2)
    assert (tmp_path / "vanilla.jsonl").read_text().startswith(kept)
    for run, whole in zip(done, runs, strict=True):
        assert [replace(record, seconds=0) for record in run.records] == [
            replace(record, seconds=0) for record in whole.records
        ]
        lines = (tmp_path / f"{run.name}.jsonl").read_text().splitlines()
        assert [json.loads(line)["id"] for line in lines[1:]] == [item.id for item in task.items]


def test_answers_on_disk_are_kept_and_not_taken_for_another_run(
    model: unmask.Denoiser, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = {"fast-dllm": METHODS["fast-dllm"]}
    first = evaluate(model, task, only, folder=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("unmask.evals.run.generate", None)
        assert evaluate(model, task, only, folder=tmp_path) == first
    with pytest.raises(unmask.ConfigError, match="other settings"):
        evaluate(model, task, {"fast-dllm": unmask.method("fast-dllm", threshold=0.5)}, folder=tmp_path)
    other = replace(task, items=(replace(task.items[0], prompt="Compute 1 + 1."), *task.items[1:]))
    with pytest.raises(unmask.ConfigError, match="another prompt"):
        evaluate(model, other, only, folder=tmp_path)
    more = load("arithmetic", Source(limit=8, seed=4))
    assert evaluate(model, more, only, folder=tmp_path)[0].records[:6] == first[0].records


def test_old_files_are_read_and_damaged_ones_named(model: unmask.Denoiser, task: Task, tmp_path: Path) -> None:
    only = {"fast-dllm": METHODS["fast-dllm"]}
    first = evaluate(model, task, only, folder=tmp_path)
    assert first[0].answered == len(task.items)
    path = tmp_path / "fast-dllm.jsonl"
    header, *lines = path.read_text().splitlines()
    old = [json.dumps(json.loads(line) | {"latency": 0.5}) for line in lines]  # as until November 2026
    path.write_text("\n".join([header, *old]) + "\n")
    again = evaluate(model, task, only, folder=tmp_path)
    assert (again, again[0].answered) == (first, 0)
    damages = {'"id': "this line is damaged", '{"id": "1"}': "not an answer", "[1]": "this line is damaged"}
    for damage, words in damages.items():
        path.write_text("\n".join([header, old[0], damage, *old[2:]]) + "\n")
        with pytest.raises(unmask.ConfigError, match=rf"fast-dllm.jsonl:3: {words}"):
            evaluate(model, task, only, folder=tmp_path)


def test_names_that_share_a_file(model: unmask.Denoiser, task: Task) -> None:
    with pytest.raises(unmask.ConfigError, match="share a file"):
        evaluate(model, task, {"a b": METHODS["vanilla"], "a/b": METHODS["vanilla"]})


def test_a_prompt_that_does_not_fit_is_wrong_and_counted(model: unmask.Denoiser) -> None:
    long = Item(id="long", prompt="apples " * 400, reference="")
    short = Item(id="short", prompt="Compute 12 + 3.", reference="")
    task = Task(name="two", items=(long, short), metrics=("any",), score=lambda item, answer: {"any": True}, max_new_tokens=160)
    run = evaluate(model, task, {"fast-dllm": METHODS["fast-dllm"]})[0]
    assert [record.finish_reason == "too long" for record in run.records] == [True, False]
    assert run.right() == [False, True]
    row = summarise(run)
    assert (row["too_long"], row["n"], row["forwards_mean"]) == (1, 2, run.records[1].forwards)
    with pytest.raises(unmask.PromptTooLong, match="none of the 1 prompts"):
        evaluate(model, replace(task, items=(long,)), METHODS)


def test_stop_strings_end_answers(model: unmask.Denoiser, task: Task) -> None:
    run = evaluate(model, replace(task, stop=("The answer",)), {"fast-dllm": METHODS["fast-dllm"]})[0]
    assert not any("The answer" in record.answer for record in run.records)


def test_rows(runs: list[Run], task: Task) -> None:
    rows = table(runs)
    assert [row["method"] for row in rows] == list(METHODS)
    vanilla, fast, _ = rows
    assert "against_first" not in vanilla
    assert fast["against_first"]["forwards_ratio"] == pytest.approx(fast["forwards_mean"] / vanilla["forwards_mean"])
    for row in rows:
        assert row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"]
        assert row["forwards_low"] <= row["forwards_mean"] <= row["forwards_high"]
        assert set(row["accuracy_by_group"]) == {item.group for item in task.items}
    same = against(runs[0], runs[0])
    assert (same["accuracy_change"], same["gained"], same["lost"], same["mcnemar_p"]) == (0, 0, 0, 1)
    assert (same["forwards_ratio"], same["forwards_ratio_low"]) == (1, 1)
    json.dumps(rows)


def test_no_method_needs_fewer_forwards_than_the_oracle(model: unmask.Denoiser, runs: list[Run]) -> None:
    least = oracle(model, runs[0])
    for forwards, record in zip(least, runs[0].records, strict=True):
        assert -(-record.tokens // 32) <= forwards <= record.forwards
    same = [
        (forwards, record.forwards)
        for forwards, record, vanilla in zip(least, runs[1].records, runs[0].records, strict=True)
        if record.answer == vanilla.answer
    ]
    assert same
    assert all(oracle_needs <= needed for oracle_needs, needed in same)


def test_ablation_counts_every_commit_of_the_answer(
    model: unmask.Denoiser, task: Task, runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ablate(model, task, runs[2], runs[0], batch=3)
    assert sum(sum(row.counts) for row in rows) == sum(record.tokens for record in runs[2].records)
    # Vanilla judged by itself is never wrong.
    itself = ablate(model, task, runs[0], runs[0], batch=6)
    assert [row.to_dict()["wrong"] for row in itself] == [0]
    with Journal(tmp_path / "counts.jsonl", {}, "counted") as journal:
        part = replace(runs[2], records=runs[2].records[:2])
        ablate(model, task, part, replace(runs[0], records=runs[0].records[:2]), batch=2, journal=journal)
        assert ablate(model, task, runs[2], runs[0], batch=3, journal=journal) == rows
        monkeypatch.setattr("unmask.evals.ablation.generate", None)
        assert ablate(model, task, runs[2], runs[0], batch=3, journal=journal) == rows
    drafting = evaluate(model, task, {"freedave": unmask.method("freedave", threshold=0.9)})[0]
    with pytest.raises(unmask.ConfigError, match="drafts"):
        ablate(model, task, drafting, runs[0], batch=6)


def test_an_item_without_an_answer_is_an_error_and_the_run_goes_on(
    model: unmask.Denoiser, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts as wrong, its line says why, and it is asked again when the run is resumed."""
    methods = {"fast-dllm": METHODS["fast-dllm"]}
    whole, poison = evaluate(model, task, methods, batch=4)[0], task.items[1].prompt
    answers = {item.prompt: record for item, record in zip(task.items, whole.records, strict=True)}

    def without(model: unmask.Denoiser, prompts: list[str], **options: object) -> list[unmask.Completion]:
        made = unmask.generate(model, prompts, **options)  # type: ignore[arg-type]
        if poison in prompts[1:]:
            raise unmask.LogitsError(
                "no numbers", [None if prompt == poison else one for prompt, one in zip(prompts, made, strict=True)]
            )
        return made

    with monkeypatch.context() as patched:
        patched.setattr("unmask.evals.run.generate", without)
        (run,) = evaluate(model, task, methods, batch=4, folder=tmp_path)
    broken = run.records[1]
    assert (broken.finish_reason, broken.error, broken.verdicts, broken.asked) == (
        "error",
        "no numbers",
        {"exact": False},
        False,
    )
    others = [replace(record, seconds=0.0) for record in run.records if record is not broken]
    assert others == [replace(answers[item.prompt], seconds=0.0) for item in task.items if item.prompt != poison]
    assert table([run])[0]["too_long"] == 0
    (run,) = evaluate(model, task, methods, batch=4, folder=tmp_path)
    assert run.answered == 1
    assert replace(run.records[1], seconds=0.0) == replace(whole.records[1], seconds=0.0)


def test_a_run_without_any_answer_says_so(model: unmask.Denoiser, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(model: unmask.Denoiser, prompts: list[str], **options: object) -> list[unmask.Completion]:
        raise unmask.LogitsError("no numbers", [None] * len(prompts))

    monkeypatch.setattr("unmask.evals.run.generate", without)
    with pytest.raises(unmask.LogitsError, match="fast-dllm has answered no item: no numbers"):
        evaluate(model, task, {"fast-dllm": METHODS["fast-dllm"]}, batch=4)
