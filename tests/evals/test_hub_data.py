"""The tasks by the ids of their data sets, from a hub on this machine that has them as the real one does."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import unmask
from tests.cli.test_cli import run
from tests.data.test_layout import parquet
from tests.hub import Hub
from unmask.data.layout import training
from unmask.evals import HUB, TABLE, load
from unmask.evals.task import Source
from unmask.train.dataset import DataConfig, Sample, samples

ONE = "00000-of-00001.parquet"
GSM8K = [{"question": f"What is {n} + 1?", "answer": f"{n} + 1 = <<{n}+1={n + 1}>>{n + 1}\n#### {n + 1}"} for n in range(9)]
MATH = {
    "problem": "What is $1 + 1$?", "solution": r"It is \boxed{2}.", "answer": "2", "subject": "Algebra", "level": 2,
    "unique_id": "test/algebra/1.json",
}  # fmt: skip
HUMANEVAL = {
    "task_id": "HumanEval/0", "prompt": "def one():\n", "canonical_solution": "    return 1\n", "entry_point": "one",
    "test": "def check(f):\n    assert f() == 1\n",
}  # fmt: skip
SVAMP = {
    "ID": "chal-1", "Body": "Mia has 3 pens.", "Question": "And 4 more?", "Equation": "( 3.0 + 4.0 )", "Answer": "7.0",
    "Type": "Addition", "question_concat": "Mia has 3 pens. And 4 more?",
}  # fmt: skip


def mbpp(task_id: int, *, full: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"task_id": task_id, "code": "def f():\n    return 1", "test_list": ["assert f() == 1"]}
    if full:
        return row | {"text": "Return one.", "test_setup_code": "", "challenge_test_list": []}
    return row | {"prompt": "Return one.", "test_imports": ["import math"], "source_file": "x.ipynb"}


DATASETS: dict[str, dict[str, str | bytes]] = {
    "openai/gsm8k": {
        f"main/test-{ONE}": parquet(GSM8K[:2]), f"main/train-{ONE}": parquet(GSM8K),
        f"socratic/test-{ONE}": parquet(GSM8K[2:5]), f"socratic/train-{ONE}": parquet(GSM8K),
    },
    "HuggingFaceH4/MATH-500": {"test.jsonl": json.dumps(MATH) + "\n"},
    "openai/openai_humaneval": {f"openai_humaneval/test-{ONE}": parquet([HUMANEVAL])},
    "ChilleD/SVAMP": {f"data/test-{ONE}": parquet([SVAMP]), f"data/train-{ONE}": parquet([SVAMP | {"ID": "chal-2"}])},
    "google-research-datasets/mbpp": {
        f"{config}/{split}-{ONE}": parquet([mbpp(task_id, full=config == "full") for task_id in ids])
        for config in ("full", "sanitized")
        for split, ids in (("prompt", range(2, 6)), ("test", range(11, 14 if config == "full" else 13)), ("train", (601,)))
    },
}  # fmt: skip


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.chdir(tmp_path)
    with Hub() as served:
        for name, files in DATASETS.items():
            served.add(name, {"README.md": "#", **files}, "datasets")
        served.use(monkeypatch, tmp_path / "cache")
        yield served


@pytest.mark.parametrize(
    ("task", "place", "count", "shots", "fetched"),
    [
        ("gsm8k", "openai/gsm8k", 2, 5, [f"main/test-{ONE}", f"main/train-{ONE}"]),
        ("gsm8k", "openai/gsm8k/socratic", 3, 5, [f"socratic/test-{ONE}", f"socratic/train-{ONE}"]),
        ("math500", "HuggingFaceH4/MATH-500", 1, 0, ["test.jsonl"]),
        ("humaneval", "openai/openai_humaneval", 1, 0, [f"openai_humaneval/test-{ONE}"]),
        ("svamp", "ChilleD/SVAMP", 1, 0, [f"data/test-{ONE}"]),
        ("mbpp", "google-research-datasets/mbpp", 3, 3, [f"full/prompt-{ONE}", f"full/test-{ONE}"]),
        ("mbpp", "google-research-datasets/mbpp/sanitized", 2, 3, [f"sanitized/prompt-{ONE}", f"sanitized/test-{ONE}"]),
    ],
)
def test_a_task_by_the_id_of_its_data_set(hub: Hub, task: str, place: str, count: int, shots: int, fetched: list[str]) -> None:
    found = load(task, Source(data=Path(place)))
    assert (len(found.items), found.shots) == (count, shots)
    assert sorted(hub.downloads()) == ["README.md", *fetched]
    assert found.score(found.items[0], found.items[0].reference)[found.metrics[0]]


def test_ids_are_those_of_the_file_that_is_not_from_the_hub(hub: Hub, tmp_path: Path) -> None:
    for name, rows in (("test", GSM8K[:2]), ("train", GSM8K)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    theirs, ours = (load("gsm8k", Source(data=Path(place))).items for place in ("openai/gsm8k", "."))
    assert [(item.id, item.prompt) for item in theirs] == [(item.id, item.prompt) for item in ours]


def test_folders_and_files_as_the_hub_has_them(tmp_path: Path) -> None:
    for name, data in DATASETS["openai/gsm8k"].items():
        path = tmp_path / "gsm8k" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)  # type: ignore[arg-type]
    whole = load("gsm8k", Source(data=tmp_path / "gsm8k")).items
    for place in ("gsm8k/main", f"gsm8k/main/test-{ONE}"):
        assert load("gsm8k", Source(data=tmp_path / place)).items == whole
    (tmp_path / "test.parquet").write_bytes(parquet([{"question": "q", "answer": "#### 1"}]))
    assert len(load("gsm8k", Source(data=tmp_path / "test.parquet", shots=0)).items) == 1


def test_the_command_line(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("eval", "gsm8k", "--methods", "vanilla", "--max-new-tokens", "32", "--shots", "0")
    code, out, _ = run(capsys, *command, "--data", "openai/gsm8k", "--json")
    assert (code, json.loads(out.splitlines()[-1])["n"]) == (0, 2)
    for place, said in (
        ("openai/gsm9k", "no data set 'openai/gsm9k' on the Hugging Face hub, nor a folder of that name here"),
        ("openai/gsm8k@v3", "'openai/gsm8k' has no revision 'v3'"),
        ("ChilleD/SVAMP", 'expected {"question": text, "answer": text}, but there is no "question", only "Question"'),
        ("openai/openai_humaneval/test", "this data set holds no test.jsonl, nor files of a split test"),
    ):
        code, _, err = run(capsys, *command, "--data", place)
        assert code == 2
        assert said in err
        assert err.count("\n") == 1


def test_a_data_set_to_train_on(hub: Hub) -> None:
    assert [path.parent.name for path in training("openai/gsm8k")] == ["main"]
    assert [path.parent.name for path in training("openai/gsm8k/socratic")] == ["socratic"]
    (path,) = training("openai/gsm8k")
    model, config = unmask.load("unmask-tiny"), DataConfig(data="openai/gsm8k")
    found = list(samples(config, model, block_length=32, seed=0))
    assert [sample.where for sample in found] == [f"{path}:{number}" for number in range(1, 10)]
    assert all(isinstance(sample, Sample) for sample in found)


def test_without_data_the_error_names_the_usual_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert HUB.keys() <= TABLE.keys()
    assert sorted(HUB.values()) == sorted(DATASETS)
    for task, place in HUB.items():
        code, _, err = run(capsys, "eval", task)
        assert code == 2
        assert err == f"error: {task} is read from disk: name its data with --data, or --data {place} for what the hub has\n"
