"""Countdown: make a target from numbers, in the two file layouts of dLLM papers: d1's and Dream's (see sudoku.py).

    {"input": "30,100,93", "output": "23"}                      d1: numbers, target
    {"input": "15,44,79,50", "output": "44-15=29,79-29=50"}     Dream: numbers and target, steps

Every number is used exactly once, as d1 demands and all of Dream's 3,000 references do.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import combinations
from typing import NamedTuple

from unmask.evals import shots
from unmask.evals.expression import evaluate
from unmask.evals.reading import Row, files, read
from unmask.evals.task import Item, Source, Task, chosen
from unmask.tasks.answers import boxed

RULES = (
    "Calculate a target from some numbers with +, -, * and /. Use every number exactly once; the result of a step may be used "
    "in a later step. Answer with the steps, separated by commas. For example, 10 from 2, 3, 4: 3*4=12,12-2=10"
)
MOST = 6  # numbers per problem; d1's have no reference, and finding one takes seconds for six numbers
# Markup around a calculation, and other spellings of signs, in models' answers.
_SIGNS = [
    (re.compile(r"^[ \t]*(?:[0-9]+[.)]|[-*\u2022])[ \t]+(?=[0-9(])", re.MULTILINE), ""),  # the mark of a list's entry
    (re.compile(r"\\left|\\right|\\?\$|(?<![0-9)])\*\*|\*\*(?![0-9(])"), ""),  # LaTeX, bold type
    (re.compile(r"[\u00d7\u00b7]|\\times|\\cdot|(?<=[0-9)]) *[xX] *(?=[0-9(])"), "*"),
    (re.compile(r"\u00f7|\\div"), "/"),
    (re.compile(r"[\u2212\u2013]"), "-"),
]


class Problem(NamedTuple):
    """Numbers, their target, and steps that reach it."""

    numbers: list[int]
    target: int
    steps: str


class Step(NamedTuple):
    """A calculation: its result, and the numbers in it."""

    result: Fraction
    used: list[Fraction]


def countdown(source: Source) -> Task:
    """The problems of a file, or of every countdown file of a folder, grouped by their number of numbers.

    An answer is right if it ends in steps, or one expression, that make the target.
    `source.shots` (0) takes that many problems from the top of each file as worked examples, as Dream's own evaluation does.
    Raises ConfigError for missing or malformed data.
    """
    number, items = source.shots or 0, list[Item]()
    for path in files(source.data, "*countdown*.jsonl", "cd*.jsonl"):
        problems = [_problem(row) for row in read(path, {"input": str, "output": str})]
        examples = [(_question(problem), problem.steps) for problem in shots.first(problems, number, str(path))]
        for place, problem in enumerate(problems[number:], start=number):
            question = _question(problem)
            items.append(
                Item(
                    id=f"{path.stem}-{place}",
                    prompt=f"{RULES}\n\n{shots.few_shot(examples, question) if examples else question}",
                    reference=problem.steps,
                    group=str(len(problem.numbers)),
                    facts={"numbers": problem.numbers, "target": problem.target},
                )
            )
    return Task(
        name="countdown",
        items=chosen(items, source, str(source.data)),
        metrics=("exact",),
        score=lambda item, answer: {"exact": makes(item.facts["numbers"], item.facts["target"], answer)},
        max_new_tokens=128,
        stop=shots.STOP if number else (),
        shots=number,
    )


def makes(numbers: Sequence[int], target: int, answer: str) -> bool:
    r"""Whether an answer ends in calculations that use every number once and make the target.

    If there are <answer> tags or a \boxed{}, only their content counts. Its last calculations are tried, at most as many as a
    solution has steps: attempts before them do not count.

    >>> makes([15, 44, 79], 50, "44-15=29, 79-29=50"), makes([15, 44, 79], 50, "So it is 79 - (44 - 15).")
    (True, True)
    >>> makes([15, 44, 79], 50, "79-29=50"), makes([15, 44, 79], 50, "44-15=30,79-29=50")
    (False, False)
    """
    tagged = answer.rpartition("<answer>")[2].partition("</answer>")[0]
    box = boxed(tagged)
    steps = _steps(tagged if box is None else box)
    return any(_make(numbers, target, steps[-count:]) for count in range(1, len(numbers)))


def _make(numbers: Sequence[int], target: int, steps: Iterable[Step | None]) -> bool:
    """Whether steps use up all numbers and all results of other steps, so that only the target is left."""
    left = Counter(map(Fraction, numbers))
    for step in steps:
        if step is None:
            return False
        for number in step.used:
            number = number if left[number] else abs(number)  # -15+44 uses 15
            if not left[number]:
                return False
            left[number] -= 1
        left[step.result] += 1
    return +left == Counter([Fraction(target)])


def _steps(text: str) -> list[Step | None]:
    """The calculations in a text; None for one that cannot be read or is wrong."""
    for written, sign in _SIGNS:
        text = written.sub(sign, text)
    pieces = re.split(r"[^-0-9.+*/()= ]+|\.(?![0-9])", text)
    return [_step(piece) for piece in pieces if re.search(r"[0-9)] *[-+*/]+ *[(0-9]", piece)]


def _step(piece: str) -> Step | None:
    """44-15=29, or 44-15 alone; of several equal expressions, the calculation is the one with most numbers."""
    try:
        sides = [evaluate(side) for side in piece.split("=") if side.strip()]
    except ValueError:
        return None
    results = {result for result, _ in sides}
    return Step(results.pop(), max((used for _, used in sides), key=len)) if len(results) == 1 else None


def _question(problem: Problem) -> str:
    return f"{problem.target} from {', '.join(map(str, problem.numbers))}"


def _problem(row: Row) -> Problem:
    asked, output = row["input"].split(","), row["output"].strip()
    if not all(re.fullmatch(r" *[0-9]{1,9} *", number) for number in asked):
        raise row.expected('whole numbers separated by commas as "input"')
    *numbers, target = map(int, asked)
    if re.fullmatch("[0-9]{1,9}", output):
        numbers, target, output = [*numbers, target], int(output), ""
    if not 2 <= len(numbers) <= MOST:
        raise row.expected(f"two to {MOST} numbers and a target")
    steps = output or _solution(numbers, target)
    if steps is None or not makes(numbers, target, steps):
        raise row.expected(f'an "output" that its "input" can make, got {row["output"]!r}')
    return Problem(numbers, target, steps)


def _solution(numbers: Sequence[int], target: int) -> str | None:
    """Steps that make the target through whole numbers, or None; tries every pair and every sign.

    >>> _solution([15, 44, 79], 50)
    '44-15=29,79-29=50'
    """
    if len(numbers) == 1:
        return "" if numbers[0] == target else None
    for one, other in combinations(range(len(numbers)), 2):
        rest = [number for place, number in enumerate(numbers) if place not in (one, other)]
        small, large = sorted((numbers[one], numbers[other]))
        results = {"+": large + small, "-": large - small, "*": large * small}
        if small and large % small == 0:
            results["/"] = large // small
        for sign, result in results.items():
            later = _solution([*rest, result], target)
            if later is not None:
                return f"{large}{sign}{small}={result}" + (f",{later}" if later else "")
    return None
