"""GSM8K: grade-school word problems (Cobbe et al. 2021, arXiv 2110.14168; github.com/openai/grade-school-math).

The worked examples are the first entries of train.jsonl beside test.jsonl.
"""

import re
from pathlib import Path

from unmask.errors import ConfigError
from unmask.evals import shots
from unmask.evals.reading import Row, files, read
from unmask.evals.task import Item, Source, Task, chosen
from unmask.tasks.answers import marked_number, stated_number

SHOTS = 5
FORMAT = "Reason step by step. End with a line that holds #### and then the final number, like this:\n#### 42"


def gsm8k(source: Source) -> Task:
    """The test split, after five worked examples or `source.shots`; without any, the prompt describes the format.

    "flexible" takes the number that the text states in whatever form, "strict" only a number after ####.
    Raises ConfigError for missing or malformed data.
    """
    number = SHOTS if source.shots is None else source.shots
    path = files(source.data, "test.jsonl")[0]
    examples = _examples(path, number) if number else []
    items = []
    for place, row in enumerate(_rows(path)):
        reference = _worked(row)
        question = row["question"]
        items.append(
            Item(
                id=f"{path.stem}-{place}",
                prompt=shots.few_shot(examples, question) if examples else f"{question}\n\n{FORMAT}",
                reference=reference,
                facts={"key": marked_number(reference)},
            )
        )
    return Task(
        name="gsm8k",
        items=chosen(items, source, str(path)),
        metrics=("flexible", "strict"),
        score=lambda item, answer: {
            "flexible": stated_number(answer) == item.facts["key"],
            "strict": marked_number(answer) == item.facts["key"],
        },
        max_new_tokens=256,
        stop=shots.STOP,
        shots=number,
    )


def _rows(path: Path) -> list[Row]:
    return read(path, {"question": str, "answer": str})


def _examples(test: Path, number: int) -> list[tuple[str, str]]:
    train = test.with_name("train.jsonl")
    if train == test:
        raise ConfigError(f"{train} holds the worked examples: use --shots 0 to run its questions")
    return [(row["question"], _worked(row)) for row in shots.first(_rows(train), number, str(train))]


def _worked(row: Row) -> str:
    """The worked answer without its calculator marks: <<16-3-4=9>>."""
    answer = re.sub(r"<<[^<>]*>>", "", row["answer"])
    if marked_number(answer) is None:
        raise row.expected('an "answer" that ends in "#### " and a number')
    return answer
