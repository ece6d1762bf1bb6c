"""Drawing a token from logits: temperature, top-k, top-p, and noise that is a hash and no generator.

Shapes: B rows, L window positions, V vocabulary.
"""

import torch
from torch import Tensor

from unmask.kernels import accelerated


def draw(
    logits_BLV: Tensor,
    excluded: tuple[int, ...],
    *,
    temperature_B1: Tensor | None = None,
    seed_B1: Tensor | None = None,
    positions_BL: Tensor | None = None,
    top_p_B1: Tensor | None = None,
    top_k_B1: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The token of each position, int64 [B, L], and its probability in the softmax over all of the logits.

    Gumbel-max: argmax of logits / temperature + noise over the tokens that top-k and then top-p keep. Rows of temperature 0,
    or all without a temperature, take the most probable token, the lowest id among equals. The noise of a position stays the
    same from forward to forward (common random numbers), so that a prediction changes only when the logits do.

    Args:
        logits_BLV: in any type; the numbers are fp32 or better.
        excluded: ids that are never drawn, and that take no other token's place in the filters.
        temperature_B1, seed_B1: of each row.
        positions_BL: offsets from the start of the answer, on which the noise depends.
        top_p_B1, top_k_B1: None where no row asks for it.

    >>> token, sure = draw(torch.tensor([[[0.0, 1.0, 2.0, 9.0]]]), (3,))
    >>> token.item(), round(sure.item(), 6)
    (2, 0.000911)
    """
    if accelerated(logits_BLV):
        from unmask.kernels.gpu import sampling as gpu

        return gpu.draw(
            logits_BLV,
            excluded,
            temperature_B1=temperature_B1,
            seed_B1=seed_B1,
            positions_BL=positions_BL,
            top_p_B1=top_p_B1,
            top_k_B1=top_k_B1,
        )
    logits_BLV = logits_BLV.to(torch.promote_types(logits_BLV.dtype, torch.float32))
    if temperature_B1 is None:
        candidate_BL = _without(logits_BLV, excluded).argmax(dim=-1)
    else:
        assert seed_B1 is not None, "noise is a function of the seed"
        assert positions_BL is not None, "and of the position"
        noisy_BLV = tempered(logits_BLV, excluded, temperature_B1, top_p_B1, top_k_B1)
        noisy_BLV += gumbel(seed_B1, positions_BL, logits_BLV.shape[-1])
        chosen_BLV = torch.where(temperature_B1[..., None] > 0, noisy_BLV, _without(logits_BLV, excluded))
        candidate_BL = chosen_BLV.argmax(dim=-1)
    return candidate_BL, logits_BLV.softmax(dim=-1).gather(-1, candidate_BL[..., None])[..., 0]


def tempered(
    logits_BLV: Tensor, excluded: tuple[int, ...], temperature_B1: Tensor, top_p_B1: Tensor | None, top_k_B1: Tensor | None
) -> Tensor:
    """Logits / temperature of the tokens that top-k and top-p keep; all others, and those excluded, at -inf.

    Rows of temperature 0 are divided by 1.
    """
    hot_B1 = temperature_B1 > 0
    # Excluded before the filters: they must not take the place of a token that may be drawn.
    kept = _without(logits_BLV / torch.where(hot_B1, temperature_B1, 1.0)[..., None], excluded)
    if top_k_B1 is not None:
        kept = _keep_top_k(kept, top_k_B1)
    if top_p_B1 is not None:
        kept = _keep_top_p(kept, top_p_B1)
    return kept


def _without(logits_BLV: Tensor, excluded: tuple[int, ...]) -> Tensor:
    offered_BLV = logits_BLV.clone()
    for token in excluded:  # one by one: a list of ids would be copied to the device, which no captured graph may do
        offered_BLV[..., token] = -torch.inf
    return offered_BLV


def _keep_top_k(logits_BLV: Tensor, top_k_B1: Tensor) -> Tensor:
    ordered = logits_BLV.sort(dim=-1, descending=True).values
    last = (top_k_B1.clamp(1, logits_BLV.shape[-1]) - 1)[..., None].expand(-1, logits_BLV.shape[1], 1)
    return logits_BLV.masked_fill(logits_BLV < ordered.gather(-1, last), -torch.inf)


def _keep_top_p(logits_BLV: Tensor, top_p_B1: Tensor) -> Tensor:
    ordered, order = logits_BLV.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.softmax(dim=-1)
    # A token goes when those before it already hold top_p of the mass; the first one always stays.
    # With a top_p of 1 none does, however the sum is rounded.
    gone = (probabilities.cumsum(dim=-1) - probabilities >= top_p_B1[..., None]) & (top_p_B1[..., None] < 1)
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
