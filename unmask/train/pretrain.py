"""Train a small model from scratch or from another one; the embedded ones take about an hour each on a laptop.

    unmask train pretrain --config configs/unmask-tiny.yaml
    unmask train pretrain --config configs/unmask-tiny-block.yaml

Masked diffusion over a mixture of generated problems, their answers masked in three ways (`hide`), for a block-causal
model block by block (`hide_on_grid`). Every batch is a function of its step number.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedType
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from unmask.errors import ConfigError, unknown
from unmask.models import loading
from unmask.models.network import Network
from unmask.tasks import problems
from unmask.train import checkpoint, noise
from unmask.train.begin import CONFIGS, initialise, take_over
from unmask.train.data import Batch, batch, drill, similar
from unmask.train.loss import Question, ask
from unmask.train.tokenizer import build, save, vocabulary
from unmask.train.trainer import Report, Schedule, TrainingConfig, check_number, fit, start


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(TrainingConfig):
    """All settings of a pre-training.

    Attributes:
        mixture: task -> weight; see unmask.tasks.
        architecture: the layout of the checkpoint, by its Hugging Face name.
        begin: a model of the same shape and tokenizer, of any family, whose weights are taken over; None: from scratch.
        block_length: of the noise and, if the architecture is block-causal, of the model.
        block_lengths: of a block-causal model's batches, in turn; none: `block_length` alone.
        wholly: the share of a block-causal model's blocks that is masked wholly.
        lessons: batches per step, of `tokens` tokens each, divided among the processes.
        drills: the share of the run, at its start, in which half of the batches are sheets of sums.
        short: the share of the run, at its start, in which the problems grow to their full length.
        learning_rate: AdamW's, for embedding, head and norms; `muon_learning_rate` is for the matrices inside the layers.
    """

    mixture: Mapping[str, float]
    architecture: str = "LLaDAModelLM"
    begin: str | None = None
    width: int = 128
    layers: int = 4
    heads: int = 4
    mlp: int = 512
    max_length: int = 512
    block_length: int = 32
    block_lengths: Sequence[int] = ()
    wholly: float = 0.5
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
        problems(self.mixture, "train", seed=0)  # raises for an unknown task
        if self.architecture not in CONFIGS:
            raise unknown("architecture", self.architecture, CONFIGS)
        for length in self.block_lengths:
            check_number("block_lengths", length, 1)
        if not 0 <= self.wholly < 1:
            raise ConfigError(f"wholly must be at least 0 and below 1, got {self.wholly}")
        check_number("muon_learning_rate", self.muon_learning_rate, 0.0)
        for name in ("steps", "lessons", "tokens", "layers", "block_length"):
            check_number(name, getattr(self, name), 1)
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ConfigError(f"width {self.width} must be an even multiple of heads {self.heads}")
        if self.longest_answer % self.block_length:
            raise ConfigError(f"longest_answer {self.longest_answer} is not a multiple of block_length {self.block_length}")


def lesson(config: PretrainConfig, tokenizer: PreTrainedTokenizerFast, number: int, block: int | None = None) -> Batch:
    """One batch of a training step: sheets of sums, or problems of the mixture of about equal length.

    Every second batch is sums in the first part of a run, every eighth later; short problems come first (`short`).
    `block` is the block length of a block-causal model.
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
        block_length=block or config.block_length,
        longest=config.longest_answer,
        on_grid=block is not None,
    )


