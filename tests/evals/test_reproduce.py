"""Tables of papers: the files of configs/paper, running them, and the comparison of two numbers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import unmask
from unmask.errors import ConfigError
from unmask.evals import TABLE
from unmask.evals.paper import Entry, PaperTable, Published, Recipe
from unmask.evals.reproduce import Outcome, document, markdown, published, reproduce, tasks
from unmask.methods import TABLE as METHODS
from unmask.models.prompting import Prompting

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "configs" / "paper").glob("*.yaml"))
SETTINGS: dict[str, Any] = {
    "paper": "A paper",
    "table": "1",
    "model": "owner/unmask-tiny",
    "hardware": "one machine",
    "caveats": ["Numbers are made up."],
    "methods": {
        "fast": {"preset": "fast-dllm-official", "options": {"cache": "prefix"}},
        "theirs": {"not_run": "unmask has no such method"},
    },
    "entries": [
        {
            "task": "arithmetic",
            "shots": 0,
            "max_new_tokens": 160,
            "options": {"fast": {"threshold": 0.8}},
            "published": {"fast": {"accuracy": 90.5, "forwards": 11}, "theirs": {"accuracy": 50, "seconds": 2.5}},
        },
        {"task": "chain", "shots": 0, "max_new_tokens": 512, "published": {"fast": {"accuracy": 80.0}}},
    ],
}


def table(**changes: Any) -> PaperTable:
    return PaperTable.from_dict(SETTINGS | changes)


@pytest.fixture(scope="module")
def model() -> unmask.Denoiser:
    return unmask.load()


# --- the files --------------------------------------------------------------------------------------------------------


def test_every_paper_and_model_has_its_files() -> None:
    assert len(FILES) == 13
    found = {(path.stem.split("-")[0], yaml.safe_load(path.read_text())["model"]) for path in FILES}
    assert found == {
        ("r2", "GSAI-ML/LLaDA-8B-Instruct"),
        ("r2", "GSAI-ML/LLaDA-1.5"),
        ("r2", "Dream-org/Dream-v0-Instruct-7B"),
        ("r2", "ZhenbangDu/R2-dLLM-LLaDA"),
        ("r2", "ZhenbangDu/R2-dLLM-Dream"),
        ("fast", "GSAI-ML/LLaDA-8B-Instruct"),
        ("fast", "GSAI-ML/LLaDA-1.5"),
        ("fast", "Dream-org/Dream-v0-Base-7B"),
        ("streaming", "GSAI-ML/LLaDA-8B-Instruct"),
        ("streaming", "GSAI-ML/LLaDA-1.5"),
        ("streaming", "Dream-org/Dream-v0-Base-7B"),
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_is_complete_and_says_how_to_run_it(path: Path) -> None:
    text = path.read_text()
    read = PaperTable.from_dict(yaml.safe_load(text))
    assert f"unmask reproduce configs/paper/{path.name} " in text
    presets = {recipe.preset for recipe in read.methods.values()} - {None}
    assert presets <= {name for name in METHODS if name.endswith("-official")}
    for entry in read.entries:
        assert entry.task in TABLE
        assert entry.published.keys() == read.methods.keys()
        assert (entry.task == "math500") == (entry.instead_of is not None)
        for method in read.runnable(entry).values():
            assert method.official
            assert method.max_new_tokens == entry.max_new_tokens


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_page_holds_every_published_row_and_every_caveat(path: Path) -> None:
    """Our columns may be filled in; the published numbers are those of the file."""
    page = (ROOT / "docs" / "reproduction.md").read_text()
    made = markdown(published(PaperTable.from_dict(yaml.safe_load(path.read_text()))))
    _, section, rest = page.partition(f"### {path.stem}\n")
    assert section, f"docs/reproduction.md has no section {path.stem}"
    section = rest.partition("\n### ")[0]
    for line in made.splitlines():
        assert line.removesuffix(" - | - | - | - | - |") in section


def test_base_models_are_asked_as_the_authors_ask_them() -> None:
    for path in FILES:
        found = read(path.stem)
        assert found.prompting == (Prompting(chat_template=False, add_bos=True) if "-Base-" in found.model else Prompting())
    with pytest.raises(ConfigError, match="add_bos must be true or false, got 'yes'"):
        PaperTable.from_dict(SETTINGS | {"add_bos": "yes"})


def read(stem: str) -> PaperTable:
    return PaperTable.from_dict(yaml.safe_load((ROOT / "configs" / "paper" / f"{stem}.yaml").read_text()))


def test_settings_of_the_papers() -> None:
    llada, dream, streaming = read("r2-table1-llada"), read("r2-table1-dream"), read("streaming-table2-llada-1.5")
    rules = {entry.task: llada.runnable(entry)["R2-dLLM (F)"] for entry in llada.entries}
    for task, spatial, temporal in (("gsm8k", 0.8, 0.7), ("math500", 0.8, 0.7), ("humaneval", 0.85, 0.85), ("mbpp", 0.8, 0.8)):
        method = rules[task]
        assert method.confidence_cluster is not None
        assert method.token_cluster is not None
        assert method.temporal is not None
        assert (method.confidence_cluster.threshold, method.token_cluster.threshold) == (spatial, spatial)
        assert (method.temporal.threshold, method.temporal.steps, method.temporal.metric) == (temporal, 3, "last")
        assert (method.block_length, method.cache) == (32, "dual")
    vanilla = dream.runnable(dream.entries[0])["Vanilla"]
    assert (vanilla.commit.name, vanilla.block_length, vanilla.cache) == ("schedule", None, "none")
    entry = next(entry for entry in streaming.entries if (entry.task, entry.max_new_tokens) == ("gsm8k", 512))
    method = streaming.runnable(entry)["Streaming-dLLM"]
    assert method.suffix is not None
    assert method.dynamic_threshold is not None
    assert (method.suffix.window, method.dynamic_threshold.alpha, method.cache) == (128, 0.6, "prefix")


# --- reading ----------------------------------------------------------------------------------------------------------


def test_options_of_an_entry_win_over_the_rows() -> None:
    first, second = (table().runnable(entry)["fast"] for entry in table().entries)
    assert first == unmask.method("fast-dllm-official", cache="prefix", threshold=0.8, max_new_tokens=160)
    assert second == unmask.method("fast-dllm-official", cache="prefix", max_new_tokens=512)


def entry(**changes: Any) -> list[dict[str, Any]]:
    return [SETTINGS["entries"][0] | changes]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"modle": "x"}, "unknown table setting 'modle'.*'model'"),
        ({"entries": []}, "needs entries"),
        ({"entries": [*entry(), *entry()]}, "each with another task"),
        ({"entries": {"gsm8k": 1}}, "entries: expected a list"),
        ({"entries": ["gsm8k"]}, "entry 1: expected a mapping"),
        ({"caveats": "one"}, "caveats: expected a list"),
        ({"methods": ["fast"]}, "methods: expected a mapping"),
        ({"methods": {"fast": {"preset": "fast-dllm", "not_run": "x"}, "theirs": {"not_run": "x"}}}, "either a preset or"),
        ({"methods": {"fast": {}, "theirs": {"not_run": "x"}}}, "either a preset or"),
        ({"methods": {"fast": {"preset": "fastdllm"}, "theirs": {"not_run": "x"}}}, "did you mean 'fast-dllm'"),
        ({"methods": {"fast": {"not_run": "x"}, "theirs": {"not_run": "x"}}}, "runs none of its rows"),
        ({"entries": entry(shots=-1)}, "shots must be a whole number"),
        ({"entries": entry(max_new_tokens=100)}, "block_length 32 does not divide"),
        ({"entries": entry(shot=1)}, "unknown entry 1 setting 'shot'"),
        ({"entries": entry(published={"fats": {"accuracy": 1}})}, "did you mean 'fast'"),
        ({"entries": entry(options={"fats": {}})}, "did you mean 'fast'"),
        ({"entries": entry(options={"fast": {"treshold": 0.8}})}, "did you mean 'threshold'"),
        ({"entries": entry(options={"fast": None})}, "arithmetic: options of fast: expected a mapping"),
        ({"entries": entry(options=["fast"])}, "options: expected a mapping"),
        ({"methods": {"fast": {"preset": "fast-dllm", "options": "x"}, "theirs": {"not_run": "x"}}}, "options: expected a"),
        ({"entries": entry(published={"fast": {"acuracy": 1}})}, "did you mean 'accuracy'"),
        ({"entries": entry(published={"fast": {"forwards": 1}})}, "'accuracy' is missing"),
        ({"entries": entry(published={"fast": {"accuracy": 101}})}, "accuracy must be a number from 0 to 100"),
        ({"entries": entry(published={"fast": {"accuracy": 1, "seconds": "2 s"}})}, "seconds must be a number"),
    ],
)
def test_mistakes_in_a_file(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(unmask.ConfigError, match=words):
        table(**changes)


def test_only_some_tasks() -> None:
    assert [entry.task for entry in table().only(["chain"]).entries] == ["chain"]
    with pytest.raises(unmask.ConfigError, match="did you mean 'chain'"):
        table().only(["chian"])


# --- running ----------------------------------------------------------------------------------------------------------


def gsm8k(folder: Path) -> Path:
    """Data of one question and one worked example."""
    (folder / "gsm8k").mkdir()
    for name, number in (("train", 2), ("test", 3)):
        row = {"question": f"Compute 1 + {number}.", "answer": f"1 + {number} = {1 + number}.\n#### {1 + number}"}
        (folder / "gsm8k" / f"{name}.jsonl").write_text((json.dumps(row) + "\n") * 6)
    return folder


def test_tasks_lie_in_folders_of_their_names_and_take_at_most(tmp_path: Path) -> None:
    wanted = table(entries=[*entry(task="gsm8k", shots=5), *entry()])
    asked = tasks(wanted, gsm8k(tmp_path), limit=2)
    assert [(task.name, len(task.items), task.shots) for task in asked] == [("gsm8k", 2, 5), ("arithmetic", 2, 0)]
    fewer = tasks(wanted, tmp_path, limit=100, shots=1)
    assert [(len(task.items), task.shots) for task in fewer] == [(6, 1), (100, 0)]
    assert fewer[0].items[0].prompt.count("Compute") == 2
    with pytest.raises(unmask.ConfigError, match="--data"):
        tasks(wanted, None)
    with pytest.raises(unmask.ConfigError, match="limit must be"):
        tasks(wanted, tmp_path, limit=0)


def test_what_does_not_fit_is_skipped_and_what_is_there_is_not_answered_again(
    model: unmask.Denoiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tasks(table(), None, limit=2)
    calls = []
    done = reproduce(model, table(), asked, folder=tmp_path, report=lambda entry, *rest: calls.append((entry.task, *rest[:2])))
    assert calls == [("arithmetic", "fast", 1), ("arithmetic", "fast", 2)]
    assert done[0].rows["fast"]["n"] == 2
    assert not done[0].skipped
    assert done[1].skipped is not None
    assert "512 tokens" in done[1].skipped
    assert (tmp_path / "arithmetic-0shot-160" / "fast.jsonl").exists()
    with monkeypatch.context() as patch:
        patch.setattr("unmask.evals.run.generate", None)
        assert reproduce(model, table(), asked, folder=tmp_path) == done
    with pytest.raises(unmask.PromptTooLong, match="no entry of the table fits"):
        reproduce(model, table().only(["chain"]), asked[1:])


def test_answers_with_fewer_examples_have_a_folder_of_their_own(model: unmask.Denoiser, tmp_path: Path) -> None:
    wanted = table(entries=entry(task="gsm8k", shots=5))
    done = reproduce(model, wanted, tasks(wanted, gsm8k(tmp_path), limit=1, shots=0), folder=tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["gsm8k-0shot-160"]
    assert done[0].differences == ("0 shots instead of 5",)


# --- comparing --------------------------------------------------------------------------------------------------------


def measured(low: float = 0.85, high: float = 0.95, too_long: int = 0) -> dict[str, Any]:
    return {
        "n": 100,
        "accuracy": 0.9,
        "accuracy_low": low,
        "accuracy_high": high,
        "forwards_mean": 12.345,
        "tokens_per_second": 99.99,
        "seconds_per_item": 0.125,
        "too_long": too_long,
    }


def compared(
    *,
    model: str = "unmask-tiny",
    differences: tuple[str, ...] = (),
    prompting: Prompting | None = None,
    **bounds: float,
) -> dict[str, Any]:
    first, second = table().entries
    outcomes = [
        Outcome(entry=first, rows={"fast": measured(**bounds)}, differences=differences),
        Outcome(entry=second, rows={}, skipped="nothing fits"),
    ]
    return document(table(), outcomes, model=model, device="cpu", batch=1, prompting=prompting)


@pytest.mark.parametrize(
    ("arguments", "inside"),
    [
        ({}, True),
        ({"model": "weights/unmask-tiny"}, True),
        ({"low": 0.91}, False),
        ({"high": 0.9}, False),
        ({"model": "another"}, None),
        ({"prompting": Prompting()}, True),
        ({"prompting": Prompting(chat_template=False)}, None),
        ({"differences": ("0 shots instead of 5",)}, None),
    ],
)
def test_agreement_is_claimed_only_for_comparable_numbers(arguments: dict[str, Any], inside: bool | None) -> None:
    found = compared(**arguments)
    ours, theirs = found["entries"][0]["rows"]
    assert ours["inside"] is inside
    assert theirs["inside"] is None
    assert json.loads(json.dumps(found)) == found
    page = markdown(found)
    cell = {True: "yes", False: "no", None: "-"}[inside]
    assert f"| 90.00 ({100 * arguments.get('low', 0.85):.1f} to" in page
    assert f"n 100 | {cell} | 12.3 | 100.0 | 0.12 |" in page
    asked = arguments.get("prompting") == Prompting(chat_template=False)
    assert ("Not comparable" in page) == (arguments.get("model") == "another" or asked)
    assert ("the model was asked without its chat template, in the paper with its chat template" in page) == asked
    assert ("0 shots instead of 5" in page) == ("differences" in arguments)
    assert "| arithmetic 0-shot, 160 | theirs | 50 | - | - | 2.5 | - | - | - | - | - |" in page
    assert "- chain, 512 tokens: not run, nothing fits." in page
    assert "- theirs: not run, unmask has no such method." in page
    assert "- Numbers are made up." in page


def test_another_task_is_never_called_the_same(model: unmask.Denoiser) -> None:
    wanted = table(entries=entry(instead_of="sums 4-shot"))
    done = reproduce(model, wanted, tasks(wanted, None, limit=1))
    assert done[0].differences == ("arithmetic with 0 shots stands in for sums 4-shot",)
    page = markdown(document(wanted, done, model="unmask-tiny", device="cpu", batch=1))
    assert "| arithmetic 0-shot for sums 4-shot, 160 | fast |" in page
    assert "not comparable, arithmetic with 0 shots stands in" in page


def test_prompts_that_do_not_fit_are_said(model: unmask.Denoiser) -> None:
    wanted = table().only(["arithmetic"])
    task = tasks(wanted, None, limit=2)[0]
    long = replace(task.items[0], prompt="apples " * 400)
    done = reproduce(model, wanted, [replace(task, items=(long, task.items[1]))])
    assert done[0].differences == ("1 of 2 prompts exceed the model's context and count as wrong",)


def test_published_numbers_alone() -> None:
    found = published(table())
    assert found["ours"] is None
    assert [row["ours"] for entry in found["entries"] for row in entry["rows"]] == [None, None, None]
    assert found["entries"][0]["rows"][0]["settings"]["commit"] == {"rule": "threshold", "threshold": 0.8}
    assert "| arithmetic 0-shot, 160 | fast | 90.5 | 11 | - | - | - | - | - | - | - |" in markdown(found)


def test_values_compare() -> None:
    assert Recipe(not_run="x") == Recipe(not_run="x")
    assert Entry(task="a", shots=0, max_new_tokens=1, published={"x": Published(accuracy=1)}).slug == "a-0shot-1"
