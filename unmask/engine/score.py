"""How probable a model finds given answers, token by token, without decoding anything.

    log p(answer | prompt)  ~  E [ L / l * sum over the masked i of log p(token i | prompt, answer with l tokens masked) ]

with l uniform in 1..L and each set of l positions equally likely (LLaDA, arXiv 2502.09992, eq. 6): a bound of the model's
likelihood, which its authors compare with the scores of autoregressive models. Or exactly in one order: each token given the
ones before it, everything behind it masked.

Shapes: N masks of an answer, L its tokens, B rows per forward, R answer tokens of the longest answer, M answer tokens of
all rows together, V vocabulary.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from unmask.context.plan import assemble, entire
from unmask.decode.settings import one_of, whole
from unmask.engine.check import check
from unmask.engine.prompt import encode
from unmask.errors import ConfigError
from unmask.models.denoiser import Denoiser

Pair = tuple[Sequence[int], Sequence[int]]  # prompt and answer
Order = Literal["left-to-right"]


@dataclass(frozen=True, kw_only=True)
class Score:
    """Log-probabilities of one answer, in nats.

    Attributes:
        logprobs: one per token of the answer; with samples each is an estimate of its own.
        sum: of all of them, which estimates log p(answer | prompt).
        standard_error: of the sum; 0 where it is exact.
    """

    logprobs: list[float]
    sum: float
    standard_error: float


def score(
    model: Denoiser,
    prompts: Sequence[str | Sequence[int]],
    answers: Sequence[str | Sequence[int]],
    *,
    samples: int = 128,
    seed: int = 0,
    order: Order | None = None,
    batch_size: int = 32,
) -> list[Score]:
    """How probable each answer is behind its prompt, as one batch; an answer's score does not depend on the others.

    Args:
        model: from `unmask.load`.
        prompts: as `generate` takes them: strings go through the chat template where the tokenizer has one.
        answers: one per prompt, strings or token ids; an end of text is scored only where it is given.
        samples: masks per answer; an answer of at most log2(samples + 1) tokens is computed exactly.
        seed: equal seeds draw equal masks for answers of equal length.
        order: None draws masks (LLaDA's estimate). "left-to-right" takes each token given those before it, everything behind
            it masked: exact for that order, one row per token, and a block-causal model's own chain over its blocks.
        batch_size: rows per forward.

    Raises ConfigError for bad options, RequestError for an answer that is too long or holds the mask id, or an empty prompt.

    >>> from unmask.models.toy import toy
    >>> (made,) = score(toy(), [[1, 2, 3]], [[4, 5]])
    >>> len(made.logprobs), made.sum == sum(made.logprobs), made.standard_error
    (2, True, 0.0)
    """
    whole("samples", samples, 1, required=True)
    whole("seed", seed, 0, required=True)
    whole("batch_size", batch_size, 1, required=True)
    one_of("order", order, (None, "left-to-right"))
    if isinstance(prompts, str) or isinstance(answers, str) or len(prompts) != len(answers):
        raise ConfigError("score takes a list of prompts and a list of as many answers")
    pairs = [(encode(model, prompt), _answer(model, answer)) for prompt, answer in zip(prompts, answers, strict=True)]
    return score_pairs(model, pairs, samples=samples, seed=seed, order=order, batch_size=batch_size)


def _answer(model: Denoiser, answer: str | Sequence[int]) -> Sequence[int]:
    if not isinstance(answer, str):
        return tuple(answer)
    tokenizer: Any = model.tokenizer
    if tokenizer is None:
        raise ConfigError(f"{model.name} has no tokenizer: give answers as lists of token ids")
    return tuple(tokenizer.encode(answer, add_special_tokens=False, verbose=False))


@torch.inference_mode()
def score_pairs(
    model: Denoiser,
    pairs: Sequence[Pair],
    *,
    samples: int,
    seed: int = 0,
    order: Order | None = None,
    batch_size: int = 1,
) -> list[Score]:
    """`score` of prompts and answers in token ids."""
    check_pairs(model, pairs)
    logprobs = [[0.0] * len(answer) for _, answer in pairs]
    draws: list[list[float]] = [[] for _ in pairs]  # each sample's own estimate of the sum, where there are samples
    rows = _rows(pairs, samples, seed) if order is None else _prefixes(pairs)
    while chunk := list(itertools.islice(rows, batch_size)):
        found_BR = _logprobs(model, [(*pairs[row.number], row.hidden) for row in chunk])
        for row, found in zip(chunk, found_BR.tolist(), strict=True):
            mine = logprobs[row.number]
            read = [(place, row.weight * found[place]) for place, told in enumerate(row.read) if told]
            for place, value in read:
                mine[place] += value
            if row.drawn:
                draws[row.number].append(row.drawn * sum(value for _, value in read))
    return [
        Score(logprobs=mine, sum=sum(mine), standard_error=_standard_error(sample))
        for mine, sample in zip(logprobs, draws, strict=True)
    ]


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One masked answer: which tokens are hidden, of which of them the probability is taken, and with which weight.

    `drawn` is how many samples of the answer there are; 0 where its masks are all there are.
    """

    number: int
    hidden: list[bool]
    read: list[bool]
    weight: float
    drawn: int = 0


def _rows(pairs: Sequence[Pair], samples: int, seed: int) -> Iterator[_Row]:
    """Every pair with each of its masks."""
    for number, (_, answer) in enumerate(pairs):
        hidden_NL, weight_N = masks(len(answer), samples, seed)
        drawn = 0 if 2 ** len(answer) - 1 <= samples else samples
        for hidden, weight in zip(hidden_NL.tolist(), weight_N.tolist(), strict=True):
            yield _Row(number=number, hidden=hidden, read=hidden, weight=weight, drawn=drawn)


def _prefixes(pairs: Sequence[Pair]) -> Iterator[_Row]:
    """Every pair with each beginning of its answer."""
    for number, (_, answer) in enumerate(pairs):
        for place in range(len(answer)):
            hidden = [later >= place for later in range(len(answer))]
            yield _Row(number=number, hidden=hidden, read=[later == place for later in range(len(answer))], weight=1.0)


def _logprobs(model: Denoiser, rows: Sequence[tuple[Sequence[int], Sequence[int], list[bool]]]) -> Tensor:
    """The logarithm of each answer token's probability [B, R], where `hidden` tokens are masked; 0 where one is not."""
    mask_id = model.spec.mask_id
    tokens = [
        [*prompt, *(mask_id if hidden else token for token, hidden in zip(answer, hidden_L, strict=True))]
        for prompt, answer, hidden_L in rows
    ]
    logits_BRV = predict(model, tokens, [len(prompt) for prompt, _, _ in rows])
    target_BR = padded([answer for _, answer, _ in rows], model.device)
    hidden_BR = padded([hidden_L for _, _, hidden_L in rows], model.device).bool()
    found_BR = logits_BRV.gather(-1, target_BR[..., None])[..., 0] - logits_BRV.logsumexp(dim=-1)
    return found_BR.where(hidden_BR, 0.0)


def _standard_error(draws: Sequence[float]) -> float:
    """Of their mean. Counts are spread evenly (`masks`), so that the truth is rather less."""
    if len(draws) < 2:
        return 0.0 if not draws else math.inf
    mean = sum(draws) / len(draws)
    return math.sqrt(sum((draw - mean) ** 2 for draw in draws) / (len(draws) - 1) / len(draws))


def check_pairs(model: Denoiser, pairs: Sequence[Pair]) -> None:
    """Raises RequestError for a pair that is too long for the model, holds its mask id, or has no prompt."""
    for prompt, answer in pairs:
        check(prompt, len(answer), model.spec)
        check((*prompt, *answer), 0, model.spec)


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


def predict(model: Denoiser, tokens: Sequence[Sequence[int]], starts: Sequence[int]) -> Tensor:
    """Logits [B, R, V], float32 or better, of every row's tokens from its start on; zeros after those of a short row."""
    queries = [entire(row, start, len(row), block=model.spec.block) for row, start in zip(tokens, starts, strict=True)]
    logits_MV = model.forward(*assemble(queries, device=model.device), None)
    logits_MV = logits_MV.to(torch.promote_types(logits_MV.dtype, torch.float32))
    return pad_sequence(list(torch.split(logits_MV, [query.length for query in queries])), batch_first=True)


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Rows of different lengths as one int64 tensor, short ones padded with zeros."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], dtype=torch.int64, device=device)
