"""Cheaper refreshes at the start of a block (prompt_interval, suffix_window): their cost in accuracy and what they save.

    python benchmarks/refresh.py                     # or with --limit 300, --json FILE

Two measurements: accuracy on the embedded model's held-out problems, where methods keep the prompt's keys for some blocks,
prune the suffix or do both, each against itself with whole refreshes; and the time of a long prompt on random weights,
where every variant commits the same number of tokens per forward. Times are processor times, so the machine may be shared.
Answers that are on disk already are kept.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import unmask
from unmask.evals import load as load_task
from unmask.evals.run import evaluate
from unmask.evals.summary import against, summarise
from unmask.evals.task import Source
from unmask.files import write_atomically
from unmask.methods import load
from unmask.models.denoiser import Denoiser
from unmask.models.layers import init_weights
from unmask.models.llada import LLaDA
from unmask.models.loading import fingerprint, locate

# The refreshes that are compared; the first is the baseline.
REFRESHES: dict[str, dict[str, Any]] = {
    "whole": {},
    "prompt_interval=2": {"prompt_interval": 2},
    "prompt_interval=4": {"prompt_interval": 4},
    "prompt_interval=null": {"prompt_interval": None},
    "suffix_window=32": {"suffix_window": 32},
    "suffix_window=32 prompt_interval=null": {"suffix_window": 32, "prompt_interval": None},
}
PRESETS = ("fast-dllm", "r2-dllm")
PROMPT, ANSWER, STEPS, ROUNDS = 1024, 256, 64, 5


def quality(model: str, limit: int, length: int) -> list[dict[str, Any]]:
    """One row per preset and refresh, in blocks of `length` tokens, against the preset with whole refreshes."""
    task = load_task("arithmetic", Source(limit=limit))
    denoiser, weights = unmask.load(model), fingerprint(locate(model))
    rows = []
    for preset in PRESETS:
        print(f"{limit} problems with {preset}", flush=True)
        methods = {name: load(preset, block_length=length, **options) for name, options in REFRESHES.items()}
        folder = Path("runs") / "refresh" / f"{model}-{limit}-{preset}-{length}"
        runs = evaluate(denoiser, task, methods, folder=folder, weights=weights)
        for run in runs:
            rows.append({"preset": preset, "refresh": run.name} | summarise(run) | {"against": against(run, runs[0])})
    return rows


def long_model() -> Denoiser:
    """A LLaDA of four layers, 256 wide, with random weights: small enough for a CPU, large enough to time."""
    network = LLaDA(
        {
            "d_model": 256,
            "n_layers": 4,
            "n_heads": 4,
            "mlp_hidden_size": 768,
            "vocab_size": 512,
            "eos_token_id": 510,
            "mask_token_id": 511,
            "max_sequence_length": PROMPT + ANSWER,
        }
    )
    init_weights(network, std=0.02, generator=torch.Generator().manual_seed(0))
    network.requires_grad_(False)
    return Denoiser(network=network.eval(), tokenizer=None, name="random, 4 layers of 256")


def cost() -> list[dict[str, Any]]:
    """Query tokens and processor seconds of one answer after a long prompt, the refreshes taking turns."""
    model = long_model()
    prompt = torch.randint(500, (PROMPT,), generator=torch.Generator().manual_seed(1)).tolist()
    methods = {
        name: load("vanilla", cache="dual", steps=STEPS, **options).change(stop_at_eos=None)
        for name, options in REFRESHES.items()
    }
    spent: dict[str, list[float]] = {name: [] for name in methods}
    done: dict[str, unmask.Completion] = {}
    for turn in range(ROUNDS + 1):
        print(f"long prompt, round {turn} of {ROUNDS}", flush=True)
        for name, method in methods.items():
            began = time.process_time()
            done[name] = unmask.generate(model, [prompt], method=method, max_new_tokens=ANSWER)[0]
            if turn:  # the first round warms up
                spent[name].append(time.process_time() - began)
    seconds = {name: statistics.median(times) for name, times in spent.items()}
    return [
        {
            "refresh": name,
            "forwards": row.forwards,
            "query_tokens": row.query_tokens,
            "times_fewer": done["whole"].query_tokens / row.query_tokens,
            "seconds": seconds[name],
            "times_less_time": statistics.median(a / b for a, b in zip(spent["whole"], spent[name], strict=True)),
        }
        for name, row in done.items()
    ]


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="unmask-tiny")
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--block-length", type=int, default=32, help="in tokens; an answer has about 70")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    given = parser.parse_args()
    costs, rows = cost(), quality(given.model, given.limit, given.block_length)

    print(f"\nprompt {PROMPT}, answer {ANSWER}, {STEPS} forwards, {ROUNDS} interleaved rounds\n")
    print("| refresh | query tokens | of whole | seconds, of whole |\n|---|---|---|---|")
    for found in costs:
        print(
            f"| `{found['refresh']}` | {found['query_tokens']} "
            f"| 1 / {found['times_fewer']:.2f} | 1 / {found['times_less_time']:.2f} |"
        )
    print(f"\narithmetic, {given.limit} held-out problems, {given.model}, blocks of {given.block_length}\n")
    print("| preset | refresh | right (95 %) | against whole (95 %) | forwards | query tokens |")
    print("|---|---|---|---|---|---|")
    for found in rows:
        right = f"{found['accuracy']:.1%} ({found['accuracy_low']:.1%} to {found['accuracy_high']:.1%})"
        change = found["against"]
        compared = (
            f"{100 * change['accuracy_change']:+.1f} ({100 * change['accuracy_change_low']:+.1f} "
            f"to {100 * change['accuracy_change_high']:+.1f})"
        )
        print(
            f"| `{found['preset']}` | `{found['refresh']}` | {right} | {compared} "
            f"| {found['forwards_mean']:.2f} | {found['query_tokens_mean']:.0f} |"
        )
    if given.json:
        document = {
            "benchmark": "refresh",
            "command": f"python benchmarks/refresh.py --model {given.model} --limit {given.limit} "
            f"--block-length {given.block_length}",
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "long_prompt": {"prompt": PROMPT, "answer": ANSWER, "steps": STEPS, "rounds": ROUNDS, "rows": costs},
            "quality": {
                "task": "arithmetic",
                "model": given.model,
                "n": given.limit,
                "block_length": given.block_length,
                "rows": rows,
            },
        }
        write_atomically(given.json, lambda partial: partial.write_text(json.dumps(document, indent=1) + "\n"))


if __name__ == "__main__":
    main()
