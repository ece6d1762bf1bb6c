"""MBPP: short Python functions from a sentence and its tests (Austin et al. 2021, arXiv 2108.07732; google-research/mbpp).

mbpp.jsonl or its hand-checked subset sanitized-mbpp.json. Task ids 11 to 510 are the test split, 2 to 10 the examples; the hub
(google-research-datasets/mbpp) has the two as configurations, full and sanitized, and the examples as the split prompt.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from unmask.errors import ConfigError
from unmask.evals import sandbox
from unmask.evals.humaneval import STOP
from unmask.evals.reading import Row, read, split_files
from unmask.evals.task import Item, Source, Task, chosen
from unmask.evals.written import longest, program

FIELDS = {"task_id": int, "code": str, "test_list": list}
CONFIGS = ("full", "sanitized")
TEST, EXAMPLES, SHOTS = range(11, 511), range(2, 11), 3
REQUEST = "Answer with one Python code block."


def mbpp(source: Source) -> Task:
    """The test split after three examples (task ids 2, 3, 4), or `source.shots`; a right answer passes all tests.

    Examples stand between [BEGIN] and [DONE]; without any, the prompt asks for a code block.
    Raises ConfigError for missing or malformed data, too many shots, or if no sandbox can be made.
    """
    number = SHOTS if source.shots is None else source.shots
    paths = _files(source, number)
    path = paths[0]
    rows = [(row["task_id"], _item(row)) for row in read(paths, FIELDS, unique="task_id")]
    examples = [item for task_id, item in rows if task_id in EXAMPLES]
    if number > len(examples):
        raise ConfigError(f"{path} has {len(examples)} examples, task ids 2 to 10: ask for no more --shots than that")
    solved = "".join(f"{item.prompt}\n[BEGIN]\n{item.reference}\n[DONE]\n\n" for item in examples[:number])
    items = [
        replace(item, prompt=f"{solved}{item.prompt}\n[BEGIN]\n" if number else f"{item.prompt}\n\n{REQUEST}")
        for task_id, item in rows
        if task_id in TEST
    ]
    if not items:
        raise ConfigError(f"{path} has none of the task ids 11 to 510")
    sandbox.check()
    return Task(
        name="mbpp",
        items=chosen(items, source, str(path)),
        metrics=("pass",),
        score=lambda item, answer: {"pass": sandbox.run(_program(item, answer)).passed},
        max_new_tokens=256,
        stop=("[DONE]",) if number else STOP,
        shots=number,
    )


def _files(source: Source, examples: int) -> list[Path]:
    """One file of all splits, or the test split and, for worked examples, the split prompt beside it."""
    own = ("mbpp.jsonl", "sanitized-mbpp.json")
    found = split_files(source.data, *own, configs=CONFIGS)
    if found[0].name in own or found == [source.data] or not examples:
        return found
    return [*found, *split_files(source.data, *own, split="prompt", configs=CONFIGS)]


def _item(row: Row) -> Item:
    """The item without examples in its prompt."""
    sentence = row.values.get("text", row.values.get("prompt"))
    setup = row.values.get("test_setup_code", row.values.get("test_imports"))
    if isinstance(setup, list):
        setup = "\n".join(map(str, setup))
    tests: list[Any] = row["test_list"]
    if not isinstance(sentence, str) or not isinstance(setup, str) or not tests or not all(isinstance(t, str) for t in tests):
        raise row.expected('a "text" or "prompt", "test_setup_code" or "test_imports", and texts as "test_list"')
    solution = row["code"].replace("\r\n", "\n").rstrip()
    called = "\n".join(tests)
    return Item(
        id=str(row["task_id"]),
        prompt=f"You are an expert Python programmer, and here is your task: {sentence.strip()} "
        f"Your code should pass these tests:\n\n{called}",
        reference=solution,
        facts={
            "names": [name for name in re.findall(r"^def\s+(\w+)", solution, re.M) if re.search(rf"\b{name}\b", called)],
            "tests": f"{setup}\n{called}",  # the setup may use names that the solution defines
        },
    )


def _program(item: Item, answer: str) -> str:
    written = answer.rpartition("[BEGIN]")[2].partition("[DONE]")[0]
    found = program(written, item.facts["names"])
    return f"{longest(written) if found is None else found}\n\n{item.facts['tests']}\n"
