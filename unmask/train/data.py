"""Problems as tensors: batches of token ids."""

import itertools
import random
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from unmask.tasks import sums
from unmask.tasks.problem import Problem


class Batch(NamedTuple):
    """`tokens_BT` int64; `answer_BT` bool: the tokens that may be masked."""

    tokens_BT: Tensor
    answer_BT: Tensor


def encode(tokenizer: PreTrainedTokenizerFast, problem: Problem) -> tuple[list[int], list[int]]:
    """Prompt ids, with the assistant's mark at the end, and the ids of the worked answer, without EOS."""
    chat = [{"role": "user", "content": problem.question}]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    return tokenizer.encode(text), tokenizer.encode(problem.worked)


def similar(source: Iterator[Problem], rng: random.Random, *, pool: int, reach: float = 1.0) -> list[Problem]:
    """`pool` problems, the nearest in length to a drawn one first: batches of them need little padding.

    That one is drawn from the shortest ones, a share `reach` of them.
    """
    drawn = sorted(itertools.islice(source, pool), key=_characters)
    pivot = _characters(drawn[int(rng.random() * reach * pool)])
    return sorted(drawn, key=lambda problem: abs(_characters(problem) - pivot))


def _characters(problem: Problem) -> int:
    return len(problem.question) + len(problem.worked)


def batch(
    tokenizer: PreTrainedTokenizerFast,
    source: Iterable[Problem],
    rng: random.Random,
    *,
    tokens: int,
    block_length: int,
    longest: int,
    on_grid: bool = False,
) -> Batch:
    """About `tokens` tokens of the source's problems, one per row: chat prompt, worked answer, EOS to the end.

    The canvas after the prompt is a whole number of blocks: just enough for the row's answer, or in one batch of four a
    random number of blocks more, up to `longest` tokens, so that the model also learns long EOS tails. All of it may be masked.

    With `on_grid` blocks are counted from position 0, as a block-causal model counts them: the prompt's last tokens share
    the answer's first block, and the canvas ends with the block that holds the first EOS, after which no such model
    decodes.
    """
    assert tokenizer.eos_token_id is not None
    rows: list[tuple[list[int], list[int]]] = []
    longer = rng.randrange(1, max(2, longest // block_length)) if not on_grid and rng.random() < 0.25 else 0
    width = 0
    for problem in source:
        prompt, answer = encode(tokenizer, problem)
        begun = len(prompt) % block_length if on_grid else 0
        blocks = -(-(begun + len(answer) + 1) // block_length)
        canvas = max(blocks, min(blocks + longer, longest // block_length)) * block_length - begun
        width = max(width, len(prompt) + canvas)
        if rows and (len(rows) + 1) * width > tokens:
            break
        rows.append((prompt, answer + [int(tokenizer.eos_token_id)] * (canvas - len(answer))))
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    tokens_BT = torch.full((len(rows), width), int(tokenizer.eos_token_id))
    answer_BT = torch.zeros((len(rows), width), dtype=torch.bool)
    for row, (prompt, answer) in enumerate(rows):
        tokens_BT[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        answer_BT[row, len(prompt) : len(prompt) + len(answer)] = True
    return Batch(tokens_BT, answer_BT)


def drill(tokenizer: PreTrainedTokenizerFast, rng: random.Random, *, tokens: int, count: int) -> Batch:
    """About `tokens` tokens of sheets of `count` sums, one per row; only the results may be masked."""
    rows: list[list[int]] = []
    while not rows or len(rows) * len(rows[0]) < tokens:
        rows.append(tokenizer.encode(sums.sheet(rng, count)))
    tokens_BT = torch.tensor(rows)
    equals = tokens_BT == tokenizer.convert_tokens_to_ids("▁=")
    # Every result has two digits, right after the sign.
    return Batch(tokens_BT, equals.roll(1, dims=1) | equals.roll(2, dims=1))
