"""Block-causal decoding beside the same loop written plainly: the ratio of their times, and where the time goes.

    python benchmarks/block.py                     # or with --blocks 4 8 16, --limit 4, --json FILE

An SDAR of 48M random weights on the CPU, prompts of about 128 tokens, 64 new ones, four denoising steps per block
on both sides, which must write the same tokens. The plain loop (benchmarks/plain.py) has the same weights, dense keys
and values per row, one block per round for all rows of the batch, and a forward of its own for each finished block;
`alone` is that loop with one row after the other, measured once. The sides take turns; other work on the machine
changes wall times more than processor times.
"""

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from plain import Plain

import unmask
from unmask.engine import runner
from unmask.files import write_atomically
from unmask.models import layers
from unmask.models.denoiser import Denoiser
from unmask.models.running import Running
from unmask.models.sdar import SDAR

PROMPT, ANSWER, STEPS = 128, 64, 4
SIZES = {
    "hidden_size": 512,
    "num_hidden_layers": 10,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "intermediate_size": 1536,
    "max_position_embeddings": 512,
    "vocab_size": 16384,
    "eos_token_id": 16382,
    "mask_token_id": 16383,
}


def random_model(block: int) -> Denoiser:
    """The same weights for every block length; logits are scaled so that confidences differ."""
    network = SDAR({**SIZES, "block_size": block})
    layers.init_weights(network, std=0.05, generator=torch.Generator().manual_seed(0))
    network.logit_scale = 4.0
    network.requires_grad_(False)
    return Denoiser(network=network.eval(), tokenizer=None, name="random SDAR, 10 layers of 512")


# What is timed, by side; the hidden states' time holds the attention's.
PARTS = ("hidden", "attention", "head", "decision")
TIMED: dict[str, tuple[tuple[Any, str], ...]] = {
    "ours": ((Running, "hidden"), (layers, "attend_packed"), (Running, "project"), (runner, "decide_all")),
    "plain": ((Plain, "hidden"), (Plain, "attend"), (SDAR, "project"), (Plain, "commit")),
}
Answers = tuple[list[list[int]], int]  # tokens of every row, and query tokens of all


def ours(model: Denoiser, prompts: Sequence[list[int]]) -> Answers:
    method = unmask.method("sdar", remasking="static", steps=STEPS).change(stop_at_eos=None)
    done = unmask.generate(model, prompts, method=method, max_new_tokens=ANSWER)
    return [row.token_ids for row in done], sum(row.query_tokens for row in done)


@torch.inference_mode()
def plain(model: Denoiser, prompts: Sequence[list[int]]) -> Answers:
    loop = Plain(model, prompts, new_tokens=ANSWER, steps=STEPS)
    tokens = loop.decode().tolist()
    answers = [row[len(prompt) : len(prompt) + ANSWER] for row, prompt in zip(tokens, prompts, strict=True)]
    return answers, loop.query_tokens


def alone(model: Denoiser, prompts: Sequence[list[int]]) -> Answers:
    """The plain loop, one row after the other."""
    made = [plain(model, [prompt]) for prompt in prompts]
    return [answers[0] for answers, _ in made], sum(query_tokens for _, query_tokens in made)


def profile(side: str, run: Callable[[], Answers]) -> tuple[list[list[int]], dict[str, Any]]:
    """The answers, and what they took: processor time and its share per part, where Python is everything else."""
    seconds, calls = Counter[str](), Counter[str]()

    def timed(part: str, function: Callable[..., Any], *args: Any, **named: Any) -> Any:
        began = time.process_time()
        made = function(*args, **named)
        seconds[part] += time.process_time() - began
        calls[part] += 1
        return made

    with ExitStack() as wrapped:
        for part, (owner, name) in zip(PARTS, TIMED[side], strict=True):
            call = partial(timed, part, getattr(owner, name))
            wrapped.enter_context(patch.object(owner, name, lambda *args, call=call, **named: call(*args, **named)))
        began = time.process_time()
        answers, query_tokens = run()
        total = time.process_time() - began
    hidden, attention, head, decision = (seconds[part] for part in PARTS)
    python = total - hidden - head - decision
    shares = {"network": hidden - attention + head, "attention": attention, "decision": decision, "python": python}
    found = {part: round(spent / total, 4) for part, spent in shares.items()}
    counts = {"forwards": calls["hidden"], "query_tokens": query_tokens}
    return answers, {"cpu_seconds": round(total, 4)} | counts | {"share_of_time": found}


