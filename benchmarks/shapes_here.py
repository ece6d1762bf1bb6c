"""Networks of the published models' shapes on this machine, with random weights from a seeded generator and no file.

    OMP_NUM_THREADS=1 python benchmarks/shapes_here.py sdar-1.7b      # int8, bfloat16 and a plain loop: loading, then answers
    OMP_NUM_THREADS=1 python benchmarks/shapes_here.py llada-8b       # int4: loading, then forwards of one block

Tensors are made when their turn comes, so the whole never exists beside the quantised one. Every line says what was
measured; memory is the growth of this process's largest resident size (VmHWM) where the form was the first one made.
"""

import argparse
import gc
import json
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu

import unmask
from unmask.context.plan import assemble, entire
from unmask.models.denoiser import Denoiser
from unmask.models.layout import layouts
from unmask.models.loading import network_class
from unmask.models.network import Network
from unmask.models.steps import steps
from unmask.models.stored import Stored, Take
from unmask.models.weights import fill_from

TILE = 256  # rows that one state of the generator makes, so that any rows can be had alone
PROMPT, ANSWER = 64, 128
SHARPNESS = 6.0  # of the logits: a random network is as sure of some tokens as a trained one
CONFIGS: dict[str, dict[str, Any]] = {
    # JetLM/SDAR-1.7B-Chat: Qwen3-1.7B's sizes, blocks of 4.
    "sdar-1.7b": {
        "architectures": ["SDARForCausalLM"],
        "model_type": "sdar",
        "hidden_size": 2048,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 6144,
        "vocab_size": 151936,
        "rope_theta": 1e6,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
        "eos_token_id": 151643,
        "mask_token_id": 151669,
        "block_size": 4,
    },
    # GSAI-ML/LLaDA-8B-Instruct.
    "llada-8b": {
        "architectures": ["LLaDAModelLM"],
        "model_type": "llada",
        "d_model": 4096,
        "n_layers": 32,
        "n_heads": 32,
        "n_kv_heads": 32,
        "mlp_hidden_size": 12288,
        "embedding_size": 126464,
        "vocab_size": 126464,
        "rope_theta": 5e5,
        "max_sequence_length": 4096,
        "eos_token_id": 126081,
        "mask_token_id": 126336,
    },
}


class Generated(Stored):
    """A checkpoint that is made while it is read."""

    def __init__(self, network: Network) -> None:
        self.folder = Path("generated")
        pieces = [piece for name, _ in network.named_parameters() for piece in layouts(network, name)[0]]
        self._last: tuple[str, int, Tensor] = ("", 0, torch.empty(0))
        self._shapes = {piece.source: piece.shape for piece in pieces}

    def __contains__(self, name: object) -> bool:
        return name in self._shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def path(self, name: str) -> Path:
        return self.folder

    def quantised(self, name: str) -> bool:
        return False

    def dtype(self, name: str) -> torch.dtype:
        return torch.bfloat16

    def read(self, name: str, shape: Sequence[int], take: Take) -> Tensor:
        if len(shape) == 1:
            return torch.ones(shape, dtype=torch.bfloat16)
        begin, end, _ = take[0].indices(shape[0])
        made = torch.empty(end - begin, *shape[1:], dtype=torch.bfloat16)
        for first in range(begin - begin % TILE, end, TILE):
            rows = slice(max(begin, first), min(end, first + TILE))
            made[rows.start - begin : rows.stop - begin] = self._tile(name, first, shape)[
                rows.start - first : rows.stop - first
            ]
        return made

    def _tile(self, name: str, first: int, shape: Sequence[int]) -> Tensor:
        if self._last[:2] != (name, first):
            generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {first}".encode()))
            # Even from -0.035 to 0.035, of a deviation of 0.02: several times as fast as normal numbers.
            bytes_ = torch.empty(min(TILE, shape[0] - first), *shape[1:], dtype=torch.int8).random_(
                -127, 128, generator=generator
            )
            self._last = (name, first, bytes_.bfloat16() * (0.035 / 127))
        return self._last[2]


