"""What holding an answer to a grammar, and filling a hole, cost in accuracy and forwards on the embedded model.

    python benchmarks/abilities.py -n 200 -o runs/abilities.jsonl     # some minutes on one core

Every kind answers the same held-out word problems, and an answer is right by what it states; `valid` is whether it is a text of
its grammar, by Python's `re` or by whether it parses as JSON. The same command resumes, and prints what is there already.
"""

import argparse
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import unmask
from unmask.engine.holes import CanvasPrompt
from unmask.evals.statistics import wilson
from unmask.files import Journal
from unmask.models.loading import fingerprint, locate
from unmask.tasks import problems
from unmask.tasks.problem import Problem

PATTERN = r"(.*)The answer is [0-9]+\."
NUMBER, STEPS = {"type": "integer"}, {"type": "array", "items": {"type": "string"}}
EQUATION = re.compile(r"\d+ [-+] \d+ = \d+")
TOKENS, BATCH = 128, 20


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How the problems are asked, and which answers are valid and right."""

    asks: Callable[[Any, Problem], str | CanvasPrompt]
    right: Callable[[Problem, str], bool]
    valid: Callable[[str], bool] = lambda text: True
    held: Callable[[], dict[str, Any]] = dict


def schema(**properties: Any) -> dict[str, Any]:
    return {"json_schema": {"type": "object", "properties": properties, "required": list(properties)}}


def question(model: Any, problem: Problem) -> str:
    return problem.question


def stated(problem: Problem, text: str) -> bool:
    """Whether JSON states the problem's result."""
    return is_json(text) and json.loads(text)["answer"] == int(problem.key)


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def sentences(problem: Problem) -> tuple[str, str, str]:
    """The worked answer around its first equation."""
    found = re.findall(r"[^.]+\.", problem.worked)
    place = next(number for number, one in enumerate(found) if EQUATION.search(one))
    return "".join(found[:place]), found[place], "".join(found[place + 1 :])


def hole_as_long(model: Any, problem: Problem) -> CanvasPrompt:
    before, sentence, after = sentences(problem)
    return unmask.canvas(before, unmask.hole(len(model.tokenizer.encode(sentence))), after, chat=problem.question)


def roomy_hole(model: Any, problem: Problem) -> CanvasPrompt:
    before, _, after = sentences(problem)
    return unmask.canvas(before, unmask.hole(32, end="early"), after, chat=problem.question)


def without_what_follows(model: Any, problem: Problem) -> CanvasPrompt:
    return unmask.canvas(sentences(problem)[0], unmask.hole(32, end="early"), chat=problem.question)


def equation(problem: Problem, text: str) -> bool:
    """Whether a hole's text states the equation of the sentence that stood there."""
    mine, truth = EQUATION.search(text), EQUATION.search(sentences(problem)[1])
    return mine is not None and truth is not None and mine[0] == truth[0]


KINDS: dict[str, Kind] = {
    "free": Kind(asks=question, right=Problem.verify),
    f"`{PATTERN}`": Kind(
        asks=question,
        right=Problem.verify,
        valid=lambda text: re.fullmatch(PATTERN, text) is not None,
        held=lambda: {"regex": PATTERN},
    ),
    '`{"answer": integer, "steps": [string]}`': Kind(
        asks=question, right=stated, valid=is_json, held=lambda: schema(answer=NUMBER, steps=STEPS)
    ),
    '`{"steps": [string], "answer": integer}`': Kind(
        asks=question, right=stated, valid=is_json, held=lambda: schema(steps=STEPS, answer=NUMBER)
    ),
    '`{"steps": string, "answer": integer}`': Kind(
        asks=question, right=stated, valid=is_json, held=lambda: schema(steps={"type": "string"}, answer=NUMBER)
    ),
    "a hole as long as the sentence": Kind(asks=hole_as_long, right=equation),
    "a hole of 32 tokens that may end early": Kind(asks=roomy_hole, right=equation),
    "the same, and no text behind it": Kind(asks=without_what_follows, right=equation),
}


def measure(model: Any, name: str, asked: Sequence[tuple[int, Problem]]) -> list[dict[str, Any]]:
    """A line per problem."""
    kind = KINDS[name]
    prompts = [kind.asks(model, problem) for _, problem in asked]
    length = {} if isinstance(prompts[0], CanvasPrompt) else {"max_new_tokens": TOKENS}
    done = unmask.generate(model, prompts, **length, **kind.held())
    lines = []
    for (number, problem), row in zip(asked, done, strict=True):
        text = row.holes[0] if row.holes else row.text
        said = {"kind": name, "number": number, "text": text, "forwards": row.forwards}
        lines.append(said | {"valid": kind.valid(text), "right": kind.right(problem, text)})
    return lines


def table(lines: Sequence[dict[str, Any]]) -> None:
    """Print what is there as Markdown; 95 % intervals."""
    print("| answers | right, 95 % | valid | forwards per answer |\n|---|---|---|---|")
    for name in KINDS:
        mine = [line for line in lines if line["kind"] == name]
        if mine:
            share = wilson(sum(line["right"] for line in mine), len(mine))
            right = f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%}) of {len(mine)}"
            forwards = sum(line["forwards"] for line in mine) / len(mine)
            print(f"| {name} | {right} | {sum(line['valid'] for line in mine)} | {forwards:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=200, help="problems; those of several steps only, which have a middle")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a file that grows, and that the command resumes")
    parser.add_argument("--model", default="unmask-tiny")
    asked = parser.parse_args()
    stream = problems("arithmetic", "test", seed=1, wording="plain")
    chosen = list(enumerate(islice((problem for problem in stream if problem.steps >= 2), asked.n)))
    provenance = {"model": asked.model, "weights": fingerprint(locate(asked.model)), "tokens": TOKENS, "seed": 1}
    with Journal(asked.output, provenance, "made") as journal:
        there = {(line["kind"], line["number"]) for _, line in journal}
        model = unmask.load(asked.model)
        for name in KINDS:
            missing = [one for one in chosen if (name, one[0]) not in there]
            for begin in range(0, len(missing), BATCH):
                journal.append(measure(model, name, missing[begin : begin + BATCH]))
        table([line for _, line in journal if line["number"] < asked.n])


if __name__ == "__main__":
    main()
