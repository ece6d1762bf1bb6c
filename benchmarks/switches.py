"""What is each switch of the training objective worth for parallel decoding, alone and together?

    python benchmarks/switches.py --json benchmarks/results/DATE-switches-cpu.json     # about an hour on one core

Every row starts from `unmask-tiny-base`, trains the same number of steps on as many examples per step, and decodes the same
held-out word problems without a cache, all blocks of an answer open. Steps that are done already are skipped.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

import unmask
from unmask.evals import load as load_task
from unmask.evals.run import evaluate
from unmask.evals.summary import against, summarise
from unmask.evals.task import Source
from unmask.files import write_atomically
from unmask.methods import load
from unmask.models.loading import fingerprint, locate
from unmask.train.collect import CollectConfig, collect
from unmask.train.selection import examples
from unmask.train.sft import SFTConfig, sft

ROOT, RUNS, BASE = Path(__file__).parents[1], Path("runs/switches"), "unmask-tiny-base"
MIXTURE = {"arithmetic": 0.6, "chain": 0.06, "equations": 0.06, "counting": 0.07, "sorting": 0.07, "expressions": 0.07}
MIXTURE |= {"editing": 0.07}
STEPS, BATCH = 150, 32
WINDOW = {"window": "answer", "pattern": "random", "mask_rate": [0.0, 0.95]}
DECODE = {"window": "answer", "pattern": "decode"}
GROWING = {"block_length": [16, 24, 32], "mask_rate": [0.0, 0.8], "rising": True}
OWN = {"data": "own", "select": "lowest"}
# Name -> what differs from configs/unmask-tiny-parallel.yaml.
ROWS: dict[str, dict[str, Any]] = {
    "whole answer": WINDOW,
    "own decode": DECODE,
    "own decode, several wordings": DECODE | {"data": "worded"},
    "whole answer, several wordings": WINDOW | {"data": "worded"},
    "one block": {"window": "block", "pattern": "random", "mask_rate": 0.5},
    "own decode, one block": {"window": "block", "pattern": "decode"},
    "own decode, certainty": DECODE | {"certainty": 2.0},
    "whole answer, certainty": WINDOW | {"certainty": 2.0},
    "whole answer, on-policy tokens": WINDOW | {"on_policy": 0.5},
    "whole answer, wrong tokens": WINDOW | {"wrong": 0.1},
    "rising rates, growing blocks": {"window": "block", "pattern": "random"} | GROWING,
    "group of blocks": {"window": "group", "pattern": "random"},
    "own answers, least redundant, one block": {"window": "block", "pattern": "random", "mask_rate": 0.5} | OWN,
    "own answers, whole answer": WINDOW | OWN,
    "own answers, trajectory": WINDOW | {"pattern": "trajectory"} | OWN,
    "own answers, trajectory, teacher": WINDOW | {"pattern": "trajectory", "near": 8} | OWN,
    "own answers, own decode": DECODE | OWN,
}
METHODS = {
    f"threshold {number}": {"threshold": number, "cache": "none", "multi_block": 5, "block_add": 0.0} for number in (0.9, 0.99)
}


def data(name: str) -> Path:
    """A training file, made if missing: worked answers in one wording or in several, or the base's own."""
    path = RUNS / f"{name}.jsonl"
    if name == "own":
        collecting = yaml.safe_load((ROOT / "configs" / "collect-tiny.yaml").read_text())
        return collect(CollectConfig.from_dict(collecting | {"output": str(path), "mixture": MIXTURE, "limit": 1000}))
    if not path.exists():
        wording = ["--wording", "plain"] if name == "plain" else []
        made = ["tasks", *(f"{task}={share}" for task, share in MIXTURE.items()), *wording]
        made += ["--limit", str(STEPS * BATCH), "--seed", "1", "-o", str(path)]
        subprocess.run([sys.executable, "-m", "unmask", *made], check=True)
    return path


def tune(name: str) -> str:
    """The folder of a tuned model; made if missing, refused if it was made with other settings."""
    settings = yaml.safe_load((ROOT / "configs" / "unmask-tiny-parallel.yaml").read_text()) | {"data": "plain"} | ROWS[name]
    path, own = data(settings["data"]), settings["data"] == "own"
    usable = len(examples(path, "lowest", spatial="windows", per_token=True, seed=0)) if own else STEPS * BATCH
    output = str(RUNS / name.replace(", ", "-").replace(" ", "-"))
    epochs = max(1, round(STEPS * BATCH / usable))
    sft(SFTConfig.from_dict(settings | {"data": str(path), "output": output, "epochs": epochs}))
    return output


def main() -> None:
    """Do the steps that are missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=300)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    given = parser.parse_args()
    RUNS.mkdir(parents=True, exist_ok=True)
    task = load_task("arithmetic", Source(limit=given.limit))
    methods = {name: load("fast-dllm", **options) for name, options in METHODS.items()}
    rows, baseline = [], None
    print("| training | method | right (95 %) | forwards | tokens per forward | against the base |")
    print("|---|---|---|---|---|---|")
    for name in ("base", *ROWS):
        path = BASE if name == "base" else tune(name)
        mark = fingerprint(locate(path))
        runs = evaluate(unmask.load(path), task, methods, folder=RUNS / "results" / mark, weights=mark)
        baseline = baseline or {run.name: run for run in runs}
        for run in runs:
            found = summarise(run) | {"training": name, "against": against(run, baseline[run.name])}
            rows.append(found)
            right = f"{found['accuracy']:.1%} ({found['accuracy_low']:.1%} to {found['accuracy_high']:.1%})"
            cost = f"{found['forwards_mean']:.2f} | {found['tokens_per_forward']:.2f}"
            change = f"{100 * found['against']['accuracy_change']:+.1f} points"
            print(f"| {name} | {run.name} | {right} | {cost} | {change} |", flush=True)
    if given.json:
        document = {"task": task.name, "n": len(task.items), "steps": STEPS, "batch": BATCH, "settings": ROWS, "rows": rows}
        write_atomically(given.json, lambda partial: partial.write_text(json.dumps(document, indent=1) + "\n"))


if __name__ == "__main__":
    main()
