"""Train a small model from nothing, the embedded one on a laptop in about an hour.

    unmask train pretrain --config configs/unmask-tiny.yaml

Masked diffusion over a mixture of generated problems, their answers hidden in three ways (`hide`). Every batch is a
function of its step number.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from unmask.errors import ConfigError
from unmask.models import loading
from unmask.models.layers import init_weights
from unmask.models.llada import LLaDA
from unmask.tasks import problems
from unmask.train import checkpoint, noise
from unmask.train.data import Batch, batch, drill, similar
from unmask.train.loss import Question, ask
from unmask.train.tokenizer import EOS, MASK, PAD, build, save, vocabulary
from unmask.train.trainer import Report, Schedule, TrainingConfig, check_number, fit, start


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(TrainingConfig):
    """Everything a pre-training depends on, besides the code.

    Attributes:
        mixture: task -> weight; see unmask.tasks.
        begin: a model of the same shape and tokenizer to go on from with a new schedule; None: from nothing.
        lessons: a step's batches, shared out to the processes, of `tokens` tokens each.
        drills, short: the share of the run that is half sheets of sums, and in which the problems grow to their full length.
        learning_rate: AdamW's, for embedding, head and norms; `muon_learning_rate` is for the matrices inside the layers.
    """

    mixture: Mapping[str, float]
    begin: str | None = None
    width: int = 128
    layers: int = 4
    heads: int = 4
    mlp: int = 512
    max_length: int = 512
    block_length: int = 32
    longest_answer: int = 128
    steps: int = 10000
    lessons: int = 2
    tokens: int = 3072
    drills: float = 0.05
    short: float = 0.3
    learning_rate: float = 2e-3
    muon_learning_rate: float = 1e-2
    schedule: Schedule = "linear"
    warmup: float = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.mixture or min(self.mixture.values()) < 0 or not sum(self.mixture.values()):
            raise ConfigError(f"mixture must give tasks positive weights, got {dict(self.mixture)}")
        problems(self.mixture, "train", seed=0)  # names an unknown task
        check_number("muon_learning_rate", self.muon_learning_rate, 0.0)
        for name in ("steps", "lessons", "tokens", "layers", "block_length"):
            check_number(name, getattr(self, name), 1)
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ConfigError(f"width {self.width} must be a multiple of heads {self.heads}, by an even number")
        if self.longest_answer % self.block_length:
            raise ConfigError(f"longest_answer {self.longest_answer} is not a multiple of block_length {self.block_length}")


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


def lesson(config: PretrainConfig, tokenizer: PreTrainedTokenizerFast, number: int) -> Batch:
    """One batch of a training step: a sheet of sums, or problems of the mixture that are about as long.

    Half of them sums in the first part of a run, one in eight later; short problems first, all from `short` of the run on.
    """
    rng = random.Random(f"{config.seed}-{number}")
    done = number / (config.steps * config.lessons)
    if rng.random() < (1 / 2 if done < config.drills else 1 / 8):
        return drill(tokenizer, rng, tokens=config.tokens, count=8)
    drawn = problems(config.mixture, "train", seed=rng.getrandbits(48))
    return batch(
        tokenizer,
        similar(drawn, rng, pool=192, reach=1.0 if done >= config.short else 0.3 + 0.7 * done / config.short),
        rng,
        tokens=config.tokens,
        block_length=config.block_length,
        longest=config.longest_answer,
    )


def initialise(network: LLaDA, generator: torch.Generator) -> None:
    """Large embeddings, small matrices, and an output matrix that starts as a small copy of the embeddings.

    With embeddings as small as the rest, what sets one name apart from another is soon drowned by what all names share, and
    copying a word from the question, which every task needs, is learnt thousands of steps later (docs/LOG.md).
    """
    init_weights(network, std=0.02, generator=generator)
    embedding, head = (network.get_parameter(f"model.transformer.{name}.weight") for name in ("wte", "ff_out"))
    with torch.no_grad():
        embedding.normal_(0.0, 1.0, generator=generator)
        head.copy_(0.02 * embedding)


def optimizers(config: PretrainConfig, network: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embedding, head and norms (as Muon's authors advise)."""
    inner = [p for name, p in network.named_parameters() if p.dim() == 2 and "blocks" in name]
    outer = [p for name, p in network.named_parameters() if not (p.dim() == 2 and "blocks" in name)]
    return [
        torch.optim.Muon(inner, lr=config.muon_learning_rate, weight_decay=config.weight_decay),
        torch.optim.AdamW(outer, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def hide(data: Batch, digits: Tensor, block_length: int, generator: torch.Generator) -> noise.Hidden:
    """Every third row is hidden at a uniform rate, the next as block-wise decoding sees it.

    Of the third kind only `digits` (token ids), where there are any, are hidden: all words are soon known, and what is
    hard to learn, the sums, is a small part of the tokens.
    """
    rates = noise.stratified(len(data.tokens_BT), generator)
    uniform = noise.bernoulli(data.answer_BT, rates, generator)
    blocks, inside = noise.block(data.answer_BT, block_length, rates, generator)
    numbers_BT = data.answer_BT & torch.isin(data.tokens_BT, digits)
    numbers = noise.bernoulli(torch.where(numbers_BT.any(1, keepdim=True), numbers_BT, data.answer_BT), rates, generator)
    kind = (torch.arange(len(rates)) % 3)[:, None]
    hidden = torch.where(kind == 0, uniform, torch.where(kind == 1, blocks, numbers))
    return noise.equal_rows(hidden, torch.where(kind == 1, inside, hidden))


def pretrain(config: PretrainConfig, report: Report | None = None) -> Path:
    """Run, or go on with, one pre-training; returns the folder with the exported model.

    `report(step, measured)` is called after every step. Ctrl-C loses at most the steps since the last checkpoint.
    Raises ConfigError if the folder holds a run with other settings, or is being written by another process.
    """
    accelerator = start(config)
    if accelerator.distributed_type == DistributedType.FSDP:
        raise ConfigError("pretrain does not run under FSDP: Muon needs whole matrices; launch it without --use_fsdp (DDP)")
    folder = Path(config.output)
    with checkpoint.writing(accelerator, folder):
        _pretrain(accelerator, config, folder, report)
    return folder


def _pretrain(accelerator: Accelerator, config: PretrainConfig, folder: Path, report: Report | None) -> None:
    tokenizer = build(vocabulary(config.mixture), model_max_length=config.max_length)
    digits = torch.tensor(tokenizer.convert_tokens_to_ids(list("0123456789")))
    settings = model_config(config, len(tokenizer))
    network = LLaDA(settings)
    initialise(network, torch.Generator().manual_seed(config.seed))
    if config.begin is not None:
        before = loading.load(config.begin, device="cpu", dtype="float32")
        if before.network.shape != network.shape or before.tokenizer.get_vocab() != tokenizer.get_vocab():
            raise ConfigError(f"{config.begin} has another shape or tokenizer than these settings make")
        network.load_state_dict(before.network.state_dict())
    if config.lessons % accelerator.num_processes:
        raise ConfigError(f"lessons {config.lessons} cannot be shared out to {accelerator.num_processes} processes")

    def questions(step: int, process: int, processes: int) -> Sequence[Question]:
        made = []
        for number in range(step * config.lessons, (step + 1) * config.lessons)[process::processes]:
            data = lesson(config, tokenizer, number)
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + number)
            made.append(ask(data.tokens_BT, hide(data, digits, config.block_length, generator), MASK))
        return made

    weights = fit(accelerator, network, optimizers(config, network), questions, config, config.steps, report)
    if accelerator.is_main_process:
        save(tokenizer, folder)
        checkpoint.export(weights, settings, folder)
        checkpoint.plot(folder)
        about = "Trained from nothing with `unmask train pretrain` on generated problems (unmask/tasks), answers included."
        checkpoint.card(folder, folder.name, about, asdict(config))
