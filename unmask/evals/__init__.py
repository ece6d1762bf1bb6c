"""Evaluation: the same problems, stop strings and token counts for every method.

task = unmask.evals.load("gsm8k", Source(data=Path("data/gsm8k"), limit=100))
runs = evaluate(model, task, {"r2-dllm": unmask.method("r2-dllm")})       # evals/run.py
"""

import importlib
from collections.abc import Callable, Mapping

from unmask.errors import ConfigError, unknown
from unmask.evals.generated import MIXTURE, held_out
from unmask.evals.task import Source, Task
from unmask.tasks import EVERY

# Tasks whose data is read from disk or the hub; those of unmask.tasks are generated.
TABLE: Mapping[str, str] = {
    "gsm8k": "unmask.evals.gsm8k:gsm8k",
    "math500": "unmask.evals.math500:math500",
    "humaneval": "unmask.evals.humaneval:humaneval",
    "mbpp": "unmask.evals.mbpp:mbpp",
    "svamp": "unmask.evals.svamp:svamp",
    "sudoku": "unmask.evals.sudoku:sudoku",
    "countdown": "unmask.evals.countdown:countdown",
    "parallelbench": "unmask.evals.parallelbench:parallelbench",
}
# The data sets of the hub that hold a task's data as it reads them.
HUB: Mapping[str, str] = {
    "gsm8k": "openai/gsm8k",
    "math500": "HuggingFaceH4/MATH-500",
    "humaneval": "openai/openai_humaneval",
    "mbpp": "google-research-datasets/mbpp",
    "svamp": "ChilleD/SVAMP",
}


def read_from_disk() -> dict[str, str]:
    """The tasks of TABLE, each with the first line of its file."""
    files = {name: importlib.import_module(entry.partition(":")[0]) for name, entry in TABLE.items()}
    return {name: (file.__doc__ or name).splitlines()[0] for name, file in files.items()}


def load(name: str, source: Source) -> Task:
    """A task by its name: one of TABLE, one of unmask.tasks, or "mixture" for equal shares of those.

    Raises ConfigError for an unknown name, missing or malformed data, or options that the task does not take.
    """
    if name in TABLE:
        if source.data is None:
            online = f", or --data {HUB[name]} for what the hub has" if name in HUB else ""
            raise ConfigError(f"{name} is read from disk: name its data with --data{online}")
        module, function = TABLE[name].split(":")
        read: Callable[[Source], Task] = getattr(importlib.import_module(module), function)
        return read(source)
    if name not in (*EVERY, MIXTURE):
        raise unknown("task", name, [*TABLE, *EVERY, MIXTURE])
    return held_out(name, source)
