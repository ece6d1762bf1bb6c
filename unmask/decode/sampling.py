"""How rows draw tokens from logits: their temperatures, filters and seeds. Pure; the drawing is `unmask.kernels.sampling`.

Shapes: B rows, L window positions, V vocabulary.
"""

from typing import NamedTuple

from torch import Tensor

from unmask.kernels import sampling as kernel
from unmask.kernels.sampling import gumbel as gumbel


class Sampling(NamedTuple):
    """Per-row sampling numbers. Shapes [B, 1] each; `top_p` or `top_k` is None where no row asks for it.

    `positions_BL` are offsets from the start of the answer: a row's noise is a function of (seed, position, token) and
    of nothing else, so a sample depends neither on the batch nor on how many forwards a method takes.
    """

    temperature_B1: Tensor
    seed_B1: Tensor
    positions_BL: Tensor
    top_p_B1: Tensor | None
    top_k_B1: Tensor | None

    def repeat(self, times: int) -> "Sampling":
        """Every row this many times in a row."""
        rows = [part.repeat_interleave(times, dim=0) for part in self[:3]]
        narrowed = [None if part is None else part.repeat_interleave(times, dim=0) for part in self[3:]]
        return Sampling(*rows, *narrowed)

    def rows(self, some: slice) -> "Sampling":
        """Those of these rows."""
        return Sampling(*(part if part is None else part[some] for part in self))  # type: ignore[arg-type]


def draw(logits_BLV: Tensor, sampling: Sampling | None, excluded: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """A token of each position and its probability in the untempered softmax over all logits, [B, L] each.

    None of the excluded is drawn; without sampling, and in rows of temperature 0, it is the most probable of the others.
    """
    if sampling is None:
        return kernel.draw(logits_BLV, excluded)
    return kernel.draw(
        logits_BLV,
        excluded,
        temperature_B1=sampling.temperature_B1,
        seed_B1=sampling.seed_B1,
        positions_BL=sampling.positions_BL,
        top_p_B1=sampling.top_p_B1,
        top_k_B1=sampling.top_k_B1,
    )


def sample(logits_BLV: Tensor, sampling: Sampling, mask_id: int) -> Tensor:
    """The token of each position alone, [B, L]."""
    return draw(logits_BLV, sampling, (mask_id,))[0]


def tempered(logits_BLV: Tensor, sampling: Sampling, mask_id: int) -> Tensor:
    """Logits / temperature of the tokens that top-k and top-p keep; all others, and the mask, at -inf.

    Rows of temperature 0 are divided by 1.
    """
    return kernel.tempered(logits_BLV, (mask_id,), sampling.temperature_B1, sampling.top_p_B1, sampling.top_k_B1)
