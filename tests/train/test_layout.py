"""A noisy row beside its clean copy, in one forward, gives the logits of decoding block by block."""

import warnings

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.models.toy import MASK, toy
from unmask.train.layout import noisy_and_clean
from unmask.train.loss import ask
from unmask.train.noise import equal_rows, grid

# Of blocks of four.
TOY = toy("sdar", dtype=torch.float64)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([1, 2, 4, 8]), st.integers(1, 30), st.integers(0, 20), st.integers(0, 2**31))
def test_logits_are_those_of_a_clean_prefix_and_a_noisy_block(block: int, length: int, prompt: int, seed: int) -> None:
    """Whatever the block length, the prompt and what is hidden; and the forward may begin with any block."""
    generator = torch.Generator().manual_seed(seed)
    with warnings.catch_warnings(action="ignore"):
        network = TOY.with_block(block).network
    clean_BT = torch.randint(4, 20, (2, prompt + length), generator=generator)
    answer_BT = torch.zeros_like(clean_BT, dtype=torch.bool)
    answer_BT[:, prompt:] = True
    noisy_BT = clean_BT.masked_fill(grid(answer_BT, block, 0.5, generator), MASK)
    for first in (0, prompt // block * block):
        layout = noisy_and_clean(noisy_BT, clean_BT, block, first)
        with torch.inference_mode():
            states = network.hidden(layout.tokens_BQ, positions_Q=layout.positions_Q, mask_QQ=layout.mask_QQ)
            for begin in range(first, prompt + length, block):
                seen = torch.cat((clean_BT[:, :begin], noisy_BT[:, begin : begin + block]), dim=1)
                made = states[:, begin - first : min(begin + block, prompt + length) - first]
                torch.testing.assert_close(network.project(made), network(seen)[:, begin:], atol=1e-5, rtol=0)


def test_a_question_asks_for_the_hidden_tokens_in_the_noisy_copy() -> None:
    tokens_BT = torch.arange(4, 16)[None].repeat(2, 1)
    answer_BT = torch.zeros_like(tokens_BT, dtype=torch.bool)
    answer_BT[:, 6:] = True
    hidden = grid(answer_BT, 4, 0.5, torch.Generator().manual_seed(0))
    question = ask(tokens_BT, equal_rows(hidden, hidden), TOY.spec)
    assert question.positions_Q is not None
    assert (question.input_BQ[question.row_N, question.place_N] == MASK).all()
    assert torch.equal(question.positions_Q[question.place_N] + 4, question.target_N)
    assert len(question.target_N) == int(hidden.sum())
