"""HumanEval: complete a Python function (Chen et al. 2021, arXiv 2107.03374; github.com/openai/human-eval).

The answer may be the whole function, in a fenced block or bare, or the lines after its head, as a base model writes them.
"""

import re
from collections.abc import Callable

from unmask.evals import sandbox, shots
from unmask.evals.reading import Row, files, read
from unmask.evals.task import Item, Source, Task, chosen

FIELDS = {"task_id": str, "prompt": str, "entry_point": str, "canonical_solution": str, "test": str}
REQUEST = "Complete this Python function. Answer with the whole function in one Python code block."
# Statements after a finished function; inside a function they would be indented.
STOP = ("\nif __name__", "\nassert ", "\nprint(")

# A block without its closing fence, which may be cut off, counts too.
_BLOCK = re.compile(r"^([ \t]*)```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)


def humaneval(source: Source) -> Task:
    """The 164 functions; a right answer passes the function's unit tests.

    Raises ConfigError for missing or malformed data, or shots, or if no sandbox can be made.
    """
    shots.refuse("humaneval", source)
    path = files(source.data, "HumanEval.jsonl.gz", "HumanEval.jsonl")[0]
    items = [_item(row) for row in read(path, FIELDS, unique="task_id")]
    sandbox.check()
    return Task(
        name="humaneval",
        items=chosen(items, source, str(path)),
        metrics=("pass",),
        score=lambda item, answer: {"pass": sandbox.run(_program(item, answer)).passed},
        max_new_tokens=512,
        stop=STOP,
    )


def code(text: str, accepts: Callable[[str], bool]) -> str:
    r"""The program in an answer: the last fenced block that `accepts` takes, else the text before the first block if it does.

    Otherwise the longest block; without a block, or if the text begins indented and so continues the prompt, the text.

    >>> code("Like this:\n```python\nx = 1\n```\nUse it:\n```python\nprint(x, x)\n```", lambda block: "x =" in block)
    'x = 1\n'
    """
    found = list(_BLOCK.finditer(text))
    before = text[: found[0].start()] if found else text
    blocks = [re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, block in (match.groups() for match in found)]
    for part in (*reversed(blocks), before):
        if accepts(part):
            return part
    goes_on = re.match(r"\n*(?: {2}|\t)", before) is not None
    return before if goes_on or not blocks else max(blocks, key=len)


def defines(program: str, name: str) -> bool:
    r"""Whether a program defines that name at its top level.

    >>> defines("def double(x):\n    return 2 * x", "double"), defines("double(3)", "double")
    (True, False)
    """
    name = re.escape(name)
    return re.search(rf"^(?:(?:async[ \t]+)?def[ \t]+{name}\b|{name}[ \t]*=(?!=))", program, re.MULTILINE) is not None


def body(text: str) -> str:
    r"""The part of a continuation that belongs to the function: all lines up to the next statement at the top level.

    The first line always belongs to it: some tokenizers drop the spaces at the start of a text.

    >>> body(" y = x + 1\n    return y\n\nprint(2)\n")
    '    y = x + 1\n    return y\n\n'
    """
    text = "    " + text.lstrip()
    end = re.search(r"^[^\s#]", text, re.MULTILINE)
    return text[: end.start()] if end else text


def _program(item: Item, answer: str) -> str:
    """The prompt's imports and helpers, the answer's function, the tests, and their call."""
    name = item.facts["entry_point"]
    found = code(answer, lambda part: defines(part, name))
    function = found if defines(found, name) else item.facts["head"] + body(found)
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
