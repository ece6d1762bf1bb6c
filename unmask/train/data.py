"""Batches of the embedded model's task: step number in, tensors out, so that a killed run resumes where it was."""

import random
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from unmask.tasks import arithmetic


class Batch(NamedTuple):
    """`tokens_BT` int64: chat prompt, worked answer, EOS to the end. `answer_BT` bool: everything behind the prompt."""

    tokens_BT: Tensor
    answer_BT: Tensor


def encode(tokenizer: PreTrainedTokenizerFast, problem: arithmetic.Problem) -> tuple[list[int], list[int]]:
    """Prompt ids, up to and with the assistant's mark, and the ids of the worked answer, without EOS."""
    chat = [{"role": "user", "content": problem.question}]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    return tokenizer.encode(text), tokenizer.encode(problem.worked)


def batch(
    tokenizer: PreTrainedTokenizerFast, *, seed: int, step: int, steps: int, tokens: int, block_length: int, longest: int
) -> Batch:
    """The batch of one training step: about `tokens` tokens of problems with `steps` steps each, of the train split.

    The canvas behind the prompt is a whole number of blocks: just enough for the answer, or in one batch of four a
    drawn number up to `longest` tokens, so that the model also learns long EOS tails.
    """
    rng = random.Random(f"{seed}-{step}")
    source = arithmetic.problems("train", seed=rng.getrandbits(48), steps=(steps,))
    assert tokenizer.eos_token_id is not None
    rows: list[tuple[list[int], list[int]]] = []
    need = 0
    while not rows or len(rows) * need < tokens:
        prompt, answer = encode(tokenizer, next(source))
        rows.append((prompt, answer))
        blocks = -(-(max(len(worked) for _, worked in rows) + 1) // block_length)
        need = max(len(asked) for asked, _ in rows) + blocks * block_length
    canvas = blocks * block_length
    if rng.random() < 0.25:
        canvas = rng.randrange(canvas, longest + 1, block_length) if canvas < longest else canvas
    width = max(len(prompt) for prompt, _ in rows) + canvas
    tokens_BT = torch.full((len(rows), width), int(tokenizer.eos_token_id))
    answer_BT = torch.zeros((len(rows), width), dtype=torch.bool)
    for row, (prompt, answer) in enumerate(rows):
        tokens_BT[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        answer_BT[row, len(prompt) : len(prompt) + canvas] = True
    return Batch(tokens_BT, answer_BT)
