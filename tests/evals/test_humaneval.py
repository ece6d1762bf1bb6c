"""HumanEval: the program that is read from an answer, and whether it passes."""

import gzip
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import unmask
from tests.evals.shared_data import check_whole_file, places, write_lines
from unmask.evals import humaneval, load, sandbox
from unmask.evals.reading import read
from unmask.evals.task import Source, Task

ROWS = [
    {
        "task_id": "Own/0",
        "entry_point": "total",
        "prompt": 'from typing import List\n\n\ndef total(numbers: List[int]) -> int:\n    """Add the numbers up.\n    """\n',
        "canonical_solution": "    result = 0\n    for number in numbers:\n        result += number\n\n    return result\n",
        "test": "def check(candidate):\n    assert candidate([1, 2]) == 3\n    assert candidate([]) == 0\n",
    },
    {
        "task_id": "Own/1",
        "entry_point": "twice",
        "prompt": 'def double(x):\n    return 2 * x\n\n\ndef twice(x):\n    """Double x two times."""\n',
        "canonical_solution": "    return double(double(x))",
        "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    assert candidate(3) == 12\n",
    },
    {
        "task_id": "Own/2",
        "entry_point": "root",
        "prompt": 'import math\n\ndef root(x):\n    """The whole part of the square root."""\n',
        "canonical_solution": "    return math.isqrt(x)\n",
        "test": "def check(candidate):\n    assert candidate(10) == 3\n",
    },
]
WHOLE = "def total(numbers):\n    return sum(numbers)\n"


def write(folder: Path) -> Path:
    write_lines(folder / "HumanEval.jsonl", ROWS)
    return folder


@pytest.fixture(params=["written", *places("humaneval")], ids=str)
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write(tmp_path) if request.param == "written" else request.param


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return load("humaneval", Source(data=write(tmp_path)))


def bodies(task: Task) -> list[str]:
    """The references as a base model writes them: the lines after the prompt."""
    heads = [item.facts["helpers"] + item.facts["head"] for item in task.items]
    return [item.reference.removeprefix(f"```python\n{head}") for item, head in zip(task.items, heads, strict=True)]


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_references_pass_and_others_do_not(data: Path, whole: bool) -> None:
    task = load("humaneval", Source(data=data))
    assert (task.name, task.metrics, task.shots) == ("humaneval", ("pass",), 0)
    if not whole:
        task = load("humaneval", Source(data=data, limit=min(12, len(task.items)), seed=1))
    check_whole_file(task, lambda item, other: False)
    for item, following in zip(task.items, bodies(task), strict=True):
        assert "```python" not in following
        assert task.score(item, following.removesuffix("```")) == {"pass": True}, item.id
        assert task.score(item, "    return None\n") == {"pass": False}, item.id


