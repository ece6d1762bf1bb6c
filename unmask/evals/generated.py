"""A task made of held-out problems of the embedded model's own tasks (unmask.tasks)."""

import itertools

from unmask.errors import ConfigError
from unmask.evals.task import Item, Source, Task
from unmask.tasks import TASKS, problems
from unmask.tasks.problem import Problem

MIXTURE, LIMIT = "mixture", 200


def held_out(name: str, source: Source) -> Task:
    """`source.limit` (200) different held-out problems of one task, or of all tasks in equal shares ("mixture").

    Results are grouped by steps, those of the mixture and of waiting_line by task. Raises ConfigError for
    `data` or `shots`, or if a task has fewer different problems.
    """
    if source.data is not None or source.shots:
        raise ConfigError(f"{name} is generated and has no worked examples: leave --data and --shots out")
    mixture = name == MIXTURE
    limit, found = source.limit or LIMIT, dict[str, Problem]()
    drawn = problems(dict.fromkeys(TASKS, 1.0) if mixture else name, "test", seed=source.seed)
    for problem in itertools.islice(drawn, 20 * limit + 1000):
        found.setdefault(problem.question, problem)
        if len(found) == limit:
            break
    else:
        raise ConfigError(f"{name} has only about {len(found)} different held-out problems: ask for fewer than {limit}")
    items = tuple(
        Item(
            id=f"{source.seed}-{number}",
            prompt=problem.question,
            reference=problem.worked,
            group=str(problem.steps) if problem.task == name else problem.task,
            facts={"problem": problem},
        )
        for number, problem in enumerate(found.values())
    )
    return Task(
        name=name,
        items=items,
        metrics=("exact",),
        score=lambda item, answer: {"exact": item.facts["problem"].verify(answer)},
        max_new_tokens=160,
    )
