"""Does redundancy-aware fine-tuning (R2-dLLM) save forwards, and does the choice of training answers matter?

    make redundancy      # or: python benchmarks/redundancy.py --task mixture --limit 1000

Collects answers of the embedded model, tunes it four ways (on the least redundant answer per prompt, the most redundant,
a random one, and the least redundant with the usual masked objective) and decodes held-out problems with each. Steps that
are done already are skipped, so the table at the end can be printed again at any time.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

import unmask
from unmask.evals import load as load_task
from unmask.evals.run import Run, evaluate
from unmask.evals.summary import against, summarise
from unmask.evals.task import Source, Task
from unmask.files import write_atomically
from unmask.methods import load
from unmask.models.loading import fingerprint, locate
from unmask.train.collect import CollectConfig, collect
from unmask.train.sft import SFTConfig, merge, sft

ROOT = Path(__file__).parents[1]
# Name -> what differs from configs/r2-tiny.yaml.
TUNED: dict[str, dict[str, Any]] = {
    "lowest": {"select": "lowest"},
    "highest": {"select": "highest"},
    "random": {"select": "random"},
    "lowest, masked objective": {"select": "lowest", "objective": "masked"},
}
# Weights -> the methods measured on them.
ROWS: dict[str, tuple[str, ...]] = {
    "base": ("vanilla", "fast-dllm", "r2-dllm"),
    "lowest": ("fast-dllm", "r2-dllm"),
    "highest": ("fast-dllm", "r2-dllm"),
    "random": ("fast-dllm", "r2-dllm"),
    "lowest, masked objective": ("fast-dllm", "r2-dllm"),
}


def slug(name: str) -> str:
    """A file name."""
    return name.replace(", ", "-").replace(" ", "-")


def tune(name: str, settings: dict[str, Any]) -> Path:
    """The folder of a tuned and merged model; made if missing, refused if it was made with other settings."""
    folder = Path(settings["output"]).parent / slug(name)
    config = SFTConfig.from_dict(settings | TUNED[name] | {"output": str(folder)})
    print(f"tuning: {name}", flush=True)
    sft(config)  # does nothing if it has finished before
    return merge(config) if config.lora else folder


def measure(results: Path, weights: str, path: str, methods: Sequence[str], task: Task) -> list[Run]:
    """The runs of one model's methods; answers that are on disk already are kept."""
    print(f"measuring: {', '.join(methods)} on {weights}", flush=True)
    mark = fingerprint(locate(path))
    folder = results / f"{task.name}-{slug(weights)}-{mark}"
    return evaluate(unmask.load(path), task, {name: load(name) for name in methods}, folder=folder, weights=mark)


def main() -> None:
    """Do the steps that are missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="arithmetic")
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    given = parser.parse_args()
    collecting = yaml.safe_load((ROOT / "configs" / "collect-tiny.yaml").read_text())
    settings = yaml.safe_load((ROOT / "configs" / "r2-tiny.yaml").read_text())
    print("collecting", flush=True)
    collect(CollectConfig.from_dict(collecting))
    results = Path(settings["output"]).parent / "results"
    models = {"base": settings["model"]} | {name: str(tune(name, settings)) for name in TUNED}
    task = load_task(given.task, Source(limit=given.limit))
    runs = [(weights, run) for weights, path in models.items() for run in measure(results, weights, path, ROWS[weights], task)]
    baseline = next(run for weights, run in runs if (weights, run.name) == ("base", "fast-dllm"))
    rows = [{"weights": weights} | summarise(run) | {"against": against(run, baseline)} for weights, run in runs]

    print(f"\n{task.name}, {len(task.items)} held-out problems, {task.max_new_tokens} new tokens, temperature 0\n")
    print("| weights | method | right (95 %) | forwards (95 %) | against `fast-dllm` on the base (95 %) | tokens |")
    print("|---|---|---|---|---|---|")
    for found in rows:
        right = f"{found['accuracy']:.1%} ({found['accuracy_low']:.1%} to {found['accuracy_high']:.1%})"
        cost = f"{found['forwards_mean']:.2f} ({found['forwards_low']:.2f} to {found['forwards_high']:.2f})"
        change = found["against"]
        compared = (
            f"{change['forwards_ratio'] - 1:+.1%} forwards ({change['forwards_ratio_low'] - 1:+.1%} to "
            f"{change['forwards_ratio_high'] - 1:+.1%}), {100 * change['accuracy_change']:+.1f} points "
            f"({100 * change['accuracy_change_low']:+.1f} to {100 * change['accuracy_change_high']:+.1f})"
        )
        print(f"| {found['weights']} | `{found['method']}` | {right} | {cost} | {compared} | {found['tokens_mean']:.1f} |")
    if given.json:
        document = {"task": task.name, "n": len(task.items), "collect": collecting, "sft": settings, "rows": rows}
        write_atomically(given.json, lambda partial: partial.write_text(json.dumps(document, indent=1) + "\n"))


if __name__ == "__main__":
    main()
