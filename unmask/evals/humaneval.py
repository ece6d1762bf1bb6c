"""HumanEval: complete a Python function (Chen et al. 2021, arXiv 2107.03374; github.com/openai/human-eval).

The answer may be the whole function, in a fenced block or bare, or the lines after its head, as a base model writes them.
"""

import re

from unmask.evals import sandbox, shots
from unmask.evals.reading import Row, read, split_files
from unmask.evals.task import Item, Source, Task, chosen
from unmask.evals.written import continuation, program

FIELDS = {"task_id": str, "prompt": str, "entry_point": str, "canonical_solution": str, "test": str}
REQUEST = "Complete this Python function. Answer with the whole function in one Python code block."
# Statements after a finished function; inside a function they would be indented.
STOP = ("\nif __name__", "\nassert ", "\nprint(")


def humaneval(source: Source) -> Task:
    """The 164 functions; a right answer passes the function's unit tests.

    Raises ConfigError for missing or malformed data, or shots, or if no sandbox can be made.
    """
    shots.refuse("humaneval", source)
    paths = split_files(source.data, "HumanEval.jsonl.gz", "HumanEval.jsonl", configs=("openai_humaneval",))
    items = [_item(row) for row in read(paths, FIELDS, unique="task_id")]
    sandbox.check()
    return Task(
        name="humaneval",
        items=chosen(items, source, str(paths[0])),
        metrics=("pass",),
        score=lambda item, answer: {"pass": sandbox.run(_program(item, answer)).passed},
        max_new_tokens=512,
        stop=STOP,
    )


def _program(item: Item, answer: str) -> str:
    """The prompt's imports and helpers, the answer's function, the tests, and their call."""
    name = item.facts["entry_point"]
    function = program(answer, [name])
    if function is None:
        function = item.facts["head"] + continuation(answer, item.facts["head"])
    return f"{item.facts['helpers']}\n{function}\n\n{item.facts['test']}\n\ncheck({name})\n"


def _item(row: Row) -> Item:
    prompt, name = row["prompt"], row["entry_point"]
    starts = [match.start() for match in re.finditer(rf"^def {re.escape(name)}\(", prompt, re.MULTILINE)]
    if not starts:
        raise row.expected(f'a "prompt" that begins the function {name}')
    return Item(
        id=row["task_id"],
        prompt=f"{REQUEST}\n\n{prompt}",
        reference=f"```python\n{prompt}{row['canonical_solution']}\n```",
        facts={"helpers": prompt[: starts[-1]], "head": prompt[starts[-1] :], "entry_point": name, "test": row["test"]},
    )
