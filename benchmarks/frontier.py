"""The embedded models and the methods in one table: held-out word problems, and all seven tasks, item by item.

    python benchmarks/frontier.py -o benchmarks/results/DATE-frontier-cpu.json     # an hour and a half on one core

Every pair of weights and method is one file of answers, so the same command resumes, and prints what is there already.
Accuracy and forwards are compared with `vanilla` on the same weights; the seven tasks with the base's default method.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import unmask
from unmask.evals import load as load_task
from unmask.evals.run import Run, evaluate
from unmask.evals.summary import against, summarise
from unmask.evals.task import Source, Task
from unmask.files import write_atomically
from unmask.methods import load
from unmask.models.loading import fingerprint, locate

RUNS, BASE = Path("runs/frontier"), "unmask-tiny-base"
FAST = ("fast-dllm", "streaming-dllm", "r2-dllm", "eb-sampler", "localleap", "sdar")
# Weights -> methods, the baseline first, the rest from the cheapest to the dearest.
WEIGHTS = {
    "unmask-tiny-block": ("vanilla", *FAST, "llada2", "fast-dllm-v2", "freedave"),
    "unmask-tiny-r2": ("vanilla", *FAST, "freedave"),
    "unmask-tiny": ("vanilla", *FAST, "freedave"),
    BASE: ("vanilla", *FAST, "freedave"),
}
TASKS = (BASE, "unmask-tiny", "unmask-tiny-block")  # these answer the mixture with their default method


def run(name: str, task: Task, methods: tuple[str, ...], folder: str) -> list[Run]:
    """The runs of some methods on these weights: what is on disk is not decoded again."""
    mark = fingerprint(locate(name))
    chosen = {method: load(method) for method in methods}
    return evaluate(unmask.load(name), task, chosen, folder=RUNS / folder / mark, weights=mark)


def problems(limit: int) -> Iterator[dict[str, Any]]:
    """A row per pair of weights and method, each against `vanilla`; cheap methods run before dear ones."""
    task = load_task("arithmetic", Source(limit=limit))
    for name, methods in WEIGHTS.items():
        baseline, *others = methods
        runs = [made for method in (*others, baseline) for made in run(name, task, (method,), "arithmetic")]
        for made in (runs[-1], *runs[:-1]):
            yield summarise(made) | {"weights": name, "against": against(made, runs[-1])}


def tasks(limit: int) -> Iterator[dict[str, Any]]:
    """A row per model: its default method on all seven tasks, each task against the base."""
    task = load_task("mixture", Source(limit=limit))
    first: Run | None = None
    for name in TASKS:
        made = run(name, task, ("fast-dllm",), "mixture")[0]
        first = first or made
        yield summarise(made) | {"weights": name, "against": against(made, first)}


def shown(row: dict[str, Any]) -> str:
    """A row as a line of a Markdown table."""
    change = row["against"]
    accuracy = f"{row['accuracy']:.1%} ({row['accuracy_low']:.1%} to {row['accuracy_high']:.1%})"
    forwards = f"{row['forwards_mean']:.2f} ({row['forwards_low']:.2f} to {row['forwards_high']:.2f})"
    points = " to ".join(f"{100 * change[f'accuracy_change_{end}']:+.1f}" for end in ("low", "high"))
    compared = f"{100 * change['forwards_ratio'] - 100:+.1f} %, {100 * change['accuracy_change']:+.1f} points ({points})"
    cost = f"{row['tokens_per_forward']:.2f} | {row['query_tokens_mean']:.0f}"
    return f"| `{row['weights']}` | `{row['method']}` | {accuracy} | {forwards} | {compared} | {cost} |"


def main() -> None:
    """Do what is missing and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=1000, help="word problems, and problems of each of the seven tasks")
    parser.add_argument("-o", "--output", type=Path, help="write the rows to this file, after every model")
    given = parser.parse_args()
    document: dict[str, Any] = {"limit": given.limit, "mixture": [], "arithmetic": []}
    for part, rows in (("mixture", tasks(7 * given.limit)), ("arithmetic", problems(given.limit))):
        print(f"\n{part}\n| weights | method | right (95 %) | forwards (95 %) | against | tokens/forward | query tokens |")
        print("|---|---|---|---|---|---|---|")
        for row in rows:
            document[part].append(row)
            groups = ", ".join(f"{group} {share:.1%}" for group, share in row["accuracy_by_group"].items())
            print(shown(row) + (f"\n{groups}" if part == "mixture" else ""), flush=True)
            if given.output:
                write_atomically(given.output, lambda partial: partial.write_text(json.dumps(document, indent=1) + "\n"))


if __name__ == "__main__":
    main()
