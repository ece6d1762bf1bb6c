"""Train the embedded model from nothing, on a CPU, in about an hour.

    unmask train pretrain --config configs/unmask-tiny.yaml

A plain loop: masked diffusion over generated problems, their answers hidden in three ways (`hide`). Checkpoints are
atomic and every batch is a function of its step number, so a killed run goes on where it was.
"""

import csv
import json
import os
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from unmask.errors import ConfigError
from unmask.models.layers import init_weights
from unmask.models.llada import LLaDA
from unmask.tasks import problems
from unmask.train import noise
from unmask.train.data import Batch, batch, drill, similar
from unmask.train.loss import masked_loss, row_weights
from unmask.train.tokenizer import ASSISTANT, EOS, MASK, PAD, build, save, vocabulary


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Everything a run depends on, besides the code. `output` is the folder of checkpoints, log and export."""

    output: str
    mixture: dict[str, float]
    width: int = 128
    layers: int = 4
    heads: int = 4
    mlp: int = 512
    max_length: int = 512
    block_length: int = 32
    longest_answer: int = 128
    steps: int = 11000
    tokens_per_step: int = 4096
    drills: int = 800
    learning_rate: float = 2e-3
    muon_learning_rate: float = 1e-2
    warmup: int = 200
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    checkpoint_every: int = 250
    threads: int = 2

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> "PretrainConfig":
        """Raises ConfigError on a name that is not a field."""
        unknown = sorted(set(settings) - set(cls.__dataclass_fields__))
        if unknown:
            raise ConfigError(f"unknown pre-training option '{unknown[0]}': known: {', '.join(cls.__dataclass_fields__)}")
        return cls(**settings)


def model_config(config: PretrainConfig, vocab_size: int) -> dict[str, Any]:
    """The config.json of a LLaDA checkpoint of this size."""
    return {
        "architectures": ["LLaDAModelLM"],
        "model_type": "llada",
        "d_model": config.width,
        "n_heads": config.heads,
        "n_kv_heads": config.heads,
        "n_layers": config.layers,
        "mlp_hidden_size": config.mlp,
        "mlp_ratio": 4,
        "activation_type": "silu",
        "block_type": "llama",
        "block_group_size": 1,
        "alibi": False,
        "rope": True,
        "rope_full_precision": True,
        "rope_theta": 10000.0,
        "flash_attention": False,
        "attention_dropout": 0.0,
        "residual_dropout": 0.0,
        "embedding_dropout": 0.0,
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "rms_norm_eps": 1e-5,
        "attention_layer_norm": False,
        "attention_layer_norm_with_affine": True,
        "max_sequence_length": config.max_length,
        "include_bias": False,
        "include_qkv_bias": False,
        "bias_for_layer_norm": False,
        "vocab_size": vocab_size,
        "embedding_size": vocab_size,
        "weight_tying": False,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "mask_token_id": MASK,
        "init_device": "cpu",
        "init_fn": "normal",
        "init_std": 0.02,
        "scale_logits": False,
        "input_emb_norm": False,
        "torch_dtype": "float32",
    }


def lesson(config: PretrainConfig, tokenizer: PreTrainedTokenizerFast, step: int) -> Batch:
    """The batch of one training step: a sheet of sums, or problems of the mixture that are about as long.

    Mostly sums in the first part of a run, one step in eight later.
    """
    rng = random.Random(f"{config.seed}-{step}")
    if rng.random() < (0.75 if step < config.drills else 1 / 8):
        return drill(tokenizer, rng, tokens=config.tokens_per_step, count=8)
    return batch(
        tokenizer,
        similar(problems(config.mixture, "train", seed=rng.getrandbits(48)), rng, pool=192),
        rng,
        tokens=config.tokens_per_step,
        block_length=config.block_length,
        longest=config.longest_answer,
    )


def learning_rate(config: PretrainConfig, step: int) -> float:
    """Fraction of the peak: linear warm-up, then linear decay to zero."""
    return min((step + 1) / config.warmup, (config.steps - step) / (config.steps - config.warmup))


def optimizers(config: PretrainConfig, network: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embedding, head and norms (as Muon's authors advise)."""
    inner = [p for name, p in network.named_parameters() if p.dim() == 2 and "blocks" in name]
    outer = [p for name, p in network.named_parameters() if not (p.dim() == 2 and "blocks" in name)]
    return [
        torch.optim.Muon(inner, lr=config.muon_learning_rate, weight_decay=config.weight_decay),
        torch.optim.AdamW(outer, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def hide(data: Batch, digits: Tensor, block_length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(hidden, supervised), [B, T]. Every third row is hidden at a uniform rate, the next as block-wise decoding sees it.

    Of the third kind only `digits` (token ids), where there are any, are hidden: all words are soon known, and what is hard to learn, the sums,
    is a small part of the tokens.
    """
    rates = noise.stratified(len(data.tokens_BT), generator)
    uniform = noise.bernoulli(data.answer_BT, rates, generator)
    blocks, inside = noise.block(data.answer_BT, block_length, rates, generator)
    numbers_BT = data.answer_BT & torch.isin(data.tokens_BT, digits)
    numbers = noise.bernoulli(torch.where(numbers_BT.any(1, keepdim=True), numbers_BT, data.answer_BT), rates, generator)
    kind = (torch.arange(len(rates)) % 3)[:, None]
    hidden = torch.where(kind == 0, uniform, torch.where(kind == 1, blocks, numbers))
    return hidden, torch.where(kind == 1, inside, hidden)


def loss_and_accuracy(network: LLaDA, data: Batch, hidden: Tensor, supervised: Tensor) -> tuple[Tensor, Tensor]:
    """The training loss, and the share of supervised tokens whose most probable value is right."""
    with torch.autocast("cpu", torch.bfloat16):
        states = network.hidden(torch.where(hidden, MASK, data.tokens_BT))
        logits = network.project(states[supervised])
    targets = data.tokens_BT[supervised]
    weights = row_weights(supervised)[supervised]
    return masked_loss(logits, targets, weights, len(hidden)), (logits.argmax(-1) == targets).float().mean()


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` on a temporary neighbour of `path`, then rename it: a reader sees the old file or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    write(temporary)
    os.replace(temporary, path)


def export(network: LLaDA, settings: dict[str, Any], folder: Path) -> None:
    """Write the checkpoint in the Hugging Face layout: config.json and model.safetensors."""
    weights = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
    write_atomically(folder / "model.safetensors", lambda path: save_file(weights, path, metadata={"format": "pt"}))
    write_atomically(folder / "config.json", lambda path: path.write_text(json.dumps(settings, indent=1) + "\n"))


def pretrain(config: PretrainConfig, report: Callable[[int, dict[str, float]], None] | None = None) -> Path:
    """Run, or go on with, one pre-training; returns the folder with the exported model.

    `report(step, measured)` is called after every step. Ctrl-C loses at most the steps since the last checkpoint.
    """
    torch.set_num_threads(config.threads)
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build(vocabulary(config.mixture), model_max_length=config.max_length)
    save(tokenizer, folder)
    assert tokenizer.convert_tokens_to_ids("<|assistant|>") == ASSISTANT
    digits = torch.tensor(tokenizer.convert_tokens_to_ids(list("0123456789")))
    settings = model_config(config, len(tokenizer))
    network = LLaDA(settings)
    init_weights(network, std=0.02, generator=torch.Generator().manual_seed(config.seed))
    tuners = optimizers(config, network)
    peaks = [tuner.param_groups[0]["lr"] for tuner in tuners]
    first = 0
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        if saved["config"] != asdict(config):
            raise ConfigError(f"{checkpoint} was made with other settings: use another `output` or delete it")
        network.load_state_dict(saved["network"])
        for tuner, state in zip(tuners, saved["optimizers"], strict=True):
            tuner.load_state_dict(state)
        first = saved["step"]

    log = folder / "log.csv"
    started, seen = time.monotonic(), 0
    for step in range(first, config.steps):
        data = lesson(config, tokenizer, step)
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        hidden, supervised = hide(data, digits, config.block_length, generator)
        loss, accuracy = loss_and_accuracy(network, data, hidden, supervised)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), config.clip)
        for tuner, peak in zip(tuners, peaks, strict=True):
            tuner.param_groups[0]["lr"] = peak * learning_rate(config, step)
            tuner.step()
            tuner.zero_grad()
        seen += data.tokens_BT.numel()
        measured = {
            "loss": loss.item(),
            "accuracy": accuracy.item(),
            "tokens_per_second": seen / (time.monotonic() - started),
        }
        if report is not None:
            report(step, measured)
        if (step + 1) % 25 == 0:
            new = not log.exists()
            with log.open("a", newline="") as file:
                writer = csv.writer(file)
                if new:
                    writer.writerow(["step", *measured])
                writer.writerow([step + 1, *(round(value, 5) for value in measured.values())])
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
            saved = {
                "config": asdict(config),
                "step": step + 1,
                "network": network.state_dict(),
                "optimizers": [tuner.state_dict() for tuner in tuners],
            }
            write_atomically(checkpoint, lambda path, saved=saved: torch.save(saved, path))  # type: ignore[misc]
            export(network, settings, folder)
    return folder
