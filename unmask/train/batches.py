"""The masks of a training step's rows and the micro-batches of each process: functions of the step number."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from unmask.decode.settings import whole
from unmask.decode.spec import ModelSpec
from unmask.errors import ConfigError, unknown
from unmask.train.loss import Question, ask
from unmask.train.objective import Objective, Rows
from unmask.train.trainer import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class BatchConfig(TrainingConfig, Objective):
    """The settings of a training on examples: the objective, and how many examples a step takes.

    Attributes:
        batch_size: examples per step, over all devices.
        micro_batch: rows that a device computes at once.
        draw: an epoch takes all "answers" once, or as many in proportion to their "blocks": where one block of each is asked,
            the tokens of short answers otherwise count for more, and the model's own answers become shorter.
    """

    batch_size: int = 64
    micro_batch: int = 8
    epochs: int = 6
    draw: Literal["answers", "blocks"] = "answers"
    free: ClassVar[tuple[str, ...]] = (*TrainingConfig.free, "micro_batch")  # changes what is computed at once, no result

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        Objective.__post_init__(self)
        for name in ("batch_size", "micro_batch", "epochs"):
            whole(name, getattr(self, name), 1, required=True)
        if self.draw not in ("answers", "blocks"):
            raise unknown("draw", str(self.draw), ("answers", "blocks"))

    def steps(self, count: int) -> int:
        """Steps for this many examples: whole batches, at least one."""
        return max(1, self.epochs * count // self.batch_size)


def questions(
    rows: Rows, config: BatchConfig, spec: ModelSpec, step: int, process: int, processes: int, progress: float = 0.0
) -> list[Question]:
    """One process's micro-batches of a step with these rows. Masks are drawn for all of them, so no split changes them.

    `progress` is the part of the run that is done, 0 to 1.
    """
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    hidden = config.hide(rows, spec, generator, progress)
    tokens_BT = rows.tokens_BT.repeat(len(hidden.hidden_BT) // len(rows.tokens_BT), 1)
    mine = range(process * len(tokens_BT) // processes, (process + 1) * len(tokens_BT) // processes)
    if not mine:
        raise ConfigError(f"{len(tokens_BT)} rows per step cannot be divided among {processes} processes: raise batch_size")
    parts = [slice(first, min(first + config.micro_batch, mine.stop)) for first in mine[:: config.micro_batch]]
    return [ask(tokens_BT[part], hidden.rows(part), spec) for part in parts]
