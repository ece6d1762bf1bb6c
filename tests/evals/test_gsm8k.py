"""GSM8K: prompts with worked examples, two ways to read an answer."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import unmask
from tests.evals.shared_data import check_whole_file, places, write_lines
from unmask.evals import load
from unmask.evals.task import Source

TRAIN = [{"question": f"What is {n} + 1?", "answer": f"{n} + 1 = <<{n}+1={n + 1}>>{n + 1}\n#### {n + 1}"} for n in range(8)]
TEST = [
    {"question": "How much are 7 robes?", "answer": "They are $<<7*300=2100>>2,100.\n#### 2,100"},
    {"question": "How cold is it?", "answer": "It is 3 - 13 = <<3-13=-10>>-10.\n#### -10"},
    {"question": "How much is half of it?", "answer": "Half is <<1/2=.5>>.5.\n#### 0.5"},
]


def write(folder: Path) -> Path:
    write_lines(folder / "train.jsonl", TRAIN)
    write_lines(folder / "test.jsonl", TEST)
    return folder


@pytest.fixture(params=["written", *places("gsm8k")], ids=str)
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write(tmp_path) if request.param == "written" else request.param


def test_the_whole_file(data: Path) -> None:
    task = load("gsm8k", Source(data=data))
    assert (task.name, task.metrics, task.shots) == ("gsm8k", ("flexible", "strict"), 5)
    check_whole_file(task, lambda item, other: item.facts["key"] == other.facts["key"])
    assert not any("<<" in item.prompt + item.reference for item in task.items)
    assert {item.prompt.count("Question: ") for item in task.items} == {6}


def test_prompts(tmp_path: Path) -> None:
    write(tmp_path)
    asked = load("gsm8k", Source(data=tmp_path, shots=2)).items[0].prompt
    assert asked == (
        "Question: What is 0 + 1?\nAnswer: 0 + 1 = 1\n#### 1\n\n"
        "Question: What is 1 + 1?\nAnswer: 1 + 1 = 2\n#### 2\n\n"
        "Question: How much are 7 robes?\nAnswer:"
    )
    task = load("gsm8k", Source(data=tmp_path, shots=0))
    assert task.shots == 0
    assert task.items[0].prompt.startswith("How much are 7 robes?\n\n")
    assert "####" in task.items[0].prompt


def test_the_file_itself_and_ids_that_do_not_move(tmp_path: Path) -> None:
    whole = load("gsm8k", Source(data=write(tmp_path)))
    assert load("gsm8k", Source(data=tmp_path / "test.jsonl")).items == whole.items
    prompts = {item.id: item.prompt for item in whole.items}
    some = load("gsm8k", Source(data=tmp_path, limit=2, seed=3)).items
    assert len(some) == 2
    assert all(prompts[item.id] == item.prompt for item in some)
    assert "\nQuestion:" in whole.stop


@pytest.mark.parametrize(
    ("answer", "flexible", "strict"),
    [
        ("#### 2100", True, True),
        ("#### $2,100.00 dollars", True, True),
        ("It costs $2,100.", True, False),
        (r"\boxed{2100}", True, False),
        ("The answer is 2,100, for 7 robes", True, False),
        ("#### 2100\n#### 2101", False, False),
        ("2100, or rather 2101", False, False),
        ("#### 2.100", False, False),
        ("#### -2100", False, False),
        ("", False, False),
    ],
)
def test_flexible_and_strict(tmp_path: Path, answer: str, flexible: bool, strict: bool) -> None:
    task = load("gsm8k", Source(data=write(tmp_path)))
    assert task.score(task.items[0], answer) == {"flexible": flexible, "strict": strict}


@given(answer=st.text() | st.text(alphabet="#$-,. 0123456789"))
def test_any_answer_gets_a_verdict(answer: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    task = load("gsm8k", Source(data=write(tmp_path_factory.getbasetemp())))
    verdicts = task.score(task.items[0], answer)
    assert set(verdicts) == set(task.metrics)
    assert verdicts["flexible"] or not verdicts["strict"]


def test_wrong_data(tmp_path: Path) -> None:
    with pytest.raises(unmask.ConfigError, match=r"holds no test\.jsonl"):
        load("gsm8k", Source(data=tmp_path))
    write(tmp_path)
    with pytest.raises(unmask.ConfigError, match=r"train\.jsonl has 8 rows: ask for fewer than 8 shots"):
        load("gsm8k", Source(data=tmp_path, shots=8))
    with pytest.raises(unmask.ConfigError, match=r"test\.jsonl has 3 items"):
        load("gsm8k", Source(data=tmp_path, limit=4))
    with pytest.raises(unmask.ConfigError, match=r"train\.jsonl holds the worked examples"):
        load("gsm8k", Source(data=tmp_path / "train.jsonl"))
    assert len(load("gsm8k", Source(data=tmp_path / "train.jsonl", shots=0)).items) == 8
    write_lines(tmp_path / "test.jsonl", [*TEST, {"question": "How many?", "answer": "Ten.\n#### ten"}])
    with pytest.raises(unmask.ConfigError, match=r'test\.jsonl:4: expected an "answer" that ends in "#### " and a number'):
        load("gsm8k", Source(data=tmp_path))
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(
        unmask.ConfigError, match=r"holds no train\.jsonl, .* 5 worked examples are read there, and --shots 0 needs none"
    ):
        load("gsm8k", Source(data=tmp_path / "test.jsonl"))
