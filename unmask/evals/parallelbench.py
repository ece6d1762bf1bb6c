r"""ParallelBench's waiting lines from its own files (arXiv 2510.04767; github.com/furiosa-ai/ParallelBench), one per operation.

copy.jsonl            {"input": {"context": "[\"Amy\", \"Bo\"]"}, "answer": "[\"Amy\", \"Bo\"]"}
insert_random.jsonl   {"input": {"context": "[\"Amy\"]", "word": "Bo"}, "answer": {"input": ["Amy"], "example": "..."}}

The prompts are ours, without an example of the task, so that accuracies compare methods and not with the paper's. Its other
tasks (sentences, puzzles) are not read. The same operations with names of our own: `unmask eval waiting_line`.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from unmask.errors import ConfigError
from unmask.evals import shots
from unmask.evals.reading import Row, files, read
from unmask.evals.task import Item, Source, Task, chosen
from unmask.tasks.lists import KINDS, ListOperation

# {index} counts from 1, except for insert_index: there it is the number of words that stay before the new one.
ORDERS: Mapping[str, str] = {
    "copy": "Copy it.",
    "reverse": "Reverse it.",
    "sort": "Sort it by the alphabet.",
    "shuffle": "Put it into another order.",
    "insert_index": 'Insert "{word}" right behind number {index}.',
    "insert_random": 'Insert "{word}" at any place.',
    "remove_index": "Remove number {index}.",
    "remove_random": "Remove any one of it.",
    "replace_index": 'Replace number {index} by "{word}".',
    "replace_random": 'Replace any one of it by "{word}".',
}
FORMAT = 'Answer with the resulting list alone, like this: ["a", "b"]'
_LIST = re.compile(r"\[([^\[\]]*)\]")


def parallelbench(source: Source) -> Task:
    """The waiting lines of a file, or of all such files of a folder or its folder `waiting_line`, grouped by operation.

    "list" takes the last list that the answer holds, "strict" only a list and nothing else.
    Raises ConfigError for missing or malformed data, a file of another task, or worked examples.
    """
    shots.refuse("parallelbench", source)
    patterns = [f"{where}{kind}.jsonl" for where in ("", "waiting_line/") for kind in KINDS]
    items = [item for path in files(source.data, *patterns) for item in _items(path)]
    return Task(
        name="parallelbench",
        items=chosen(items, source, str(source.data)),
        metrics=("list", "strict"),
        score=lambda item, answer: {
            "list": item.facts["rule"].accepts(listed(answer) or ()),
            "strict": item.facts["rule"].accepts(_whole(answer)),
        },
        max_new_tokens=128,
    )


def listed(text: str) -> list[str] | None:
    """The words of the last list in a text, with or without quotes; None where there is none.

    >>> listed('So it is ["Amy", "Bo Li"].'), listed("[Amy, Bo]"), listed("Amy")
    (['Amy', 'Bo Li'], ['Amy', 'Bo'], None)
    """
    found = _LIST.findall(text)
    return [word.strip().strip("\"'") for word in found[-1].split(",") if word.strip()] if found else None


def _whole(text: str) -> list[str]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return found if isinstance(found, list) and all(isinstance(word, str) for word in found) else []


def _items(path: Path) -> list[Item]:
    kind = path.name.removesuffix(".gz").removesuffix(".jsonl")
    if kind not in KINDS:
        raise ConfigError(f"{path}: the file's name says the operation: {', '.join(f'{name}.jsonl' for name in KINDS)}")
    return [_item(kind, f"{kind}-{place}", row) for place, row in enumerate(read(path, {}))]


def _item(kind: str, number: str, row: Row) -> Item:
    asked, answer = row.values.get("input"), row.values.get("answer")
    line = listed(str(asked.get("context", ""))) if isinstance(asked, dict) else None
    expected = listed(str(answer.get("example", "") if isinstance(answer, dict) else answer))
    if not isinstance(asked, dict) or not line or not expected:
        raise row.expected('an "input" whose "context" is a list, and an "answer" that is one or has an "example"')
    try:
        order = ORDERS[kind].format_map(asked)
    except KeyError as missing:
        raise row.expected(f"{missing} in the input of {kind}") from None
    rule = ListOperation(kind=kind, line=tuple(line), name=str(asked.get("word", "")), expected=tuple(expected))
    if not rule.accepts(expected):
        raise row.expected(f"an answer that {kind} accepts")
    return Item(
        id=number,
        prompt=f"Here is a list: {asked['context']}\n{order} {FORMAT}",
        reference=json.dumps(expected),
        group=kind,
        facts={"rule": rule},
    )
