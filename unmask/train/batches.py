"""The rows of a training step, their masks, and the micro-batches of each process: functions of the step number."""

import functools
import random
from dataclasses import dataclass
from typing import ClassVar

import torch

from unmask.decode.settings import whole
from unmask.decode.spec import ModelSpec
from unmask.errors import ConfigError
from unmask.train.loss import Question, ask
from unmask.train.objective import Objective, Rows
from unmask.train.trainer import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class BatchConfig(TrainingConfig, Objective):
    """The settings of a training on examples: the objective, and how many examples a step takes.

    Attributes:
        batch_size: examples per step, over all devices.
        micro_batch: rows that a device computes at once.
    """

    batch_size: int = 64
    micro_batch: int = 8
    epochs: int = 6
    free: ClassVar[tuple[str, ...]] = (*TrainingConfig.free, "micro_batch")  # changes what is computed at once, no result

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        Objective.__post_init__(self)
        for name in ("batch_size", "micro_batch", "epochs"):
            whole(name, getattr(self, name), 1, required=True)

    def steps(self, count: int) -> int:
        """Steps for this many examples: whole batches, at least one."""
        return max(1, self.epochs * count // self.batch_size)


def order(count: int, config: BatchConfig, step: int) -> list[int]:
    """The examples of a step: epoch after epoch, each in its own shuffle."""
    found: list[int] = []
    for place in range(step * config.batch_size, (step + 1) * config.batch_size):
        epoch, index = divmod(place, count)
        found.append(_shuffled(count, f"{config.seed}-{epoch}")[index])
    return found


@functools.lru_cache(maxsize=2)
def _shuffled(count: int, seed: str) -> list[int]:
    return random.Random(seed).sample(range(count), count)


def questions(
    rows: Rows, config: BatchConfig, spec: ModelSpec, step: int, process: int, processes: int, progress: float = 0.0
) -> list[Question]:
    """One process's micro-batches of a step. Masks are drawn for the whole batch, so no split changes them."""
    picked = torch.tensor(order(len(rows.tokens_BT), config, step))
    chosen = Rows(*(part[picked] for part in rows))
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    hidden = config.hide(chosen, spec, generator, progress)
    tokens_BT = chosen.tokens_BT.repeat(len(hidden.hidden_BT) // len(picked), 1)
    mine = range(process * len(tokens_BT) // processes, (process + 1) * len(tokens_BT) // processes)
    if not mine:
        raise ConfigError(f"{len(tokens_BT)} rows per step cannot be divided among {processes} processes: raise batch_size")
    parts = [slice(first, min(first + config.micro_batch, mine.stop)) for first in mine[:: config.micro_batch]]
    return [ask(tokens_BT[part], hidden.rows(part), spec) for part in parts]
