"""How much key/value memory a GPU has room for: what one forward of full size leaves of it, measured."""

import contextlib

import torch

from unmask.context.plan import assemble, entire
from unmask.models.denoiser import Denoiser

SHARE = 0.9  # of what is left: the rest is for graphs, and for what other processes take
BLOCK = 32  # tokens that a row of the measured forward predicts


def room(model: Denoiser, tokens: int) -> int:
    """Bytes that keys and values may take on the model's GPU beside a forward of that many query tokens.

    Where even that forward finds no memory, half of what is free: the engine will cut its forwards down.
    """
    torch.cuda.reset_peak_memory_stats(model.device)
    before = torch.cuda.memory_allocated(model.device)
    peak = None
    with contextlib.suppress(torch.OutOfMemoryError):
        _full_forward(model, tokens)
        peak = torch.cuda.max_memory_allocated(model.device) - before
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(model.device)
    return left(free, peak)


def left(free: int, peak: int | None) -> int:
    """Of so many free bytes, where a forward takes that many at its peak; None: more than there are.

    >>> left(1000, 200), left(1000, None)
    (720, 500)
    """
    return free // 2 if peak is None else max(0, int(SHARE * (free - peak)))


@torch.inference_mode()
def _full_forward(model: Denoiser, tokens: int) -> None:
    """One forward of rows that fill it and remember nothing, logits of a block of each included."""
    length = min(tokens, model.spec.max_length)
    row = [0] * length
    queries = [entire(row, max(0, length - BLOCK), length, block=model.spec.block) for _ in range(max(1, tokens // length))]
    model.forward(*assemble(queries, device=model.device), None)
