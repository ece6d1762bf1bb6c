"""Run by the test of sharded training: SGD on the toy, then every config of a folder, cut off in its sixth step, continued.

ACCELERATE_USE_FSDP=true FSDP_VERSION=2 torchrun --nproc_per_node 2 tests/train/sharded.py FOLDER
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from tests.train import gradients
from unmask.train import sft, trainer


class Cut(Exception):
    """Simulates a power cut, on all processes at once."""


def main(folder: Path) -> None:
    """Train, and see that the network is sharded layer by layer."""
    gradients.main(str(folder / "together"), 99)
    for path in sorted(folder.glob("*.json")):
        config = sft.SFTConfig.from_dict(json.loads(path.read_text()))
        for last in (4, None):
            sft.fit = watched(last)
            try:
                sft.sft(config)
            except Cut:
                continue
            assert last is None


def watched(last: int | None) -> Any:
    """`fit` that dies after step `last`."""

    def fit(accelerator: Any, network: Any, optimizers: Any, questions: Any, *others: Any) -> Any:
        def asked(step: int, process: int, processes: int) -> Any:
            assert processes == 2
            assert all(isinstance(block, FSDPModule) for block in network.blocks())
            assert all(isinstance(parameter, DTensor) for parameter in network.parameters())
            if last is not None and step > last:
                raise Cut
            return questions(step, process, processes)

        return trainer.fit(accelerator, network, optimizers, asked, *others)

    return fit


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
