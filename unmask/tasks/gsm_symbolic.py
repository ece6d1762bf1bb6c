"""GSM-Symbolic through the library reasoning-gym: worked grade-school word problems with fresh names and numbers.

Its 85 templates are questions of GSM8K's *test* split. So the templates, not the questions, are split into training and
held-out ones, and GSM8K's test split is not unseen data for a model trained on them. Needs the extra gym;
the library's own scorer is not used (it takes the first number of a text and fails on negative ones).
"""

import random

from unmask.errors import ConfigError, install
from unmask.tasks.problem import Problem, solved

_REQUEST = " Give the result as your final answer. Do not include units."


def sample(rng: random.Random) -> Problem:
    """Draw one problem, of either split; its `steps` are the lines of the worked answer.

    Raises ConfigError if reasoning-gym is not installed.
    """
    try:
        from reasoning_gym import create_dataset
    except ImportError:
        raise ConfigError(f"the task gsm_symbolic needs reasoning-gym: {install('gym')}") from None
    drawn = create_dataset("gsm_symbolic", seed=rng.getrandbits(32), size=1)
    template, entry = drawn.task_indices[0], drawn[0]
    lines = [line.strip() for line in entry["metadata"]["answer_cot"].split("\n")]
    worked = [line if line.endswith(".") else f"{line}." for line in lines if line and not line.startswith("####")]
    return solved(
        task="gsm_symbolic",
        question=entry["question"].removesuffix(_REQUEST),
        worked=worked,
        key=entry["answer"],
        steps=len(worked),
        family=f"gsm_symbolic template {template}",
    )
