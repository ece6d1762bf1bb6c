"""MATH-500: 500 problems of MATH's test split (Lightman et al. 2023, arXiv 2305.20050; github.com/openai/prm800k)."""

from unmask.evals import shots
from unmask.evals.math_verifier import MathVerifier
from unmask.evals.reading import read, split_files
from unmask.evals.task import Item, Source, Task, chosen
from unmask.tasks.answers import after_answer_is, boxed

FIELDS = {"problem": str, "solution": str, "answer": str, "level": int, "unique_id": str}
LONGEST = 1000  # characters of an answer; keys have 60 at most, and long answers take long to parse
FORMAT = r"Reason step by step and put the final answer in \boxed{}."


def math500(source: Source) -> Task:
    r"""The problems, grouped by level; an answer is right if math-verify finds it equal to the key.

    The answer is the last \boxed{...} or, without one, the text after "answer is".
    Raises ConfigError for missing or malformed data, for shots, or if math-verify is not installed.
    """
    shots.refuse("math500", source)
    paths = split_files(source.data, "test.jsonl")
    items = []
    for row in read(paths, FIELDS, unique="unique_id"):
        if boxed(row["solution"]) is None:
            raise row.expected(r'a "solution" with its answer in \boxed{}')
        items.append(
            Item(
                id=row["unique_id"],
                prompt=f"{row['problem']}\n\n{FORMAT}",
                reference=row["solution"],
                group=str(row["level"]),
                facts={"key": row["answer"]},
            )
        )
    verifier = MathVerifier()
    return Task(
        name="math500",
        items=chosen(items, source, str(paths[0])),
        metrics=("exact",),
        score=lambda item, answer: {"exact": _right(verifier, item.facts["key"], answer)},
        max_new_tokens=512,
    )


def _right(verifier: MathVerifier, key: str, answer: str) -> bool:
    box = boxed(answer)
    stated = after_answer_is(answer) if box is None else rf"\boxed{{{box}}}"
    return stated is not None and len(stated) <= LONGEST and verifier.same(rf"\boxed{{{key}}}", stated)
