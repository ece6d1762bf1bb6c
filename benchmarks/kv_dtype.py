"""Keys and values in 8 bits (`--kv-dtype fp8`): what they cost in accuracy on the embedded models.

    python benchmarks/kv_dtype.py                    # or with --limit 300, --json FILE

Each model solves the same held-out problems with its own settings twice, with keys and values in its own type and in fp8.
Answers that are on disk already are kept.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import unmask
from unmask.evals import load as load_task
from unmask.evals.run import evaluate
from unmask.evals.summary import summarise
from unmask.evals.task import Source
from unmask.files import write_atomically
from unmask.models.loading import fingerprint, locate

MODELS = ("unmask-tiny", "unmask-tiny-r2", "unmask-tiny-block")
TASKS = ("arithmetic", "countdown")


def quality(model: str, task: str, limit: int, kv_dtype: str | None) -> dict[str, Any]:
    """One row: accuracy and tokens per forward of a model on a task."""
    kept = kv_dtype or "own"
    print(f"{limit} problems of {task} with {model}, keys and values: {kept}", flush=True)
    denoiser, weights = unmask.load(model, kv_dtype=kv_dtype), fingerprint(locate(model))
    folder = Path("runs") / "kv_dtype" / f"{model}-{task}-{limit}-{kept}"
    methods = {"r2-dllm": unmask.method("r2-dllm")}
    (run,) = evaluate(denoiser, load_task(task, Source(limit=limit)), methods, folder=folder, weights=weights)
    return {"model": model, "task": task, "kv_dtype": kept, "page_bytes": denoiser.page_bytes} | summarise(run)


def main() -> None:
    """Print one row per model, task and type."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--limit", type=int, default=300)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--tasks", default=TASKS[0])
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows = [
        quality(model, task, asked.limit, kv_dtype)
        for model in asked.models.split(",")
        for task in asked.tasks.split(",")
        for kv_dtype in (None, "fp8")
    ]
    for row in rows:
        print(f"{row['model']:18} {row['task']:12} {row['kv_dtype']:4} {row['accuracy']:.3f}  {row['tokens_per_forward']:.2f}")
    if asked.json is not None:
        write_atomically(asked.json, json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
