"""Log-likelihoods of given answers under a masked diffusion model, from token ids.

    log p(answer | prompt)  ~  E [ L / l * sum over the masked i of log p(token i | prompt, answer with l tokens masked) ]

with l uniform in 1..L and each set of l positions equally likely (LLaDA, arXiv 2502.09992, eq. 6). A bound of the model's
likelihood, which its authors compare with the scores of autoregressive models.

Shapes: N masks of an answer, L its tokens, B rows per forward, R answer tokens of the longest answer, M answer tokens of
all rows together, V vocabulary.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from unmask.context.plan import assemble, entire
from unmask.engine.check import check
from unmask.kernels.vocabulary import evidence
from unmask.models.denoiser import Denoiser

Pair = tuple[Sequence[int], Sequence[int]]  # prompt and answer


def masks(length: int, draws: int, seed: int) -> tuple[Tensor, Tensor]:
    """Masks of an answer, [N, L] bool, and the weight of each one's sum of log-probabilities, [N] float64.

    An answer that has no more than `draws` masks gets all of them, and the expectation is exact. Otherwise N is `draws`, and
    the counts l are spread evenly over 1..L from a random start (systematic sampling): each one is uniform by itself, and
    together they vary less than independent ones.

    >>> hidden_NL, weight_N = masks(2, draws=8, seed=0)
    >>> hidden_NL.tolist(), weight_N.tolist()
    ([[True, False], [False, True], [True, True]], [0.5, 0.5, 0.5])
    """
    if 2**length - 1 <= draws:
        hidden_NL = (torch.arange(1, 2**length)[:, None] >> torch.arange(length)) & 1 == 1
        # L / l, times the chance 1 / L of this l, times that of this set among all of its size.
        weights = [1 / (count * math.comb(length, count)) for count in hidden_NL.sum(dim=1).tolist()]
        return hidden_NL, torch.tensor(weights, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand(1, generator=generator, dtype=torch.float64)
    spread_N = (start + torch.arange(draws, dtype=torch.float64) / draws) % 1
    count_N = (1 + (length * spread_N).long()).clamp(max=length)
    rank_NL = torch.rand(draws, length, generator=generator, dtype=torch.float64).argsort(dim=1).argsort(dim=1)
    return rank_NL < count_N[:, None], length / (count_N * draws)


@torch.inference_mode()
def log_likelihoods(
    model: Denoiser, pairs: Sequence[Pair], *, draws: int = 128, seed: int = 0, batch_size: int = 1
) -> list[float]:
    """Estimate log p(answer | prompt) of each pair, in nats; 0 for an answer of no tokens.

    Args:
        pairs: prompts and answers as token ids, any mix of lengths.
        draws: masks per answer; an answer of at most log2(draws + 1) tokens is computed exactly.
        seed: equal seeds draw equal masks for answers of equal length, whatever the batch.
        batch_size: rows per forward.

    Raises RequestError for a pair that is too long for the model, holds its mask id, or has no prompt.
    """
    _check(model, pairs)
    totals = [0.0] * len(pairs)
    rows = _masked(pairs, draws, seed)
    while chunk := list(itertools.islice(rows, batch_size)):
        starts = [len(pairs[number][0]) for number, _, _ in chunk]
        tokens = [
            [*prompt, *(model.spec.mask_id if hidden else token for token, hidden in zip(answer, hidden_L, strict=True))]
            for (prompt, answer), hidden_L in ((pairs[number], hidden_L) for number, hidden_L, _ in chunk)
        ]
        logits_BRV = _predict(model, tokens, starts)
        target_BR = _padded([pairs[number][1] for number, _, _ in chunk], model.device)
        hidden_BR = _padded([hidden_L for _, hidden_L, _ in chunk], model.device).bool()
        found_BR = logits_BRV.gather(-1, target_BR[..., None])[..., 0] - logits_BRV.logsumexp(dim=-1)
        sums = found_BR.where(hidden_BR, 0.0).sum(dim=1).tolist()
        for (number, _, weight), found in zip(chunk, sums, strict=True):
            totals[number] += weight * found
    return totals


@torch.inference_mode()
def greedy(model: Denoiser, pairs: Sequence[Pair], *, batch_size: int = 1) -> list[bool]:
    """Whether each answer is the model's greedy one: the token of highest confidence first, one per forward.

    That is `vanilla` with the whole answer as one block. A row stops at its first different token, mostly after one forward.
    Raises RequestError like `log_likelihoods`.
    """
    _check(model, pairs)
    mask_id = model.spec.mask_id
    same = [True] * len(pairs)
    for begin in range(0, len(pairs), batch_size):
        states = {
            number: [*pairs[number][0], *[mask_id] * len(pairs[number][1])]
            for number in range(begin, min(begin + batch_size, len(pairs)))
        }
        while states := {number: tokens for number, tokens in states.items() if same[number] and mask_id in tokens}:
            starts = [len(pairs[number][0]) for number in states]
            candidate_BR, confidence_BR, *_ = evidence(_predict(model, list(states.values()), starts), mask_id)
            answers = [tokens[start:] for tokens, start in zip(states.values(), starts, strict=True)]
            open_BR = _padded([[token == mask_id for token in answer] for answer in answers], model.device).bool()
            place_B = confidence_BR.where(open_BR, -1.0).argmax(dim=1)
            chosen = candidate_BR.gather(1, place_B[:, None])[:, 0].tolist()
            for number, place, token in zip(states, place_B.tolist(), chosen, strict=True):
                prompt, answer = pairs[number]
                same[number] = token == answer[place]
                states[number][len(prompt) + place] = token
    return same


def _check(model: Denoiser, pairs: Sequence[Pair]) -> None:
    for prompt, answer in pairs:
        check(prompt, len(answer), model.spec)
        check((*prompt, *answer), 0, model.spec)


def _masked(pairs: Sequence[Pair], draws: int, seed: int) -> Iterator[tuple[int, list[bool], float]]:
    """The index of every pair with each of its masks and that mask's weight."""
    for number, (_, answer) in enumerate(pairs):
        hidden_NL, weight_N = masks(len(answer), draws, seed)
        yield from ((number, hidden, weight) for hidden, weight in zip(hidden_NL.tolist(), weight_N.tolist(), strict=True))


def _predict(model: Denoiser, tokens: Sequence[Sequence[int]], starts: Sequence[int]) -> Tensor:
    """Logits [B, R, V], float32 or better, of every row's tokens from its start on; zeros after those of a short row."""
    queries = [entire(row, start, len(row), block=model.spec.block) for row, start in zip(tokens, starts, strict=True)]
    logits_MV = model.forward(*assemble(queries, device=model.device), None)
    logits_MV = logits_MV.to(torch.promote_types(logits_MV.dtype, torch.float32))
    return pad_sequence(list(torch.split(logits_MV, [query.length for query in queries])), batch_first=True)


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Rows of different lengths as one int64 tensor, short ones padded with zeros."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], dtype=torch.int64, device=device)
