"""Which tokens of an answer a training step masks, and the weight of each of them. Pure: tensors in, tensors out.

Shapes: B rows, T tokens. `answer_BT` marks the tokens that may be masked: the answer and its EOS tail, never the prompt.

Every objective makes a `Hidden`, which train/loss.py turns into a number, the same way for all.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Hidden(NamedTuple):
    """The tokens that are masked, and those that the model is trained to predict.

    Attributes:
        hidden_BT: bool, replaced by the mask.
        weight_BT: float, the weight of each token's cross-entropy; 0 for tokens that are not supervised.
        total_B: float, each row's part of the divisor of the loss.
        own_B: bool, the rows whose supervised masks the network fills itself before it is trained; None: no switch for it.
        certain_B: float, the weight of each row's entropy (loss.certainty); None: no such term.
        shown_BT: ids, what visible tokens are shown as where some are shown wrongly; None: all rightly.
        distant_BT: bool, the tokens that are learnt from a teacher's distribution; None: there is no teacher.
        begin_BT: of a block-causal model, the first position whose noisy token each token sees, the same in every row;
            None: that of its block.
    """

    hidden_BT: Tensor
    weight_BT: Tensor
    total_B: Tensor
    own_B: Tensor | None = None
    certain_B: Tensor | None = None
    shown_BT: Tensor | None = None
    distant_BT: Tensor | None = None
    begin_BT: Tensor | None = None

    def rows(self, part: slice) -> "Hidden":
        """Some of the rows: for micro-batches."""
        fields: list[Any] = [None if field is None else field[part] for field in self]
        return Hidden(*fields)


# --- rates and masks --------------------------------------------------------------------------------------------------


def stratified(rows: int, generator: torch.Generator, device: torch.device | None = None) -> Tensor:
    """One masking rate per row, [B], spread evenly over (0, 1): a shared offset, then a shuffle (arXiv 2107.00630, app. I.1).

    >>> rates = stratified(4, torch.Generator().manual_seed(0))
    >>> sorted((rates * 4).long().tolist())
    [0, 1, 2, 3]
    """
    offset = torch.rand((), generator=generator)
    rates = (torch.arange(rows) + offset) / rows
    return rates[torch.randperm(rows, generator=generator)].clamp(1e-3, 1.0).to(device)


def bernoulli(answer_BT: Tensor, rate_BT: Tensor, generator: torch.Generator) -> Tensor:
    """Mask each answer token with its rate, and at least one token per row (arXiv 2502.09992, algorithm 2)."""
    draws = torch.rand(answer_BT.shape, generator=generator).to(answer_BT.device)
    hidden = answer_BT & (draws < rate_BT)
    first = torch.where(answer_BT, draws, 2.0).argmin(dim=1, keepdim=True)
    forced = torch.zeros_like(hidden).scatter_(1, first, True) & answer_BT
    return hidden | (forced & ~hidden.any(dim=1, keepdim=True))


def draw_block(answer_BT: Tensor, length: int, blocks_B: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One block of each row, drawn among its first `blocks_B`: (the block's tokens, the tokens after it), both bool [B, T]."""
    order = answer_BT.long().cumsum(dim=1) - 1
    number = order.div(length, rounding_mode="floor")
    chosen = (torch.rand(blocks_B.shape, generator=generator).to(blocks_B.device) * blocks_B).long()[:, None]
    return answer_BT & (number == chosen), answer_BT & (number > chosen)


def first_blocks(answer_BT: Tensor, length: int, blocks_B: Tensor) -> tuple[Tensor, Tensor]:
    """The first `blocks_B` blocks of each row and the tokens after them, both bool [B, T]: the whole answer at once."""
    number = (answer_BT.long().cumsum(dim=1) - 1).div(length, rounding_mode="floor")
    return answer_BT & (number < blocks_B[:, None]), answer_BT & (number >= blocks_B[:, None])


def filled_blocks(tokens_BT: Tensor, answer_BT: Tensor, length: int, eos_id: int) -> Tensor:
    """Blocks of `length` tokens up to the one that holds the first EOS of the tail, [B].

    >>> filled_blocks(torch.tensor([[5, 7, 8, 9, 1, 1, 1]]), torch.tensor([[0, 1, 1, 1, 1, 1, 1]]) > 0, 2, eos_id=1)
    tensor([2])
    """
    order_BT = answer_BT.long().cumsum(dim=1)
    written_B = torch.where(answer_BT & (tokens_BT != eos_id), order_BT, 0).amax(dim=1)
    return (written_B.div(length, rounding_mode="floor") + 1).minimum(blocks_of(answer_BT, length))


