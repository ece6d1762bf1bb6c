"""Block-causal decoding beside the same loop written plainly: the ratio of their times, and where the time goes.

    python benchmarks/block.py                     # or with --blocks 4 8 16, --limit 4, --json FILE

An SDAR of 48M random weights on the CPU, prompts of about 128 tokens, 64 new ones, four denoising steps per block on both
sides, which must write the same tokens. The plain loop has the same weights, dense keys and values per row, one block per round
for all rows of the batch, and a forward of its own for each finished block; `alone` is that loop with one row after the
other, measured once. The sides take turns; other work on the machine changes wall times more than processor times.

Shapes: B rows, L block length, Q queried tokens of a row, S slots, H query heads, G key/value heads, D head size, C model
width, R rotated channels.
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
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import unmask
from unmask.engine import runner
from unmask.files import write_atomically
from unmask.models import layers
from unmask.models.attention import rotary, rotate
from unmask.models.denoiser import Denoiser
from unmask.models.running import Running
from unmask.models.sdar import SDAR

PROMPT, ANSWER, STEPS = 128, 64, 4
KINDS = ("cpu", "wall")
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


class Plain:
    """The loop without an engine: rows in step, each with dense keys and values whose slots are positions."""

    def __init__(self, model: Denoiser, prompts: Sequence[list[int]]) -> None:
        assert model.spec.block is not None
        block = self.block = model.spec.block
        self.model, self.mask_id = model, model.spec.mask_id
        self.shape, self.parts = model.network.shape, [layer.parts() for layer in model.network.blocks()]
        self.starts_B = torch.tensor([len(prompt) // block * block for prompt in prompts])
        self.rounds = max(-(-(len(prompt) % block + ANSWER) // block) for prompt in prompts)
        self.slots = int(self.starts_B.max()) + self.rounds * block
        self.tokens_BS = torch.full((len(prompts), self.slots), self.mask_id)
        for row, prompt in enumerate(prompts):
            self.tokens_BS[row, : len(prompt)] = torch.tensor(prompt)
        past = (len(prompts), self.slots, self.shape.kv_heads, self.shape.head_size)
        self.keys, self.values = ([torch.zeros(past) for _ in self.parts] for _ in range(2))
        self.query_tokens = 0

    def decode(self) -> Tensor:
        """Prefill, then one block of every row per round; the tokens [B, S]."""
        self.hidden(torch.arange(int(self.starts_B.max())).expand(len(self.starts_B), -1))
        for number in range(self.rounds):
            positions_BL = self.starts_B[:, None] + number * self.block + torch.arange(self.block)
            step = 0
            while (self.tokens_BS.gather(1, positions_BL) == self.mask_id).any():
                self.commit(positions_BL, self.model.network.project(self.hidden(positions_BL)), step)
                step += 1
            self.hidden(positions_BL)  # the keys and values of the finished block
        return self.tokens_BS

    def commit(self, positions_BL: Tensor, logits_BLV: Tensor, step: int) -> None:
        """Write the step's quota of each block, the surest first."""
        confidence_BLV = logits_BLV.softmax(-1)
        confidence_BLV[..., self.mask_id] = 0
        confidence_BL, candidate_BL = confidence_BLV.max(-1)
        block_BL = self.tokens_BS.gather(1, positions_BL)
        confidence_BL[block_BL != self.mask_id] = -1
        base, surplus = divmod(self.block, STEPS)
        best_BK = confidence_BL.topk(base + (step < surplus), dim=1).indices
        taken_BL = torch.zeros_like(block_BL, dtype=torch.bool).scatter(1, best_BK, True) & (block_BL == self.mask_id)
        self.tokens_BS.scatter_(1, positions_BL, torch.where(taken_BL, candidate_BL, block_BL))

    def hidden(self, positions_BQ: Tensor) -> Tensor:
        """One forward of the tokens there, whose keys and values are stored; their last states [B, Q, C]."""
        network, seen = self.model.network, int(positions_BQ.max()) + 1
        self.query_tokens += positions_BQ.numel()
        mask_B1QS = (torch.arange(seen) // self.block <= positions_BQ[..., None] // self.block)[:, None]
        mask = None if mask_B1QS.all() else mask_B1QS
        x = network.embed(self.tokens_BS.gather(1, positions_BQ))
        cos_BQR, sin_BQR = rotary(positions_BQ, self.shape.rotary, self.shape.theta, x.dtype)
        for number, parts in enumerate(self.parts):
            q, k, v = (heads.unflatten(-1, (-1, parts.head_size)) for heads in parts.qkv(parts.attention_norm(x)))
            q, k = parts.q_norm(q), parts.k_norm(k)
            q, k = (rotate(heads.transpose(1, 2), cos_BQR, sin_BQR) for heads in (q, k))
            attended_BHQD = self.attend(number, q, k.transpose(1, 2), v, positions_BQ, mask)
            x = x + parts.o(attended_BHQD.transpose(1, 2).flatten(2))
            x = x + parts.feed_forward(parts.mlp_norm(x))
        normed: Tensor = network.final_norm()(x)
        return normed

    def attend(
        self, number: int, q: Tensor, k_BQGD: Tensor, v_BQGD: Tensor, positions_BQ: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Store a layer's keys and values and attend to all that each row may see."""
        rows_B1, seen = torch.arange(len(positions_BQ))[:, None], int(positions_BQ.max()) + 1
        self.keys[number][rows_B1, positions_BQ], self.values[number][rows_B1, positions_BQ] = k_BQGD, v_BQGD
        k, v = (past[number][:, :seen].transpose(1, 2) for past in (self.keys, self.values))
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)


# What is timed, by side; a network's hidden states hold its attention.
TIMED: dict[str, dict[str, tuple[Any, str]]] = {
    "ours": {
        "hidden": (Running, "hidden"),
        "attention": (layers, "attend_packed"),
        "head": (Running, "project"),
        "decision": (runner, "decide_all"),
    },
    "plain": {
        "hidden": (Plain, "hidden"),
        "attention": (Plain, "attend"),
        "head": (SDAR, "project"),
        "decision": (Plain, "commit"),
    },
}
Answers = tuple[list[list[int]], int]  # tokens of every row, and query tokens of all


def ours(model: Denoiser, prompts: Sequence[list[int]]) -> Answers:
    method = unmask.method("sdar", remasking="static", steps=STEPS).change(stop_at_eos=None)
    done = unmask.generate(model, prompts, method=method, max_new_tokens=ANSWER)
    return [row.token_ids for row in done], sum(row.query_tokens for row in done)


@torch.inference_mode()
def plain(model: Denoiser, prompts: Sequence[list[int]]) -> Answers:
    loop = Plain(model, prompts)
    tokens = loop.decode().tolist()
    return [row[len(prompt) : len(prompt) + ANSWER] for row, prompt in zip(tokens, prompts, strict=True)], loop.query_tokens


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
        for part, (owner, name) in TIMED[side].items():
            call = partial(timed, part, getattr(owner, name))
            wrapped.enter_context(patch.object(owner, name, lambda *args, call=call, **named: call(*args, **named)))
        began = time.process_time()
        answers, query_tokens = run()
        total = time.process_time() - began
    shares = {
        "network": seconds["hidden"] - seconds["attention"] + seconds["head"],
        "attention": seconds["attention"],
        "decision": seconds["decision"],
        "python": total - seconds["hidden"] - seconds["head"] - seconds["decision"],
    }
    found = {part: round(spent / total, 4) for part, spent in shares.items()}
    counts = {"forwards": calls["hidden"], "query_tokens": query_tokens}
    return answers, {"cpu_seconds": round(total, 4)} | counts | {"share_of_time": found}


def compare(block: int, rows: int, rounds: int) -> dict[str, Any]:
    """The sides in turn, medians over the rounds. Raises SystemExit where they differ in a token."""
    model, generator = random_model(block), torch.Generator().manual_seed(rows)
    lengths = (PROMPT - 8 + torch.randint(17, (rows,), generator=generator)).tolist()
    prompts = [torch.randint(16000, (length,), generator=generator).tolist() for length in lengths]
    sides = {"ours": partial(ours, model, prompts), "plain": partial(plain, model, prompts)}
    profiled = {name: profile(name, side) for name, side in sides.items()}  # and both are warm
    if rows > 1:
        profiled["alone"] = profile("plain", partial(alone, model, prompts))
    if any(answers != profiled["ours"][0] for answers, _ in profiled.values()):
        raise SystemExit(f"blocks of {block}, {rows} rows: the sides wrote different tokens")
    made: dict[str, Any] = {"block": block, "rows": rows, "prompts": lengths} | {
        name: row for name, (_, row) in profiled.items()
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            cpu, wall = time.process_time(), time.perf_counter()
            side()
            times[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    for name, taken in times.items():
        made[name] |= {
            f"{kind}_seconds": round(statistics.median(column), 4) for kind, column in zip(KINDS, zip(*taken), strict=True)
        }
    for kind, mine, theirs in zip(KINDS, zip(*times["ours"]), zip(*times["plain"]), strict=True):
        made[f"times_less_{kind}"] = round(statistics.median(b / a for a, b in zip(mine, theirs, strict=True)), 3)
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
        print(f"plain / ours: {made['times_less_cpu']:.2f} in cpu time, {made['times_less_wall']:.2f} in wall time", flush=True)
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
