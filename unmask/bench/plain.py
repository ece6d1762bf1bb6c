"""The plain loop as a peer: masked diffusion decoding as published code writes it, with PyTorch's own layers.

    python -m unmask.bench.plain CHECKPOINT [--padded] [--dtype bfloat16]

One nn.Linear per matrix, scaled_dot_product_attention, a Python loop over blocks and steps, every position of the canvas in
a forward without cache, the block alone behind a refresh with the dual cache (Fast-dLLM, arXiv 2505.22618, section 3.2).
Prompts are decoded one after the other; with --padded as one batch, filled up on the left, whose rows take every forward
together. It reads checkpoints of LLaDA's layout by itself and knows nothing of unmask: `unmask bench peers` compares both.

Shapes: B rows, T tokens of the canvas, L of the block, Q queries, S keys, H heads, G key/value heads, D head size, C width,
V vocabulary.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

Past = list[tuple[Tensor, Tensor]]  # rotated keys and values of every layer, each [B, G, T, D]


class Layer(nn.Module):
    """A transformer layer whose names are the checkpoint's."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width, mlp, heads = config["d_model"], config["mlp_hidden_size"], config["n_heads"]
        self.size = width // heads
        kept = (config.get("n_kv_heads") or heads) * self.size
        self.attn_norm = nn.RMSNorm(width, eps=config.get("rms_norm_eps", 1e-5))
        self.q_proj, self.attn_out = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.k_proj, self.v_proj = nn.Linear(width, kept, bias=False), nn.Linear(width, kept, bias=False)
        self.ff_norm = nn.RMSNorm(width, eps=config.get("rms_norm_eps", 1e-5))
        self.ff_proj, self.up_proj = nn.Linear(width, mlp, bias=False), nn.Linear(width, mlp, bias=False)
        self.ff_out = nn.Linear(mlp, width, bias=False)

    def forward(
        self, x: Tensor, angles_QD: Tensor, past: tuple[Tensor, Tensor] | None, start: int, seen: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """`past` has every position's key and value, of which those from `start` on are replaced by the queries'."""
        normed = self.attn_norm(x)
        q, k, v = (
            part(normed).unflatten(-1, (-1, self.size)).transpose(1, 2) for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = _turn(q, angles_QD), _turn(k, angles_QD)
        if past is not None:
            stop = start + x.shape[1]
            past[0][:, :, start:stop], past[1][:, :, start:stop] = k, v
            k, v = past
        attended = scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=q.shape[1] != k.shape[1])
        x = x + self.attn_out(attended.transpose(1, 2).flatten(2))
        normed = self.ff_norm(x)
        return x + self.ff_out(silu(self.ff_proj(normed)) * self.up_proj(normed)), (k, v)


def _turn(x: Tensor, angles_QD: Tensor) -> Tensor:
    first, second = x.float().chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x.float() * angles_QD.cos() + turned * angles_QD.sin()).to(x.dtype)