def draw_answer(answer_BT: Tensor, length: int, blocks_B: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """One answer of each row that has several: (its tokens, all tokens behind it up to the last answer's end, its blocks).

    Under full attention an earlier answer would see what follows it, which no decode does. Answers are drawn in proportion
    to their blocks of `length`, of which the last has `blocks_B`; rows of one answer are drawn nothing for.

    >>> answer = torch.tensor([[False, True, True, False, True, True]])
    >>> turn, behind, blocks = draw_answer(answer, 1, torch.tensor([1]), torch.Generator().manual_seed(1))
    >>> turn.long().tolist(), behind.long().tolist(), blocks.tolist()
    ([[0, 1, 1, 0, 0, 0]], [[0, 0, 0, 1, 1, 1]], [2])
    """
    begins_BT = answer_BT & ~torch.nn.functional.pad(answer_BT, (1, 0))[:, :-1]
    number_BT = begins_BT.long().cumsum(dim=1) * answer_BT
    count_B = number_BT.amax(dim=1)
    most = int(count_B.max())
    if most == 1:
        return answer_BT, torch.zeros_like(answer_BT), blocks_B
    sizes_BK = torch.stack([(number_BT == number).sum(dim=1) for number in range(1, most + 1)], dim=1)
    blocks_BK = (-(-sizes_BK // length)).scatter(1, count_B[:, None] - 1, blocks_B[:, None])
    drawn_B1 = torch.multinomial(blocks_BK.float(), 1, generator=generator)
    turn_BT = number_BT == drawn_B1 + 1
    begun_BT = turn_BT.long().cumsum(dim=1) > 0
    answers_left_BT = answer_BT.flip(1).cumsum(dim=1).flip(1) > 0
    return turn_BT, begun_BT & ~turn_BT & answers_left_BT, blocks_BK.gather(1, drawn_B1)[:, 0]


def blocks_of(answer_BT: Tensor, length: int) -> Tensor:
    """Number of blocks of `length` tokens that each row's answer fills, [B]."""
    return -(-answer_BT.sum(dim=1) // length)


def block(answer_BT: Tensor, length: int, rate_B: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mask a row as block-wise decoding sees it: one block in part, later ones wholly, earlier ones not at all.

    Returns (hidden, supervised), both [B, T]: everything masked, and the part of it inside the drawn block.
    """
    drawn, later = draw_block(answer_BT, length, blocks_of(answer_BT, length), generator)
    inside = bernoulli(drawn, rate_B[:, None], generator)
    return inside | later, inside


def grid(answer_BT: Tensor, length: int, whole: float, generator: torch.Generator) -> Tensor:
    """Mask every block of the grid (positions 0 to `length` - 1, and so on) at its own rate, bool [B, T].

    A share `whole` of the blocks is masked wholly, as at the start of their decode; the rates of the others are spread evenly
    over (0, 1). At least one token per row is masked.

    >>> grid(torch.ones(1, 4, dtype=torch.bool), 2, 1.0, torch.Generator().manual_seed(0))
    tensor([[True, True, True, True]])
    """
    rows, tokens = answer_BT.shape
    blocks = -(-tokens // length)
    rates = stratified(rows * blocks, generator, answer_BT.device).view(rows, blocks)
    rates = (rates / max(1 - whole, 1e-6)).clamp(max=1.0)
    return bernoulli(answer_BT, rates.repeat_interleave(length, dim=1)[:, :tokens], generator)


# --- objectives -------------------------------------------------------------------------------------------------------


def equal_rows(hidden_BT: Tensor, supervised_BT: Tensor) -> Hidden:
    """The objective of pre-training: every row has the same weight, each of its n supervised tokens 1 / n."""
    count_B1 = supervised_BT.sum(dim=1, keepdim=True)
    return Hidden(hidden_BT, supervised_BT / count_B1.clamp(min=1), (count_B1[:, 0] > 0).float())


def masked(answer_BT: Tensor, generator: torch.Generator) -> Hidden:
    """The usual objective of masked diffusion: every answer token is masked with the row's rate t and has weight 1 / t.

    arXiv 2502.09992, eq. 5, with the share of tokens that was really masked in place of t: the same in expectation, and a t
    near 0 adds no variance. The divisor counts answer tokens.

    >>> made = masked(torch.ones(1, 4, dtype=torch.bool), torch.Generator().manual_seed(0))
    >>> (made.weight_BT.sum() / made.total_B.sum()).item()
    1.0
    """
    rates = stratified(len(answer_BT), generator, answer_BT.device)
    hidden = bernoulli(answer_BT, rates[:, None], generator)
    total_B = answer_BT.sum(dim=1).float()
    weight_BT = hidden * (total_B / hidden.sum(dim=1).clamp(min=1))[:, None]
    return Hidden(hidden, weight_BT, total_B)


def views(
    asked_BT: Tensor, later_BT: Tensor, rate: float | Tensor, generator: torch.Generator, *, complementary: bool
) -> Hidden:
    """R2-dLLM's block objective (arXiv 2604.18995, eq. 5 and section 5.2): `asked_BT` is the block of s tokens, p_m = `rate`.

    Each asked token is masked with `rate` and has weight 1 / rate; later tokens are masked too, but not asked; the divisor
    counts the block's tokens. With `complementary` there are 2 B rows: a row's second view, B rows below, masks the asked
    tokens that the first one shows, with weight 1 / (1 - rate). One rate per row, [B, 1]: as `known_views` weighs them.

    For a block-causal model the whole answer is asked and no token is later: this objective for all blocks at once.

    >>> asked, later = torch.tensor([[False, False, True, True, False]]), torch.tensor([[False] * 4 + [True]])
    >>> made = views(asked, later, 0.5, torch.Generator().manual_seed(1), complementary=True)
    >>> made.hidden_BT.long()
    tensor([[0, 0, 1, 0, 1],
            [0, 0, 0, 1, 1]])
    >>> made.weight_BT
    tensor([[0., 0., 2., 0., 0.],
            [0., 0., 0., 2., 0.]])
    """
    first = asked_BT & (torch.rand(asked_BT.shape, generator=generator).to(asked_BT.device) < rate)
    if isinstance(rate, Tensor):
        return known_views(asked_BT, later_BT, first, complementary=complementary)
    second = asked_BT & ~first
    return _paired(asked_BT, later_BT, (first, first / rate), (second, second / (1 - rate)), complementary=complementary)


def known_views(asked_BT: Tensor, later_BT: Tensor, first_BT: Tensor, *, complementary: bool) -> Hidden:
    """Views whose first masks are known: of n asked tokens each of k masked ones has weight n / k.

    >>> made = known_views(torch.ones(1, 4) > 0, torch.zeros(1, 4) > 0, torch.tensor([[False, True, True, True]]),
    ...                    complementary=True)
    >>> made.weight_BT
    tensor([[0.0000, 1.3333, 1.3333, 1.3333],
            [4.0000, 0.0000, 0.0000, 0.0000]])
    """
    first, second = asked_BT & first_BT, asked_BT & ~first_BT
    weighed = ((mask, mask * _tokens_per(asked_BT, mask)) for mask in (first, second))
    return _paired(asked_BT, later_BT, *weighed, complementary=complementary)


def _tokens_per(whole_BT: Tensor, part_BT: Tensor) -> Tensor:
    """Tokens of the whole per token of a part, [B, 1]; of an empty part as if it had one."""
    return whole_BT.sum(dim=1, keepdim=True) / part_BT.sum(dim=1, keepdim=True).clamp(min=1)


def _paired(
    asked_BT: Tensor,
    later_BT: Tensor,
    first: tuple[Tensor, Tensor],
    second: tuple[Tensor, Tensor],
    *,
    complementary: bool,
) -> Hidden:
    """One or both of two views, each a mask and its weights."""
    total_B, (mask_BT, weight_BT) = asked_BT.sum(dim=1).float(), first
    if not complementary:
        return Hidden(mask_BT | later_BT, weight_BT, total_B)
    hidden_BT = torch.cat((mask_BT | later_BT, second[0] | later_BT))
    return Hidden(hidden_BT, torch.cat((weight_BT, second[1])), total_B.repeat(2))


# --- states of a trajectory -------------------------------------------------------------------------------------------


class Trajectory(NamedTuple):
    """When the tokens that are asked were written, block by block where each block has a state of its own.

    Attributes:
        asked_BT: bool.
        steps_BT: int64, the forward that wrote each of them; filler without a number counts as written last.
        state_BT: int64, which tokens share a state: 0 for one state of the whole window, else the block's number.
    """

    asked_BT: Tensor
    steps_BT: Tensor
    state_BT: Tensor

    @classmethod
    def of(cls, asked_BT: Tensor, steps_BT: Tensor, state_BT: Tensor) -> "Trajectory":
        """With the missing numbers filled in."""
        last_BT = torch.where(asked_BT, steps_BT, 0).amax(dim=1, keepdim=True)
        return cls(asked_BT, torch.where(steps_BT > 0, steps_BT, last_BT), state_BT)

    def masked(self, rate_B1: Tensor) -> Tensor:
        """The state with at most a share 1 - rate of n tokens written (d3LLM, pseudo-trajectory), as bool [B, T].

        That is the last state of the decode with at most floor((1 - rate) n) tokens; a forward's tokens stand together.

        >>> asked, steps = torch.ones(1, 5) > 0, torch.tensor([[1, 3, 2, 2, 4]])
        >>> order = Trajectory.of(asked, steps, torch.zeros_like(steps))
        >>> [order.masked(torch.tensor([[rate]])).int().tolist()[0] for rate in (0.9, 0.5, 0.4)]
        [[1, 1, 1, 1, 1], [0, 1, 1, 1, 1], [0, 1, 0, 0, 1]]
        """
        spread = int(self.steps_BT.max()) + 1
        key_BT = self.state_BT * spread + self.steps_BT
        beyond = int(key_BT.max()) + 2 * spread
        sorted_BT = torch.where(self.asked_BT, key_BT, beyond).sort(dim=1).values
        before_BT, written_BT, through_BT = (
            torch.searchsorted(sorted_BT, keys.contiguous())
            for keys in (self.state_BT * spread, key_BT + 1, (self.state_BT + 1) * spread)
        )
        allowed_BT = ((1 - rate_B1) * (through_BT - before_BT) + 1e-4).floor()  # 1e-4: 0.3 of 10 tokens are 3
        return self.asked_BT & (written_BT - before_BT > allowed_BT)

    def distant(self, masked_BT: Tensor, near: int) -> Tensor:
        """The masked tokens that the decode writes more than `near` forwards after this state (TAD, arXiv 2605.09536).

        >>> asked, steps = torch.ones(1, 5) > 0, torch.tensor([[1, 2, 3, 4, 5]])
        >>> order = Trajectory.of(asked, steps, torch.zeros_like(steps))
        >>> order.distant(torch.tensor([[False, False, True, True, True]]), near=2).int().tolist()
        [[0, 0, 0, 0, 1]]
        """
        states, shown_BT = int(self.state_BT.max()) + 1, self.asked_BT & ~masked_BT
        begun_BT = torch.where(self.asked_BT, self.steps_BT - 1, int(self.steps_BT.max()))
        empty = torch.zeros(len(masked_BT), states, dtype=torch.int64, device=masked_BT.device)
        first_BS = empty.scatter_reduce(1, self.state_BT, begun_BT, "amin", include_self=False)
        last_BS = empty.scatter_reduce(1, self.state_BT, torch.where(shown_BT, self.steps_BT, 0), "amax")
        now_BT = torch.maximum(first_BS, last_BS).gather(1, self.state_BT)
        return masked_BT & self.asked_BT & (self.steps_BT > now_BT + near)


def split(made: Hidden, order: Trajectory, first_BT: Tensor, near: int) -> Hidden:
    """TAD's objective: a row's loss is the mean over its near tokens plus the mean over its distant ones.

    Only the first views, B rows on top, are states of the trajectory; second views stay as they are.
    """
    rows, asked_BT = len(first_BT), order.asked_BT
    distant_BT = order.distant(first_BT, near)
    parts = (first_BT & asked_BT & ~distant_BT, distant_BT)
    weight_BT = sum((part * _tokens_per(asked_BT, part) for part in parts), start=torch.zeros(first_BT.shape))
    others_BT = torch.zeros_like(made.hidden_BT[rows:])
    return made._replace(weight_BT=torch.cat((weight_BT, made.weight_BT[rows:])), distant_BT=torch.cat((distant_BT, others_BT)))


# --- other noise ------------------------------------------------------------------------------------------------------


def wrong_tokens(
    tokens_BT: Tensor, answer_BT: Tensor, visible_BT: Tensor, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Show a share of the visible tokens wrongly: (ids that are shown, which of them are wrong), both [B, T].

    A wrong token is one of another place of these answers, so that its kind does not betray it (LLaDA2.1's editing, T2T).
    """
    pool = tokens_BT[answer_BT]
    if not len(pool):
        return tokens_BT, torch.zeros_like(visible_BT)
    other_BT = pool[torch.randint(len(pool), tokens_BT.shape, generator=generator)]
    drawn_BT = torch.rand(tokens_BT.shape, generator=generator) < share
    wrong_BT = visible_BT & drawn_BT & (other_BT != tokens_BT)
    return torch.where(wrong_BT, other_BT, tokens_BT), wrong_BT


class Group(NamedTuple):
    """Consecutive blocks that are decoded at once.

    Attributes:
        number_BT: int64, each token's block, counted from 0 in its group.
        group_BT: int64, the number of its group.
    """

    number_BT: Tensor
    group_BT: Tensor


def rising_rates(group: Group, generator: torch.Generator, low: float = 0.3, high: float = 0.5) -> Tensor:
    """The masking rate of each block of a group, [B, T], rising along it: MultiTF's "chain uniform".

    The first block's rate is drawn from (0, `low`), the last one's from (`high`, 1), the others lie evenly between. A group
    of one block has the last one's rate.
    """
    number_BT, group_BT = group
    ends_BG2 = torch.rand(len(number_BT), int(group_BT.max()) + 1, 2, generator=generator)
    first_BT, last_BT = low * ends_BG2[..., 0].gather(1, group_BT), high + (1 - high) * ends_BG2[..., 1].gather(1, group_BT)
    empty_BG = torch.zeros(ends_BG2.shape[:2], dtype=torch.int64)
    count_BT = empty_BG.scatter_reduce(1, group_BT, number_BT, "amax").gather(1, group_BT)
    place_BT = torch.where(count_BT > 0, number_BT / count_BT.clamp(min=1), 1.0)
    return first_BT + (last_BT - first_BT) * place_BT


def draw_group(
    answer_BT: Tensor, length: int, blocks_B: Tensor, size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Group]:
    """Up to `size` consecutive blocks, the first one drawn: (their tokens, the tokens after them, their numbers)."""
    number = (answer_BT.long().cumsum(dim=1) - 1).div(length, rounding_mode="floor")
    first_B1 = (torch.rand(blocks_B.shape, generator=generator) * blocks_B).long()[:, None]
    end_B1 = torch.minimum(first_B1 + size, blocks_B[:, None])
    asked_BT = answer_BT & (number >= first_B1) & (number < end_B1)
    group = Group(torch.where(asked_BT, number - first_B1, 0), torch.zeros_like(number))
    return asked_BT, answer_BT & (number >= end_B1), group


def groups_on_grid(answer_BT: Tensor, block: int, size: int, generator: torch.Generator) -> tuple[Group, Tensor]:
    """All blocks of a block-causal model in groups of `size`, the first one's end drawn: (numbers, `begin_BT` of Hidden).

    Every group is decoded at once after clean ones, and all groups are asked in one forward. Blocks before an answer count
    for nothing, so that its first block has the lowest rate of its group.
    """
    block_T = torch.arange(answer_BT.shape[1]) // block
    group_T = (block_T + torch.randint(size, (), generator=generator)) // size
    begin_T = torch.where(group_T[:, None] == group_T, block_T, len(block_T)).amin(dim=1)  # the first block of each group
    first_B1 = torch.where(answer_BT, block_T, len(block_T)).amin(dim=1, keepdim=True)
    number_BT = (block_T - torch.maximum(begin_T, first_B1)).clamp(min=0)
    counted_BT = torch.where(answer_BT, number_BT, 0)
    return Group(counted_BT, group_T.expand_as(answer_BT)), (begin_T * block).expand_as(answer_BT)
