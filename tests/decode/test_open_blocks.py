"""Which blocks of a window are open, and that rules see each block as they would alone."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.decode.advance import advance, drafts
from unmask.decode.multi_block import MultiBlock, by_block, join, openings, split
from unmask.decode.proposal import Proposal
from unmask.decode.rules import Factor, QuotaOrThreshold, Threshold

MASK, EOS, COUNT, LENGTH = 9, 1, 3, 4


def evidence(token: list[list[int]], confidence: torch.Tensor) -> Proposal:
    token_BW = torch.tensor(token)
    masked_BW = token_BW == MASK
    rows = len(token)
    return Proposal(
        candidate_BL=torch.full_like(token_BW, 5),
        confidence_BL=confidence,
        score_BL=confidence,
        masked_BL=masked_BW,
        open_BL=masked_BW,
        filler_BL=torch.zeros_like(masked_BW),
        step_B=torch.zeros(rows, COUNT, dtype=torch.int64),
        suffix_B=torch.zeros(rows, dtype=torch.int64),
        token_BL=token_BW,
        fixed_BL=torch.zeros_like(masked_BW),
    )


windows = st.lists(st.sampled_from([2, MASK, MASK, EOS]), min_size=COUNT * LENGTH, max_size=COUNT * LENGTH)


@settings(max_examples=60, deadline=None)
@given(st.lists(windows, min_size=1, max_size=4), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.integers(0, 99))
def test_a_step_commits_in_open_blocks_alone_and_goes_on_in_the_first_that_is_not_finished(
    tokens: list[list[int]], add: float, seed: int
) -> None:
    blocks = MultiBlock(count=COUNT, add=add)
    shown = evidence(tokens, torch.rand(len(tokens), COUNT * LENGTH, generator=torch.Generator().manual_seed(seed)))
    opened = openings(shown, blocks, None)
    for rule in (Threshold(threshold=0.8), Factor(factor=0.5), QuotaOrThreshold(threshold=0.8, steps=4)):
        made = advance((rule,), shown, shown.token_BL[:, None], (None,), mask_id=MASK, blocks=blocks)
        taken_BNL = (made.taken_BL > 0).unflatten(1, (COUNT, LENGTH))
        assert not (taken_BNL.any(dim=2) & ~opened.open_BN).any()
        assert (made.taken_BL > 0)[~shown.masked_BL].sum() == 0
        left_BN = split(shown.masked_BL, COUNT).any(dim=1).view(-1, COUNT)
        for row in range(len(tokens)):
            unfinished = [number for number in range(COUNT) if left_BN[row, number]]
            if unfinished:
                assert opened.forced_BN[row, unfinished[0]]
                assert taken_BNL[row, unfinished[0]].any()
            for number in unfinished[1:]:  # behind it only what is sure
                sure = shown.confidence_BL[row].view(COUNT, LENGTH)[number]
                if isinstance(rule, Threshold):
                    assert (sure[taken_BNL[row, number]] >= 0.8).all()


def test_nothing_opens_behind_an_end() -> None:
    token = [2, EOS, MASK, MASK, 2, 2, MASK, MASK, MASK, MASK, MASK, MASK]
    shown, blocks = evidence([token], torch.zeros(1, 12)), MultiBlock(count=COUNT, add=0.5)
    assert openings(shown, blocks, None).open_BN.tolist() == [[True, True, True]]
    assert openings(shown, blocks, torch.tensor([EOS])).open_BN.tolist() == [[True, False, False]]


def test_a_blocks_evidence_is_its_own() -> None:
    shown = evidence([[2, MASK, MASK, MASK, *[MASK] * 8]], torch.arange(12.0)[None])
    shown = shown._replace(step_B=torch.tensor([[3, 0, 0]]), suffix_B=torch.tensor([5]))
    blocks = MultiBlock(count=COUNT, add=0.25)
    made = by_block(shown, blocks, openings(shown, blocks, None))
    assert made.open_BL.sum(dim=1).tolist() == [3, 4, 0]
    assert made.step_B.tolist() == [3, 0, 0]
    assert made.suffix_B.tolist() == [5 + 8, 5 + 4, 5]
    assert made.forced_B is not None
    assert made.forced_B.tolist() == [True, False, False]
    assert torch.equal(join(made.confidence_BL, COUNT), shown.confidence_BL)


def test_guesses_fill_open_blocks_first_and_then_one_after_the_other() -> None:
    token, score = torch.full((1, 6), MASK), torch.tensor([[0.1, 0.2, 0.9, 0.8, 0.95, 0.99]])
    guessed = drafts(token, torch.full_like(token, 5), score, 6, MASK, MultiBlock(count=3, add=1.0))
    order = [int((after != before).nonzero()[0]) for before, after in zip(guessed[0], guessed[0, 1:], strict=False)]
    assert order == [1, 0, 2, 3, 5]
    half = torch.tensor([[2, MASK, MASK, MASK, MASK, MASK]])
    guessed = drafts(half, torch.full_like(token, 5), score, 5, MASK, MultiBlock(count=3, add=0.5))
    order = [int((after != before).nonzero()[0]) for before, after in zip(guessed[0], guessed[0, 1:], strict=False)]
    assert order == [2, 3, 1, 5]
