"""Log-likelihoods of given answers under a masked diffusion model, and whether they are its own, from token ids.

The estimate is that of `unmask.score` (engine/score.py).

Shapes: B rows per forward, R answer tokens of the longest answer.
"""

from collections.abc import Sequence

import torch

from unmask.engine.score import Pair as Pair
from unmask.engine.score import check_pairs, padded, predict, score_pairs
from unmask.engine.score import masks as masks
from unmask.kernels.vocabulary import evidence
from unmask.models.denoiser import Denoiser


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
    return [found.sum for found in score_pairs(model, pairs, samples=draws, seed=seed, batch_size=batch_size)]


@torch.inference_mode()
def greedy(model: Denoiser, pairs: Sequence[Pair], *, batch_size: int = 1) -> list[bool]:
    """Whether each answer is the model's greedy one: the token of highest confidence first, one per forward.

    That is `vanilla` with the whole answer as one block. A row stops at its first different token, mostly after one forward.
    Raises RequestError like `log_likelihoods`.
    """
    check_pairs(model, pairs)
    mask_id = model.spec.mask_id
    same = [True] * len(pairs)
    for begin in range(0, len(pairs), batch_size):
        states = {
            number: [*pairs[number][0], *[mask_id] * len(pairs[number][1])]
            for number in range(begin, min(begin + batch_size, len(pairs)))
        }
        while states := {number: tokens for number, tokens in states.items() if same[number] and mask_id in tokens}:
            starts = [len(pairs[number][0]) for number in states]
            candidate_BR, confidence_BR, *_ = evidence(predict(model, list(states.values()), starts), mask_id)
            answers = [tokens[start:] for tokens, start in zip(states.values(), starts, strict=True)]
            open_BR = padded([[token == mask_id for token in answer] for answer in answers], model.device).bool()
            place_B = confidence_BR.where(open_BR, -1.0).argmax(dim=1)
            chosen = candidate_BR.gather(1, place_B[:, None])[:, 0].tolist()
            for number, place, token in zip(states, place_B.tolist(), chosen, strict=True):
                prompt, answer = pairs[number]
                same[number] = token == answer[place]
                states[number][len(prompt) + place] = token
    return same
