"""SVAMP: one-step word problems (Patel et al. 2021, arXiv 2103.07191; github.com/arkilpatel/SVAMP)."""

from decimal import Decimal

from unmask.evals import shots
from unmask.evals.reading import Row, number, read, split_files
from unmask.evals.task import Item, Source, Task, chosen
from unmask.tasks.answers import stated_number

FIELDS = {"ID": str, "Body": str, "Question": str, "Answer": Decimal, "Type": str}
FORMAT = 'Reason step by step and end with "The answer is" and the number.'


def svamp(source: Source) -> Task:
    """The 1,000 problems, grouped by operation; an answer is right if it states the number, in whatever form.

    Raises ConfigError for missing or malformed data, or shots.
    """
    shots.refuse("svamp", source)
    paths = split_files(source.data, "test.json", "test.jsonl")
    items = []
    for row in read(paths, FIELDS, unique="ID"):
        key = number(row["Answer"])
        assert key is not None
        items.append(
            Item(
                id=row["ID"],
                prompt=f"{_question(row)}\n\n{FORMAT}",
                reference=f"The answer is {key:f}.",
                group=row["Type"].replace("Divison", "Division"),  # one of the 1,000 is misspelt
                facts={"key": key},
            )
        )
    return Task(
        name="svamp",
        items=chosen(items, source, str(paths[0])),
        metrics=("exact",),
        score=lambda item, answer: {"exact": stated_number(answer) == item.facts["key"]},
        max_new_tokens=256,
    )


def _question(row: Row) -> str:
    """Body and question, as one sentence if the body has no full stop (a third of them)."""
    body = row["Body"].strip()
    return f"{body}{'' if body.endswith('.') else ','} {row['Question'].strip()}"
