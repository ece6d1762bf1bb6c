"""Run by the test of several processes: plain SGD on the toy, which shows a wrong scale of the gradient.

torchrun --nproc_per_node 2 tests/train/gradients.py FOLDER STEPS
"""

import sys
from collections.abc import Sequence

import torch
from safetensors.torch import save_file

from unmask.models.toy import toy
from unmask.train import noise
from unmask.train.loss import Question, ask
from unmask.train.trainer import TrainingConfig, fit, start

ROWS, MICRO = 5, 2  # over two processes: one micro-batch and two


def questions(step: int, process: int, processes: int) -> Sequence[Question]:
    """Five rows per step, divided unevenly."""
    generator = torch.Generator().manual_seed(step)
    tokens_BT = torch.randint(0, 20, (ROWS, 12), generator=generator)
    hidden = noise.masked(torch.ones(ROWS, 12, dtype=torch.bool), generator)
    mine = range(process * ROWS // processes, (process + 1) * ROWS // processes)
    parts = [slice(first, min(first + MICRO, mine.stop)) for first in mine[::MICRO]]
    return [ask(tokens_BT[part], hidden.rows(part), toy().spec) for part in parts]


def main(folder: str, steps: int) -> None:
    """Train the toy and write its weights."""
    config = TrainingConfig(
        output=folder, learning_rate=0.2, schedule="constant", warmup=0, clip=1e9, precision="fp32", checkpoint_every=2
    )
    accelerator = start(config)
    network = toy().network.requires_grad_(True)
    tuner = torch.optim.SGD(network.parameters(), lr=0.2)
    weights = fit(accelerator, network, [tuner], questions, config, 5, stop_after(steps))
    if accelerator.is_main_process:
        save_file(weights, f"{folder}/weights.safetensors")


def stop_after(steps: int):
    """A report that ends every process after a step, as a kill would."""

    def report(step: int, measured: dict[str, float]) -> None:
        if step + 1 == steps:
            sys.exit(3)

    return report


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], int(sys.argv[2]))