def test_what_is_asked(task: Task, tmp_path: Path) -> None:
    item = task.items[1]
    assert (item.id, item.facts["entry_point"]) == ("Own/1", "twice")
    assert item.prompt.endswith(ROWS[1]["prompt"])
    assert "code block" in item.prompt
    content = gzip.compress((tmp_path / "HumanEval.jsonl").read_bytes())
    (tmp_path / "HumanEval.jsonl.gz").write_bytes(content)
    (tmp_path / "HumanEval.jsonl").unlink()
    assert load("humaneval", Source(data=tmp_path)).items == task.items


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (WHOLE, True),
        (f"Here it is:\n\n```python\n{WHOLE}```\nIt adds them.", True),
        (f"```\n{WHOLE}```", True),
        (f"```python\n{WHOLE}", True),  # cut off by a stop string or by its length
        (f"```py\n{WHOLE}print(total([1]))\n```\nUse:\n```python\nfrom sums import total\nprint(total([1, 2]))\n```", True),
        (f"First try:\n```python\ndef total(numbers): return 0\n```\nNo, better:\n```python\n{WHOLE}```", True),
        (f"```python\n{WHOLE}```\nNo, worse:\n```python\ndef total(numbers): return 0\n```", False),
        ("1. So:\n\n" + textwrap.indent(f"```python\n{WHOLE}```\n", "   "), True),
        ("```python\n    return sum(numbers)\n```", True),
        ("```python\ntotal = sum\n```", True),
        ("async def helper(): pass\n\ndef total(numbers):\n    return sum(numbers)", True),
        (f"{WHOLE}\nif __name__ == '__main__':\n    raise SystemExit(input())", True),
        ("    return sum(numbers)", True),
        ("    return sum(numbers)\n\n\ndef main():\n    nonsense(", True),
        ("    return sum(numbers)\n\nNow the next function, which is no Python", True),
        ("    return sum(numbers)\n```\nThis adds them up.\n", True),
        ("   result = sum(numbers)\n    return result", True),  # tokenizers drop a space
        ("result = sum(numbers)\n    return result", True),
        ("\n    result = 0\n# a comment\n    return result + sum(numbers)", True),
        (
            "\n\n    def add(x, y):\n        return x + y\n\n    return __import__('functools').reduce(add, numbers, 0)\nx = 1",
            True,
        ),
        (f"Here is the function:\n\n{WHOLE}", True),
        (f"{WHOLE}\nThis sums the numbers.\n", True),
        (f"Sure! Here's the code.\n\n{WHOLE}\nExplanation\n\n- it sums\n* and returns\n", True),
        (f"{WHOLE}\n>>> total([1, 2])\n3\n", True),
        (
            "```python\ndef add(x, y):\n    return x + y\n```\nThen:\n```python\ndef total(numbers):\n    s = 0\n"
            "    for n in numbers:\n        s = add(s, n)\n    return s\n```",
            True,
        ),
        (
            "```python\ndef total(numbers):\n    return add(*ZERO, sum(numbers))\n```\nwith\n```python\nZERO = [0]\n"
            "def add(x, y):\n    return x + y\nassert False\n```",
            True,
        ),
        (
            "def helper(x):\n    return sum(x)\n\nAnd now the function:\n\ndef total(numbers):\n    return helper(numbers)\n",
            True,
        ),
        ("The body is:\n\n    result = sum(numbers)\n    return result\n\nDone.", True),
        (f"```python\n{WHOLE}```\nAlternatively, worse:\n```python\ndef total(numbers):\n    return 0\n```", True),
        (f"```python\n{WHOLE}```\nOr else:\n```python\ndef total(numbers): return 0\n```", True),
        (
            '```python\ndef total(numbers):\n    """Sum.\n\n    ```\n    total([1])\n    ```\n    """\n'
            "    return sum(numbers)\n```",
            True,
        ),
        ('def total(numbers):\n    """Sum.\n\n    ```\n    total([1])\n    ```\n    """\n    return sum(numbers)\n', True),
        ('```\ndef total(numbers):\n    """\n```\ntotal([1])\n```\n    """\n    return sum(numbers)\n```\nGood.', True),
        (f"~~~python\n{WHOLE}~~~\nIt adds.", True),
        (f"````python\n{WHOLE}````\nIt adds.", True),
        ("from typing import Callable\ntotal: Callable = lambda numbers: sum(numbers)", True),
        ("class Solution:\n    def total(self, numbers):\n        return sum(numbers)", True),
        ("So:\n```python\nclass Solution:\n    def total(self, numbers):\n        return sum(numbers)\n```\nDone", True),
        (WHOLE.replace(" ", "\u00a0"), True),
        ("    return sum(numbers)".replace(" ", "\u00a0"), True),
        ("As asked:\n\n" + textwrap.indent(f"```python\n{WHOLE}```\n", "> "), True),
        (textwrap.indent(WHOLE, "> "), True),
        (f"It is <code>total</code>:\n<pre><code class='python'>\n{WHOLE}</code></pre>", True),
        ("<code>def total(numbers):\n    return sum(n for n in numbers if n &lt; 99)\n</code>", True),
        (f"{WHOLE}\ndef unfinished(x", True),
        (
            "try:\n    import nothing_at_all\nexcept ImportError:\n    zero = 0\nelse:\n    zero = 1\nHence\n\n"
            "def total(numbers):\n    return sum(numbers, zero)\n",
            True,
        ),
        ("Here it is:\n\ndef total(numbers):\n    return 3\n\nIt sums them.", False),
        ("class Solution:\n    def total(self, numbers):\n        return 3", False),
        ("class Solution:\n    def sum(self, numbers):\n        return sum(numbers)", False),
        (f"Not this:\n\n{WHOLE}\nbut\n\ndef total(numbers):\n    return 0\n", False),
        (f"{WHOLE}\nraise SystemExit\n\nis how it ends", False),
        ("The body is:\n\n    return 3\n", False),
        ("", False),
        ("I do not know.", False),
        ("total([1, 2]) == 3", False),
        ("    return 3", False),
        ("    import os; os._exit(0)", False),
        ("    raise SystemExit(0)", False),
        ("```python\nimport sys\nsys.exit(0)\n```", False),
        (f"{WHOLE}check = print\nassert False", False),
    ],
)
def test_answers(task: Task, answer: str, right: bool) -> None:
    assert task.score(task.items[0], answer) == {"pass": right}


