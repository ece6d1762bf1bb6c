"""`unmask tasks`: the tasks, and generated problems as lines of JSON for training."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from unmask.errors import ConfigError
from unmask.files import write_atomically
from unmask.tasks import EVERY, LIBRARY, TASKS, problems
from unmask.tasks.voice import Wording

Names = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME[=WEIGHT]]...", help="Tasks, each with its weight in a mixture.")
]


def command(
    names: Names = None,
    limit: Annotated[int, typer.Option(min=1, help="Number of problems, all different.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    wording: Annotated[
        Wording | None,
        typer.Option(help="terse, plain or wordy: word all answers alike. Default: each in one of the three ways."),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file, not to stdout.")] = None,
) -> None:
    """List the tasks or, with names, write training problems of the generated ones.

    A line has "prompt", "completion" (the worked answer), "answer" and "task": what `unmask train sft` reads. The held-out
    problems of `unmask eval` are never among them.
    """
    if not names:
        _list()
        return
    mixture = dict(_weighed(name) for name in names)
    lines = _lines(mixture, limit, seed, wording)
    if output is None:
        sys.stdout.writelines(lines)
    else:
        write_atomically(output, lambda place: place.write_text("".join(lines)))
        print(output)


def _lines(mixture: Mapping[str, float], limit: int, seed: int, wording: Wording | None) -> list[str]:
    """Raises ConfigError where the tasks do not have so many different questions."""
    seen: dict[str, str] = {}
    for drawn, problem in enumerate(problems(mixture, "train", seed, wording), start=1):
        line = {"prompt": problem.question, "completion": problem.worked, "answer": problem.key, "task": problem.task}
        seen.setdefault(problem.question, json.dumps(line) + "\n")
        if len(seen) == limit:
            break
        if drawn > 100 * (len(seen) + 100):
            raise ConfigError(f"--limit {limit}: {', '.join(mixture)} have hardly more than {len(seen)} different questions")
    return list(seen.values())


def _weighed(name: str) -> tuple[str, float]:
    task, _, weight = name.partition("=")
    try:
        found = float(weight or 1)
    except ValueError:
        found = -1.0
    if not 0 < found < float("inf"):
        raise ConfigError(f"{name}: write NAME or NAME=WEIGHT, with a weight above 0, for example {task}=0.5")
    return task, found


def _list() -> None:
    from unmask.cli.console import Column, print_table
    from unmask.evals import HUB, read_from_disk
    from unmask.evals.generated import MIXTURE

    example = [(name, next(problems(name, "train", 0)).question) for name in EVERY if name not in LIBRARY]
    example += [(name, "word problems of the library reasoning-gym, where it is installed") for name in LIBRARY]
    print_table((Column("task"), Column("a problem of it", text=True)), example, title="Generated, for training and eval")
    print(f"{MIXTURE}: equal shares of {', '.join(TASKS)}, which the embedded models were trained on\n")
    listed = [(name, HUB.get(name, ""), what) for name, what in read_from_disk().items()]
    columns = (Column("task"), Column("data set of the hub"), Column("what it is", text=True))
    print_table(columns, listed, title="Read from disk or the hub: unmask eval TASK --data PATH, or --data OWNER/NAME")