def optimizers(config: PretrainConfig, network: Network) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embedding, head and norms (as Muon's authors advise)."""
    inside = {id(p) for layer in network.blocks() for p in layer.parameters() if p.dim() == 2}
    inner = [p for p in network.parameters() if id(p) in inside]
    outer = [p for p in network.parameters() if id(p) not in inside]
    return [
        torch.optim.Muon(inner, lr=config.muon_learning_rate, weight_decay=config.weight_decay),
        torch.optim.AdamW(outer, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def hide(data: Batch, digits: Tensor, block_length: int, generator: torch.Generator) -> noise.Hidden:
    """Mask every third row at a uniform rate, and the next one as block-wise decoding sees it.

    In rows of the third kind only `digits` (token ids) are masked, if there are any: all words are soon learnt, and what is
    hard to learn, the sums, is a small part of the tokens.
    """
    rates = noise.stratified(len(data.tokens_BT), generator)
    uniform = noise.bernoulli(data.answer_BT, rates[:, None], generator)
    blocks, inside = noise.block(data.answer_BT, block_length, rates, generator)
    numbers = noise.bernoulli(_numbers(data, digits), rates[:, None], generator)
    kind = (torch.arange(len(rates)) % 3)[:, None]
    hidden = torch.where(kind == 0, uniform, torch.where(kind == 1, blocks, numbers))
    return noise.equal_rows(hidden, torch.where(kind == 1, inside, hidden))


def hide_on_grid(data: Batch, digits: Tensor, block: int, wholly: float, generator: torch.Generator) -> noise.Hidden:
    """Mask every block of a row at its own rate, a share `wholly` of them wholly.

    In every third row only `digits` are masked, as in `hide`. All blocks train at once, since each one sees the clean blocks
    before it (layout.py).
    """
    third = (torch.arange(len(data.tokens_BT)) % 3 == 2)[:, None]
    hidden = noise.grid(torch.where(third, _numbers(data, digits), data.answer_BT), block, wholly, generator)
    return noise.equal_rows(hidden, hidden)


def _numbers(data: Batch, digits: Tensor) -> Tensor:
    """The positions of an answer's digits, bool [B, T]; the whole answer if it has none."""
    numbers_BT = data.answer_BT & torch.isin(data.tokens_BT, digits)
    return torch.where(numbers_BT.any(1, keepdim=True), numbers_BT, data.answer_BT)


def pretrain(config: PretrainConfig, report: Report | None = None) -> Path:
    """Run or resume one pre-training; returns the folder with the exported model.

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
    settings = CONFIGS[config.architecture](config, len(tokenizer))
    network = loading.network_class(config.architecture)(settings)
    initialise(network, torch.Generator().manual_seed(config.seed))
    if config.begin is not None:
        before = loading.load(config.begin, device="cpu", dtype="float32")
        if before.tokenizer.get_vocab() != tokenizer.get_vocab():
            raise ConfigError(f"{config.begin} has another tokenizer than these settings make")
        take_over(network, before.network, lesson(config, tokenizer, number=0).tokens_BT)
    if config.lessons % accelerator.num_processes:
        raise ConfigError(f"lessons {config.lessons} cannot be divided among {accelerator.num_processes} processes")

    lengths = config.block_lengths or (config.block_length,)

    def questions(step: int, process: int, processes: int) -> Sequence[Question]:
        made = []
        for number in range(step * config.lessons, (step + 1) * config.lessons)[process::processes]:
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + number)
            if network.spec.block is None:
                data = lesson(config, tokenizer, number)
                made.append(ask(data.tokens_BT, hide(data, digits, config.block_length, generator), network.spec))
            else:
                block = lengths[number % len(lengths)]
                data = lesson(config, tokenizer, number, block)
                hidden = hide_on_grid(data, digits, block, config.wholly, generator)
                made.append(ask(data.tokens_BT, hidden, replace(network.spec, block=block)))
        return made

    weights = fit(accelerator, network, optimizers(config, network), questions, config, config.steps, report)
    if accelerator.is_main_process:
        save(tokenizer, folder)
        checkpoint.export(weights, settings, folder)
        checkpoint.plot(folder)
        start = "from scratch" if config.begin is None else f"on from `{Path(config.begin).name}`"
        about = f"Trained {start} with `unmask train pretrain` on generated problems with their answers (unmask/tasks)."
        checkpoint.card(folder, folder.name, about, asdict(config))