def compare(block: int, rows: int, rounds: int) -> dict[str, Any]:
    """The sides in turn, medians over the rounds. Raises SystemExit where they differ in a token."""
    model, generator = random_model(block), torch.Generator().manual_seed(rows)
    lengths = (PROMPT - 8 + torch.randint(17, (rows,), generator=generator)).tolist()
    prompts = [torch.randint(16000, (length,), generator=generator).tolist() for length in lengths]
    sides = {"ours": partial(ours, model, prompts), "plain": partial(plain, model, prompts)}
    profiled = {name: profile(name, side) for name, side in sides.items()}  # which also warms up
    if rows > 1:
        profiled["alone"] = profile("plain", partial(alone, model, prompts))
    if any(answers != profiled["ours"][0] for answers, _ in profiled.values()):
        raise SystemExit(f"blocks of {block}, {rows} rows: the sides wrote different tokens")
    made: dict[str, Any] = {"block": block, "rows": rows, "prompts": lengths}
    made |= {name: row for name, (_, row) in profiled.items()}
    cpu, wall = ({name: list[float]() for name in sides} for _ in range(2))
    for _ in range(rounds):
        for name, side in sides.items():
            began = time.process_time(), time.perf_counter()
            side()
            cpu[name].append(time.process_time() - began[0])
            wall[name].append(time.perf_counter() - began[1])
    for kind, times in (("cpu", cpu), ("wall", wall)):
        for name, taken in times.items():
            made[name][f"{kind}_seconds"] = round(statistics.median(taken), 4)
        ratios = (theirs / mine for mine, theirs in zip(times["ours"], times["plain"], strict=True))
        made[f"times_less_{kind}"] = round(statistics.median(ratios), 3)
    return made


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, nargs="+", default=[8])
    parser.add_argument("--limit", type=int, default=16, help="rows of the larger batch; the other has one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    given = parser.parse_args()
    found = []
    print("| block | rows | side | cpu s | forwards | query tokens | network, attention, decision, Python |")
    print("|---|---|---|---|---|---|---|")
    for block, rows in product(given.blocks, (1, given.limit)):
        found.append(made := compare(block, rows, given.rounds))
        for side in ("ours", "plain", "alone"):
            if row := made.get(side):
                shares = ", ".join(f"{share:.1%}" for share in row["share_of_time"].values())
                counts = f"{row['cpu_seconds']:.2f} | {row['forwards']} | {row['query_tokens']}"
                print(f"| {block} | {rows} | {side} | {counts} | {shares} |")
        cpu, wall = made["times_less_cpu"], made["times_less_wall"]
        print(f"plain / ours: {cpu:.2f} in processor time, {wall:.2f} in wall time", flush=True)
    if given.json:
        blocks = " ".join(map(str, given.blocks))
        document = {
            "benchmark": "block",
            "command": f"python benchmarks/block.py --blocks {blocks} --limit {given.limit} --rounds {given.rounds}",
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "parameters": sum(tensor.numel() for tensor in random_model(8).network.parameters()),
            "answer": ANSWER,
            "steps_per_block": STEPS,
            "rows": found,
        }
        write_atomically(given.json, lambda path: path.write_text(json.dumps(document, indent=1) + "\n"))


if __name__ == "__main__":
    main()