def test_helpers_and_imports_of_the_prompt_are_there(task: Task) -> None:
    for answer in ("def twice(x):\n    return double(double(x))", "    return double(double(x))"):
        assert task.score(task.items[1], answer) == {"pass": True}
    assert task.score(task.items[2], "def root(x):\n    return math.isqrt(x)") == {"pass": True}


def test_stop_strings_spare_what_is_needed(task: Task) -> None:
    for item in task.items:
        assert not any(stop in item.reference for stop in task.stop)


@given(
    answer=st.text() | st.lists(st.sampled_from(["```", "```python", "\n", "def total", "(", "    ", "x", "#"])).map("".join)
)
def test_any_answer_becomes_a_program(answer: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write(tmp_path_factory.getbasetemp()) / "HumanEval.jsonl"
    item = humaneval._item(read(path, humaneval.FIELDS)[0])
    assert humaneval._program(item, answer).endswith("\n\ncheck(total)\n")


def test_any_answer_gets_a_verdict(task: Task) -> None:
    for answer in ("\0", "\ud800", "```" * 1000, "(" * 10**5, "\t\n \n", "```python\n```", "def total(" * 100):
        assert task.score(task.items[0], answer) == {"pass": False}


def test_wrong_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(unmask.ConfigError, match="leave --shots out"):
        load("humaneval", Source(data=write(tmp_path), shots=2))
    with pytest.raises(unmask.ConfigError, match="has 3 items"):
        load("humaneval", Source(data=tmp_path, limit=4))
    for row, words in (
        ({"prompt": "def other():\n"}, r'jsonl:2: expected a "prompt" that begins the function total'),
        ({"test": 3}, r'jsonl:2: expected \{"task_id": text'),
        ({"task_id": "Own/1"}, r'jsonl:2: expected another "task_id" in every row'),
    ):
        write_lines(tmp_path / "HumanEval.jsonl", [ROWS[1], ROWS[0] | row])
        with pytest.raises(unmask.ConfigError, match=words):
            load("humaneval", Source(data=tmp_path))
        packed = tmp_path / "packed.jsonl.gz"
        packed.write_bytes(gzip.compress((tmp_path / "HumanEval.jsonl").read_bytes()))
        with pytest.raises(unmask.ConfigError, match=rf"{tmp_path}/packed\.jsonl\.gz:2"):
            load("humaneval", Source(data=packed))
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(unmask.ConfigError, match=r"packed\.jsonl\.gz: not a gzip file, or cut short"):
        load("humaneval", Source(data=packed))

    def refuse() -> None:
        raise unmask.ConfigError("no sandbox")

    monkeypatch.setattr(sandbox, "check", refuse)
    with pytest.raises(unmask.ConfigError, match="no sandbox"):
        load("humaneval", Source(data=write(tmp_path)))
