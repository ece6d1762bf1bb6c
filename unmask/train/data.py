"""Problems to tensors."""

import random
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from unmask.tasks.problem import Problem


class Batch(NamedTuple):
    """`tokens_BT` int64: chat prompt, worked answer, EOS to the end. `answer_BT` bool: everything behind the prompt."""

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
    """About `tokens` tokens of the source's problems, one a row.

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
