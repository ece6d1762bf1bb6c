"""What is measured: networks of the published shapes with random weights, and the load for each kind of device."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from unmask.models.denoiser import Denoiser
from unmask.models.dream import Dream
from unmask.models.layers import init_weights
from unmask.models.llada import LLaDA
from unmask.models.llada2 import LLaDA2
from unmask.models.network import Network
from unmask.models.sdar import SDAR
from unmask.models.steps import steps

ANSWER, BLOCK = 256, 32  # tokens of the published answers and of their blocks
Report = Callable[[str], None]  # called with what is being measured

# --- networks ---------------------------------------------------------------------------------------------------------


def _llada(*, width: int, layers: int, heads: int, mlp: int, vocab: int) -> dict[str, Any]:
    ids = {"mask_token_id": vocab - 1, "eos_token_id": vocab - 2}
    sizes = {"d_model": width, "n_layers": layers, "n_heads": heads, "mlp_hidden_size": mlp, "vocab_size": vocab}
    return sizes | ids | {"max_sequence_length": 4096, "rope_theta": 500000.0}


def _dream(*, width: int, layers: int, heads: int, kv_heads: int, mlp: int, vocab: int) -> dict[str, Any]:
    ids = {"mask_token_id": vocab - 1, "eos_token_id": vocab - 2}
    attention = {"num_attention_heads": heads, "num_key_value_heads": kv_heads}
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": mlp, "vocab_size": vocab}
    return sizes | attention | ids | {"max_position_embeddings": 131072, "rope_theta": 1000000.0}


def _sdar(*, width: int, layers: int, heads: int, kv_heads: int, head: int, mlp: int, vocab: int) -> dict[str, Any]:
    attention = {"head_dim": head, "max_position_embeddings": 32768, "rope_theta": 1000000.0, "rms_norm_eps": 1e-6}
    sizes = _dream(width=width, layers=layers, heads=heads, kv_heads=kv_heads, mlp=mlp, vocab=vocab)
    return sizes | attention | {"block_size": 4}


def _llada2(
    *, width: int, layers: int, heads: int, kv_heads: int, head: int, mlp: int, expert: int, vocab: int, experts: int
) -> dict[str, Any]:
    attention = {"head_dim": head, "max_position_embeddings": 32768, "rope_theta": 600000.0, "rms_norm_eps": 1e-6}
    sizes = _dream(width=width, layers=layers, heads=heads, kv_heads=kv_heads, mlp=mlp, vocab=vocab) | attention
    routing = {"num_experts": experts, "num_experts_per_tok": 8, "num_shared_experts": 1, "first_k_dense_replace": 1}
    groups = {"n_group": 8, "topk_group": 4, "routed_scaling_factor": 2.5, "norm_topk_prob": True}
    ways = {"score_function": "sigmoid", "moe_router_enable_expert_bias": True, "use_qk_norm": True, "use_bias": False}
    rest = {"moe_intermediate_size": expert, "partial_rotary_factor": 0.5, "use_qkv_bias": False, "block_size": 32}
    return sizes | routing | groups | ways | rest


# Name -> class and the numbers of its config.json. The small ones have the sizes divided by 8 (LLaDA, SDAR, LLaDA2) or 8
# and 7 (Dream), with fewer layers and, of LLaDA2, a quarter of the experts.
SHAPES: Mapping[str, tuple[type[Network], dict[str, Any]]] = {
    "LLaDA-8B": (LLaDA, _llada(width=4096, layers=32, heads=32, mlp=12288, vocab=126464)),
    "Dream-7B": (Dream, _dream(width=3584, layers=28, heads=28, kv_heads=4, mlp=18944, vocab=152064)),
    "SDAR-8B": (SDAR, _sdar(width=4096, layers=36, heads=32, kv_heads=8, head=128, mlp=12288, vocab=151936)),
    "LLaDA2-mini": (
        LLaDA2,
        _llada2(width=2048, layers=20, heads=16, kv_heads=4, head=128, mlp=5120, expert=512, vocab=157184, experts=256),
    ),
    "LLaDA-30M": (LLaDA, _llada(width=512, layers=4, heads=4, mlp=1536, vocab=15808)),
    "Dream-34M": (Dream, _dream(width=448, layers=4, heads=7, kv_heads=1, mlp=2368, vocab=19008)),
    "SDAR-30M": (SDAR, _sdar(width=512, layers=4, heads=4, kv_heads=1, head=128, mlp=1536, vocab=18992)),
    "LLaDA2-20M": (
        LLaDA2,
        _llada2(width=256, layers=4, heads=4, kv_heads=1, head=64, mlp=640, expert=64, vocab=19648, experts=64),
    ),
}

PUBLISHED = ("LLaDA-8B", "Dream-7B")  # the shapes that the papers measured


def shaped(name: str, device: torch.device, dtype: torch.dtype) -> Denoiser:
    """A network of that shape with random weights, made on its device: an 8B one never takes the host's memory."""
    kind, config = SHAPES[name]
    with torch.device("meta"):
        network: Network = kind(config)
    network = network.to(dtype).to_empty(device=device)
    init_weights(network, std=0.02, generator=torch.Generator(device).manual_seed(0))
    return Denoiser(network=network.eval().requires_grad_(False), tokenizer=None, name=name, steps=steps(network))