def most() -> int:
    """Bytes: the largest resident size of this process."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024


def say(**facts: Any) -> None:
    print(json.dumps({name: round(fact, 3) if isinstance(fact, float) else fact for name, fact in facts.items()}), flush=True)


def make(shape: str, weights: str | None) -> Denoiser:
    """The model, in bfloat16 but for what is quantised."""
    before, began = most(), time.process_time()
    config = CONFIGS[shape]
    with torch.device("meta"):
        network = network_class(config["architectures"][0])(config)
    fill_from(network, Generated(network), device=torch.device("cpu"), dtype=torch.bfloat16, weights=weights)
    network.logit_scale = SHARPNESS
    network.eval().requires_grad_(False)
    held = sum(part.nbytes for tensor in network.parameters() for part in _parts(tensor))
    model = Denoiser(network=network, tokenizer=None, name=shape, steps=steps(network))
    loaded, seconds = most() - before, time.process_time() - began
    with torch.inference_mode():
        model.forward(*assemble([entire([1, 2, 3], 1, 3, block=model.spec.block)], device=model.device), None)
    say(
        shape=shape,
        weights=weights or "bfloat16",
        gigabytes=held / 1e9,
        loaded_gigabytes=loaded / 1e9,
        decoding_gigabytes=(most() - before) / 1e9,
        processor_seconds_to_load=seconds,
    )
    return model


def _parts(tensor: Tensor) -> list[Tensor]:
    held: Any = tensor
    return [getattr(held, part) for part in ("qdata", "scale", "zero_point") if getattr(held, part, None) is not None] or [
        tensor
    ]


def answers(model: Denoiser, prompt: list[int]) -> None:
    for method in ("fast-dllm", "r2-dllm"):
        began = time.process_time()
        (made,) = unmask.generate(model, [prompt], method=method, max_new_tokens=ANSWER)
        told(model.weights or "bfloat16", method, made.forwards, time.process_time() - began, made.seconds)


def told(weights: str, method: str, forwards: int, processor: float, seconds: float) -> None:
    """One answer; processor seconds are what a thread takes on a machine of its own."""
    say(
        weights=weights,
        method=method,
        forwards=forwards,
        processor_seconds=processor,
        seconds=seconds,
        tokens_per_processor_second=ANSWER / processor,
    )


@torch.inference_mode()
def plain_loop(shape: str, prompt: list[int]) -> None:
    """Block after block as the authors' loops do, with PyTorch's layers: keys kept, all tokens above 0.9, at least one."""
    config, kept = CONFIGS[shape], {}
    with torch.device("meta"):
        network = network_class(config["architectures"][0])(config)
    stored = Generated(network)
    weights = {name: stored.read(name, stored._shapes[name], (slice(None),)) for name in stored}
    mask, size, length = config["mask_token_id"], config["head_dim"], config["block_size"]
    frequencies = config["rope_theta"] ** -(torch.arange(0, size, 2) / size)

    def turn(x: Tensor, start: int) -> Tensor:
        angles = torch.arange(start, start + x.shape[2])[:, None] * frequencies
        angles, (first, second) = torch.cat((angles, angles), dim=-1), x.float().chunk(2, dim=-1)
        return (x.float() * angles.cos() + torch.cat((-second, first), dim=-1) * angles.sin()).bfloat16()

    def forward(tokens: Tensor, start: int, *, keep: bool) -> Tensor:
        x = weights["model.embed_tokens.weight"][tokens][None]
        for number in range(config["num_hidden_layers"]):

            def part(name: str, x: Tensor, number: int = number) -> Tensor:
                return linear(x, weights[f"model.layers.{number}.{name}.weight"])

            normed = rms_norm(x, (x.shape[-1],), eps=1e-6)
            q, k, v = (part(f"self_attn.{n}_proj", normed).unflatten(-1, (-1, size)).transpose(1, 2) for n in "qkv")
            q, k = (turn(rms_norm(heads, (size,), eps=1e-6), start) for heads in (q, k))
            if number in kept:
                k, v = (torch.cat(pair, dim=2) for pair in zip(kept[number], (k, v), strict=True))
            if keep:
                kept[number] = (k, v)
            attended = scaled_dot_product_attention(q, k, v, enable_gqa=True)
            x = x + part("self_attn.o_proj", attended.transpose(1, 2).flatten(2))
            normed = rms_norm(x, (x.shape[-1],), eps=1e-6)
            x = x + part("mlp.down_proj", silu(part("mlp.gate_proj", normed)) * part("mlp.up_proj", normed))
        return linear(rms_norm(x, (x.shape[-1],), eps=1e-6), weights["model.embed_tokens.weight"])[0]

    began, processor, forwards = time.perf_counter(), time.process_time(), 1
    forward(torch.tensor(prompt), 0, keep=True)  # of a random network it does not matter which keys a prompt's tokens see
    for start in range(len(prompt), len(prompt) + ANSWER, length):
        block = torch.full((length,), mask)
        while bool((block == mask).any()):
            logits = forward(block, start, keep=False).float() * SHARPNESS
            logits[:, mask] = -torch.inf
            confidence, candidate = logits.softmax(-1).max(-1)
            confidence = confidence.masked_fill(block != mask, -1.0)
            chosen = (confidence > 0.9) | (confidence == confidence.max())
            block, forwards = torch.where(chosen & (block == mask), candidate, block), forwards + 1
        forward(block, start, keep=True)
        forwards += 1
    told("bfloat16", "plain loop", forwards, time.process_time() - processor, time.perf_counter() - began)


@torch.inference_mode()
def blocks(model: Denoiser, lengths: Sequence[int]) -> None:
    """Seconds of a forward of one block that sees nothing else."""
    for length in lengths:
        packed, plan = assemble([entire([model.spec.mask_id] * length, 0, length, block=model.spec.block)], device=model.device)
        model.forward(packed, plan, None)
        began = time.process_time()
        model.forward(packed, plan, None)
        say(weights=model.weights, block=length, processor_seconds=time.process_time() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=CONFIGS)
    parser.add_argument("--weights", nargs="*", help="default: int8 and bfloat16, of LLaDA-8B int4")
    given = parser.parse_args()
    forms = given.weights or (["int4"] if given.shape == "llada-8b" else ["int8", "bfloat16"])
    unmask.generate(unmask.load("unmask-tiny", weights="int8"), [[5, 6, 7]], max_new_tokens=8)  # imports and kernels
    prompt = list(range(100, 100 + PROMPT))
    for weights in forms:
        model = make(given.shape, None if weights == "bfloat16" else weights)
        if given.shape == "llada-8b":
            blocks(model, (4, 32))
        else:
            answers(model, prompt)
        del model
        gc.collect()
    if given.shape == "sdar-1.7b":
        plain_loop(given.shape, prompt)


if __name__ == "__main__":
    main()
