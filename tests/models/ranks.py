"""Run by the tests of tensor parallelism, once per process: writes the results that they compare to a file.

python -m tests.models.ranks FOLDER RANK DEATH
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

import unmask
from tests.models.test_parallel import REQUESTS, THROUGH_TRANSFORMERS, TOKENS, answers, models, without_seconds
from unmask.engine.engine import Engine, Limits
from unmask.models.follow import Leader, follow, lead


def main(folder: Path, rank: int, death: str) -> None:
    """Both processes run the same program; then the first leads, twice, and at last it dies."""
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    seen: dict[str, Any] = {}
    for path in models(folder):
        model = unmask.load(path, device="cpu", tensor_parallel=True)
        pool = model.pool(3)
        seen[path.name] = {
            "logits": model.network(TOKENS),
            "weights": {name: weight.nbytes for name, weight in model.network.named_parameters()},
            "page": model.page_bytes,
            "pool": sum(memory.nbytes for memory in (*pool.keys, *pool.values)),
            "answers": answers(model) if model.spec.block is None else None,
        }
        try:
            model.network.state_dict()
        except unmask.ModelError as error:
            seen[path.name]["saved"] = str(error)
        if path.name in THROUGH_TRANSFORMERS:
            seen[path.name] |= through_transformers(path)
    try:
        unmask.load(folder / "uneven", device="cpu", tensor_parallel=True)
    except unmask.ConfigError as error:
        seen["refused"] = str(error)
    if rank == 0:
        with lead(model) as leading:
            engine = Engine(leading, Limits(memory=60 * model.page_bytes, rows=5))
            seen["engine"] = without_seconds(engine.generate(REQUESTS))
            seen["led"] = answers(leading)
    else:
        follow(model)
    torch.save(seen, folder / f"rank-{rank}")
    if rank == 0:
        with lead(model) as leading:
            answers(leading)
            if death == "halfway":
                fail(leading)
            os.kill(os.getpid(), signal.SIGKILL)
    follow(model)


def through_transformers(path: Path) -> dict[str, Any]:
    """The logits of transformers' own tensor parallelism with our plan, and which weights it has sliced."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(path, tp_plan="auto", tp_size=2)
    sliced = {name for name, weight in model.named_parameters() if isinstance(weight, DTensor)}
    return {"transformers": model(TOKENS).logits, "sliced": sliced}


def fail(model: Leader) -> None:
    """A forward that fails in the leader alone; the next one raises OutOfStep."""

    def failing(*inputs: object) -> None:
        raise MemoryError

    model.network.final_norm().forward = failing
    for kind in (MemoryError, RuntimeError):
        try:
            answers(model)
        except kind as error:
            print(repr(error))
    sys.exit(1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.inference_mode():
        main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