class Plain(nn.Module):
    """LLaDA's network, read from a folder with config.json and one *.safetensors."""

    def __init__(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        config = json.loads((folder / "config.json").read_text())
        if config.get("architectures") != ["LLaDAModelLM"] or config.get("weight_tying"):
            raise SystemExit(f"{folder}: the plain loop reads untied checkpoints of LLaDAModelLM alone")
        self.config, width, vocab = config, config["d_model"], config.get("embedding_size") or config["vocab_size"]
        with torch.device("meta"):
            self.wte = nn.Embedding(vocab, width)
            self.blocks = nn.ModuleList(Layer(config) for _ in range(config["n_layers"]))
            self.ln_f = nn.RMSNorm(width, eps=config.get("rms_norm_eps", 1e-5))
            self.ff_out = nn.Linear(width, vocab, bias=False)
        weights = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
        self.load_state_dict({name.removeprefix("model.transformer."): part for name, part in weights.items()}, assign=True)
        self.to(dtype).requires_grad_(False)

    def forward(
        self, tokens_BQ: Tensor, start: int = 0, past: Past | None = None, seen: Tensor | None = None
    ) -> tuple[Tensor, Past]:
        """Logits [B, Q, V] of the positions from `start` on, and the keys and values of all."""
        size = self.config["d_model"] // self.config["n_heads"]
        frequencies = self.config["rope_theta"] ** -(torch.arange(0, size, 2) / size)
        angles = torch.arange(start, start + tokens_BQ.shape[1])[:, None] * frequencies
        angles_QD, x, kept = torch.cat((angles, angles), dim=-1), self.wte(tokens_BQ), []
        for number, layer in enumerate(self.blocks):
            x, pair = layer(x, angles_QD, None if past is None else past[number], start, seen)
            kept.append(pair)
        return self.ff_out(self.ln_f(x)), kept


def commit(logits_BLV: Tensor, block_BL: Tensor, mask_id: int, rule: Mapping[str, Any], step: int, steps: int) -> Tensor:
    """The block with the step's tokens written: all that are sure and at least one, or the step's quota of the surest."""
    masked_BL = block_BL == mask_id
    probability_BLV = logits_BLV.double().softmax(-1)
    probability_BLV[..., mask_id] = 0
    confidence_BL, candidate_BL = probability_BLV.max(-1)
    confidence_BL = confidence_BL.masked_fill(~masked_BL, -1)
    if rule["rule"] == "threshold":
        best_BL = confidence_BL == confidence_BL.amax(1, keepdim=True)
        chosen_BL = (confidence_BL >= rule["threshold"]) | best_BL
    else:
        base, surplus = divmod(block_BL.shape[1], steps)
        places = confidence_BL.topk(base + (step < surplus), dim=1).indices
        chosen_BL = torch.zeros_like(masked_BL).scatter(1, places, True)
    return torch.where(chosen_BL & masked_BL, candidate_BL, block_BL)


@torch.inference_mode()
def decode(
    network: Plain, prompts: Sequence[Sequence[int]], new_tokens: int, method: Mapping[str, Any], mask_id: int
) -> tuple[list[list[int]], int]:
    """The answers of a batch, filled up on the left, and the forwards that it took."""
    longest, length = max(map(len, prompts)), min(method["block_length"], new_tokens)
    tokens_BT = torch.full((len(prompts), longest + new_tokens), mask_id)
    real_BT = torch.ones_like(tokens_BT, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        tokens_BT[row, longest - len(prompt) : longest] = torch.tensor(prompt)
        real_BT[row, : longest - len(prompt)] = False
    seen = None if real_BT.all() else real_BT[:, None, None]
    rule, forwards = method["commit"], 0
    steps = (rule.get("steps") or new_tokens) // (new_tokens // length)
    for start in range(longest, longest + new_tokens, length):
        block, past, step = slice(start, start + length), None, 0
        while (tokens_BT[:, block] == mask_id).any():
            if past is None or method["cache"] == "none":
                logits_BTV, past = network(tokens_BT, seen=seen)
                logits_BLV = logits_BTV[:, block]
            else:
                logits_BLV, past = network(tokens_BT[:, block], start, past, seen)
            tokens_BT[:, block] = commit(logits_BLV, tokens_BT[:, block], mask_id, rule, step, steps)
            forwards, step = forwards + 1, step + 1
    return tokens_BT[:, longest:].tolist(), forwards


def answer(network: Plain, asked: Mapping[str, Any], *, padded: bool) -> dict[str, Any]:
    """One line of a peer's answers."""
    method, prompts = asked["method"], asked["prompts"]
    if method["commit"]["rule"] not in ("threshold", "quota") or method["cache"] not in ("none", "dual"):
        raise SystemExit("the plain loop commits by threshold or quota, with cache none or dual")
    batches = [prompts] if padded else [[prompt] for prompt in prompts]
    began = time.process_time()
    made = [decode(network, batch, asked["max_new_tokens"], method, asked["mask_id"]) for batch in batches]
    return {
        "cpu_seconds": time.process_time() - began,
        "tokens": [row for rows, _ in made for row in rows],
        "forwards": [forwards for rows, forwards in made for _ in rows],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--padded", action="store_true", help="decode the prompts of a line as one batch")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: the checkpoint's own")
    given = parser.parse_args()
    network = Plain(given.checkpoint, given.dtype and getattr(torch, given.dtype))
    for line in sys.stdin:
        print(json.dumps(answer(network, json.loads(line), padded=given.padded)), flush=True)


if __name__ == "__main__":
    main()
