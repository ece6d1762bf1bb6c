"""Does redundancy-aware fine-tuning save forwards, and does the choice of answers matter? R2-dLLM's second half, measured.

    make redundancy      # or: python benchmarks/redundancy.py --task mixture --limit 1000

On the embedded model: collect its own answers, tune it on the least, the most and a randomly redundant one of each prompt
and with the usual masked objective, then decode held-out problems with each. What is already there is not made again, so
the last lines, the table, can be reprinted at any time.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import yaml

import unmask
from unmask.evals.run import evaluate
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
ROWS = (
    ("base", "vanilla"),
    ("base", "fast-dllm"),
    ("base", "r2-dllm"),
    ("lowest", "vanilla"),
    ("lowest", "fast-dllm"),
    ("lowest", "r2-dllm"),
    ("highest", "fast-dllm"),
    ("random", "fast-dllm"),
    ("lowest, masked objective", "fast-dllm"),
)


def slug(name: str) -> str:
    """A file name."""
    return name.replace(", ", "-").replace(" ", "-")


def tune(name: str, settings: dict[str, Any]) -> Path:
    """The folder of a tuned and merged model; made if it is not there, refused if it was made from something else."""
    folder = Path(settings["output"]).parent / slug(name)
    config = SFTConfig.from_dict(settings | TUNED[name] | {"output": str(folder)})
    print(f"tuning: {name}", flush=True)
    sft(config)  # a finished one has nothing left to do
    return merge(config)


def row(results: Path, model: str, path: str, method: str, task: str, limit: int) -> dict[str, Any]:
    """One measured row, kept in `results` under the fingerprint of the weights."""
    place = results / f"{task}-{limit}-{slug(model)}-{fingerprint(locate(path))}-{method}.json"
    if not place.exists():
        print(f"measuring: {method} on {model}", flush=True)
        summary = evaluate(unmask.load(path), task, {method: load(method)}, limit=limit, seed=1, max_new_tokens=160)[0]
        text = json.dumps({"weights": model, "task": task, "n": limit} | summary.to_dict())
        write_atomically(place, lambda partial: partial.write_text(text))
    found: dict[str, Any] = json.loads(place.read_text())
    return found


def main() -> None:
    """Make what is missing and print the table."""
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
    results.mkdir(parents=True, exist_ok=True)
    models = {"base": settings["model"]} | {name: str(tune(name, settings)) for name in TUNED}
    rows = [row(results, model, models[model], method, given.task, given.limit) for model, method in ROWS]

    base = next(found["forwards_mean"] for found in rows if (found["weights"], found["method"]) == ("base", "fast-dllm"))
    print(f"\n{given.task}, {given.limit} held-out problems, 160 new tokens, temperature 0\n")
    print("| weights | method | right (95 %) | forwards (95 %) | against fast-dllm on the base | tokens |")
    print("|---|---|---|---|---|---|")
    for found in rows:
        right = f"{found['accuracy']:.1%} ({found['accuracy_low']:.1%} to {found['accuracy_high']:.1%})"
        cost = f"{found['forwards_mean']:.2f} ({found['forwards_low']:.2f} to {found['forwards_high']:.2f})"
        change = f"{found['forwards_mean'] / base - 1:+.1%}"
        print(f"| {found['weights']} | `{found['method']}` | {right} | {cost} | {change} | {found['tokens_mean']:.1f} |")
    if given.json:
        document = {"task": given.task, "n": given.limit, "collect": collecting, "sft": settings, "rows": rows}
        write_atomically(given.json, lambda partial: partial.write_text(json.dumps(document, indent=1) + "\n"))


if __name__ == "__main__":
    main()
