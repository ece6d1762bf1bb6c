"""Fill one sentence in the middle of a worked answer, with and without the text behind it (docs/infilling.md).

python examples/infill.py --problems 100
"""

import argparse
import re

import unmask
from unmask.engine.holes import CanvasPrompt
from unmask.tasks import problems

EQUATION = re.compile(r"\d+ [-+] \d+ = \d+")
METHODS = ("fast-dllm", "r2-dllm", "vanilla")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--problems", type=int, default=100)
    count = parser.parse_args().problems
    model = unmask.load("unmask-tiny")
    stream = problems("arithmetic", "test", seed=0, wording="plain")
    asked = [problem for problem in (next(stream) for _ in range(4 * count)) if problem.steps >= 2][:count]
    truths, kinds = [], dict[str, list[CanvasPrompt]]()
    for problem in asked:
        sentences = re.findall(r"[^.]+\.", problem.worked)
        place = next(number for number, one in enumerate(sentences) if EQUATION.search(one))
        before, sentence, after = "".join(sentences[:place]), sentences[place], "".join(sentences[place + 1 :])
        truths.append(EQUATION.search(sentence))
        exact, roomy = unmask.hole(len(model.tokenizer.encode(sentence))), unmask.hole(32, end="early")
        kinds.setdefault("both sides", []).append(unmask.canvas(before, exact, after, chat=problem.question))
        kinds.setdefault("both sides, may end early", []).append(unmask.canvas(before, roomy, after, chat=problem.question))
        kinds.setdefault("left only", []).append(unmask.canvas(before, roomy, chat=problem.question))
    for name in METHODS:
        for kind, canvases in kinds.items():
            done = unmask.generate(model, canvases, method=name)
            found = [EQUATION.search(row.holes[0]) for row in done]
            right = sum(mine is not None and mine[0] == truth[0] for mine, truth in zip(found, truths, strict=True) if truth)
            forwards = sum(row.forwards for row in done) / len(done)
            print(f"{name:10} {kind:26} {right} of {len(done)} right, {forwards:.1f} forwards")


if __name__ == "__main__":
    main()
