"""GSM8K: grade-school word problems (Cobbe et al. 2021, arXiv 2110.14168; github.com/openai/grade-school-math).

The worked examples are the first entries of train.jsonl beside test.jsonl, or of the split train (openai/gsm8k on the hub).
"""

import re
from collections.abc import Sequence
from pathlib import Path

from unmask.errors import ConfigError
from unmask.evals import shots
from unmask.evals.reading import Row, read, split_files
from unmask.evals.task import Item, Source, Task, chosen
from unmask.tasks.answers import marked_number, stated_number

SHOTS = 5
CONFIGS = ("main",)
FORMAT = "Reason step by step. End with a line that holds #### and then the final number, like this:\n#### 42"


def gsm8k(source: Source) -> Task:
    """The test split, after five worked examples or `source.shots`; without any, the prompt describes the format.

    "flexible" takes the number that the text states in whatever form, "strict" only a number after ####.
    Raises ConfigError for missing or malformed data.
    """
    number = SHOTS if source.shots is None else source.shots
    paths = split_files(source.data, "test.jsonl", configs=CONFIGS)
    examples = _examples(source.data, paths, number) if number else []
    items, split = [], re.sub(r"-[0-9]+-of-[0-9]+.*", "", paths[0].stem)
    for place, row in enumerate(_rows(paths)):
        reference = _worked(row)
        question = row["question"]
        items.append(
            Item(
                id=f"{split}-{place}",
                prompt=shots.few_shot(examples, question) if examples else f"{question}\n\n{FORMAT}",
                reference=reference,
                facts={"key": marked_number(reference)},
            )
        )
    return Task(
        name="gsm8k",
        items=chosen(items, source, str(paths[0])),
        metrics=("flexible", "strict"),
        score=lambda item, answer: {
            "flexible": stated_number(answer) == item.facts["key"],
            "strict": marked_number(answer) == item.facts["key"],
        },
        max_new_tokens=256,
        stop=shots.STOP,
        shots=number,
    )


def _rows(paths: Sequence[Path]) -> list[Row]:
    return read(paths, {"question": str, "answer": str})


def _examples(data: Path | None, test: Sequence[Path], number: int) -> list[tuple[str, str]]:
    """Of the training split where the questions are from, or beside their file where that was named."""
    place = test[0].parent if data is None or data.is_file() else data
    try:
        train = split_files(place, "train.jsonl", split="train", configs=CONFIGS)
    except ConfigError as error:
        raise ConfigError(f"{error}; {number} worked examples are read there, and --shots 0 needs none") from None
    if set(train) & set(test):
        raise ConfigError(f"{train[0]} holds the worked examples: use --shots 0 to run its questions")
    return [(row["question"], _worked(row)) for row in shots.first(_rows(train), number, str(train[0]))]


def _worked(row: Row) -> str:
    """The worked answer without its calculator marks: <<16-3-4=9>>."""
    answer = re.sub(r"<<[^<>]*>>", "", row["answer"])
    if marked_number(answer) is None:
        raise row.expected('an "answer" that ends in "#### " and a number')
    return answer
