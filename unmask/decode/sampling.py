"""Drawing a token from logits: temperature, top-k, top-p, and noise that is a hash and no generator. Pure.

Shapes: B rows, L window positions, V vocabulary.
"""

from typing import NamedTuple

import torch
from torch import Tensor


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


def sample(logits_BLV: Tensor, sampling: Sampling, mask_id: int) -> Tensor:
    """Gumbel-max: argmax of logits / temperature + noise, over the tokens that top-k and top-p keep. Shape [B, L].

    Rows of temperature 0 take the most probable token. The noise of a position stays the same from forward to forward
    (common random numbers), so that a prediction changes only when the logits do.
    """
    noise_BLV = gumbel(sampling.seed_B1, sampling.positions_BL, logits_BLV.shape[-1])
    noisy = tempered(logits_BLV, sampling, mask_id) + noise_BLV
    chosen = torch.where(sampling.temperature_B1[..., None] > 0, noisy, logits_BLV)
    chosen[..., mask_id] = -torch.inf
    return chosen.argmax(dim=-1)


def tempered(logits_BLV: Tensor, sampling: Sampling, mask_id: int) -> Tensor:
    """Logits / temperature of the tokens that top-k and top-p keep; all others, and the mask, at -inf.

    Rows of temperature 0 are divided by 1.
    """
    hot = sampling.temperature_B1[..., None] > 0
    kept = logits_BLV / torch.where(hot, sampling.temperature_B1[..., None], 1.0)
    kept[..., mask_id] = -torch.inf  # before the filters: it must not take the place of a real token
    if sampling.top_k_B1 is not None:
        kept = _keep_top_k(kept, sampling.top_k_B1)
    if sampling.top_p_B1 is not None:
        kept = _keep_top_p(kept, sampling.top_p_B1)
    return kept


def _keep_top_k(logits_BLV: Tensor, top_k_B1: Tensor) -> Tensor:
    ordered = logits_BLV.sort(dim=-1, descending=True).values
    last = (top_k_B1.clamp(1, logits_BLV.shape[-1]) - 1)[..., None].expand(-1, logits_BLV.shape[1], 1)
    return logits_BLV.masked_fill(logits_BLV < ordered.gather(-1, last), -torch.inf)


def _keep_top_p(logits_BLV: Tensor, top_p_B1: Tensor) -> Tensor:
    ordered, order = logits_BLV.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(dim=-1)
    # A token goes when those before it already hold top_p of the mass; the first one always stays.
    gone = probabilities.cumsum(dim=-1) - probabilities >= top_p_B1[..., None]
    gone[..., 0] = False
    return logits_BLV.masked_fill(torch.zeros_like(gone).scatter(-1, order, gone), -torch.inf)


_WORD = 0xFFFFFFFF


def _mix(word: Tensor) -> Tensor:
    """MurmurHash3's 32-bit finaliser on int64 tensors that hold unsigned words."""
    word = ((word ^ (word >> 16)) * 0x85EBCA6B) & _WORD
    word = ((word ^ (word >> 13)) * 0xC2B2AE35) & _WORD
    return word ^ (word >> 16)


def gumbel(seed_B1: Tensor, positions_BL: Tensor, vocabulary: int) -> Tensor:
    """Standard Gumbel noise [B, L, V] as a hash of (seed, position, token): no generator, the same on every device."""
    tokens = torch.arange(vocabulary, device=positions_BL.device)
    row_BL = _mix((_mix(seed_B1 & _WORD) + positions_BL * 0x9E3779B1) & _WORD)
    words = _mix((row_BL[..., None] + tokens * 0x85EBCA77) & _WORD)
    uniform = ((words >> 9).to(torch.float32) + 0.5) / 2**23  # exact in fp32, never 0 and never 1
    return -(-uniform.log()).log()
