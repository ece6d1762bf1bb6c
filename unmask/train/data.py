"""Problems to tensors."""

import random
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from unmask.tasks import sums
from unmask.tasks.problem import Problem


class Batch(NamedTuple):
    """`tokens_BT` int64; `answer_BT` bool: the tokens that may be hidden."""

    tokens_BT: Tensor
    answer_BT: Tensor


def encode(tokenizer: PreTrainedTokenizerFast, problem: Problem) -> tuple[list[int], list[int]]:
    """Prompt ids, up to and with the assistant's mark, and the ids of the worked answer, without EOS."""
    chat = [{"role": "user", "content": problem.question}]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    return tokenizer.encode(text), tokenizer.encode(problem.worked)


def batch(
    tokenizer: PreTrainedTokenizerFast,
    source: Iterator[Problem],
    rng: random.Random,
    *,
    tokens: int,
    block_length: int,
    longest: int,
) -> Batch:
    """About `tokens` tokens of the source's problems, a row each: chat prompt, worked answer, EOS to the end.

    Everything behind the prompt may be hidden.
    The canvas behind the prompt is a whole number of blocks: just enough for the answer, or in one batch of four a
    drawn number up to `longest` tokens, so that the model also learns long EOS tails.
    """
    assert tokenizer.eos_token_id is not None
    rows: list[tuple[list[int], list[int]]] = []
    need = canvas = 0
    while not rows or len(rows) * need < tokens:
        rows.append(encode(tokenizer, next(source)))
        canvas = -(-(max(len(worked) for _, worked in rows) + 1) // block_length) * block_length
        need = max(len(asked) for asked, _ in rows) + canvas
    if rng.random() < 0.25 and canvas < longest:
        canvas = rng.randrange(canvas, longest + 1, block_length)
    width = max(len(prompt) for prompt, _ in rows) + canvas
    tokens_BT = torch.full((len(rows), width), int(tokenizer.eos_token_id))
    answer_BT = torch.zeros((len(rows), width), dtype=torch.bool)
    for row, (prompt, answer) in enumerate(rows):
        tokens_BT[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        answer_BT[row, len(prompt) : len(prompt) + canvas] = True
    return Batch(tokens_BT, answer_BT)


def drill(tokenizer: PreTrainedTokenizerFast, rng: random.Random, *, tokens: int, count: int) -> Batch:
    """About `tokens` tokens of sheets of `count` sums, a row each; only the results may be hidden."""
    rows: list[list[int]] = []
    while not rows or len(rows) * len(rows[0]) < tokens:
        rows.append(tokenizer.encode(sums.sheet(rng, count)))
    tokens_BT = torch.tensor(rows)
    equals = tokens_BT == tokenizer.convert_tokens_to_ids("▁=")
    # Every result has two digits, and they come right after the sign.
    return Batch(tokens_BT, equals.roll(1, dims=1) | equals.roll(2, dims=1))