# --- load -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Load:
    """The sizes of a run: all that differs between a CPU and a GPU, and between a quick run and a full one.

    Attributes:
        shapes: names of SHAPES; `growth` takes the first.
        batches, prompts: of forwards; `decodes` are the batches of whole decodes.
        start: batch, prompt and answer at which each axis of `growth` begins.
        growth: values of each axis, with the others as in `start`.
        copied: bytes of a copy, more than any cache holds.
        square: side of the large matrices.
        problems: of the embedded model's tasks.
        methods: the presets that decode them; empty: all.
        whole: every published schedule, preset without its cache and vanilla as a batch too, which take longest.
        repeats, seconds: number of readings, and the time after which no further one begins.
        turns: that time where whole decoders take turns.
    """

    shapes: tuple[str, ...]
    dtype: torch.dtype
    batches: tuple[int, ...]
    prompts: tuple[int, ...]
    decodes: tuple[int, ...]
    start: Mapping[str, int]
    growth: Mapping[str, tuple[int, ...]]
    copied: int
    square: int
    problems: int
    methods: tuple[str, ...]
    whole: bool
    repeats: int
    seconds: float
    turns: float


QUICK = ("vanilla", "fast-dllm", "r2-dllm")  # the presets of a quick run


def workload(device: torch.device, *, quick: bool) -> Load:
    """The usual load of this kind of device."""
    if device.type == "cpu":
        return Load(
            shapes=("LLaDA-30M",) if quick else ("LLaDA-30M", "Dream-34M", "SDAR-30M", "LLaDA2-20M"),
            dtype=torch.float32,
            batches=(1,) if quick else (1, 4, 16),
            prompts=(128,),
            decodes=(1,) if quick else (1, 4),
            start={"batch": 1, "prompt": 64, "answer": 64},
            growth={"batch": (1, 2), "prompt": (64, 128), "answer": (64, 128)}
            if quick
            else {"batch": (1, 2, 4, 8, 16), "prompt": (64, 128, 256, 512, 1024), "answer": (64, 128, 256, 512)},
            copied=2**28,
            square=1024 if quick else 2048,
            problems=1 if quick else 3,
            methods=QUICK if quick else (),
            whole=not quick,
            repeats=1 if quick else 5,
            seconds=1.0 if quick else 4.0,
            turns=5.0 if quick else 60.0,
        )
    return Load(
        shapes=("LLaDA-8B", "Dream-7B", "SDAR-8B", "LLaDA2-mini"),
        dtype=torch.bfloat16,
        batches=(1, 16) if quick else (1, 4, 16, 64),
        prompts=(128,) if quick else (128, 1024),
        decodes=(1, 16) if quick else (1, 4, 16, 64),
        start={"batch": 1, "prompt": 128, "answer": 256},
        growth={"batch": (1, 4), "prompt": (128, 512), "answer": (128, 256)}
        if quick
        else {
            "batch": (1, 2, 4, 8, 16, 32, 64),
            "prompt": (64, 128, 256, 512, 1024, 2048),
            "answer": (64, 128, 256, 512, 1024),
        },
        copied=2**32,
        square=8192,
        problems=2 if quick else 8,
        methods=QUICK if quick else (),
        whole=not quick,
        repeats=2 if quick else 10,
        seconds=4.0 if quick else 10.0,
        turns=20.0 if quick else 120.0,
    )
