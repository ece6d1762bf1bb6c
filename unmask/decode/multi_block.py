"""Several blocks at once: which blocks of a row's window are open, and evidence seen block by block. Pure.

A window is `count` blocks one behind the other. Rules know nothing of that: each block is a row to them, as if it were
decoded alone, so that quotas, streaks, clusters and edits stay within a block.

    blocks of the window   [ done ][ half done ][ begun ][ masked ]
    open                      yes       yes        yes       no      the next opens when the share of the one before suffices
    must go on                yes       yes        no        no      at least one commit per forward, sure or not

d3LLM decodes so (multi-block decoding), and MultiBD of block-causal models. With `add` 1 a block opens when the one before
is complete: the commits are those of one block at a time, and drafts may run into the next blocks (FreeDave's eager window).

Shapes: B rows, W window positions, N blocks of a window, L block length (W = N L), E ids that end an answer.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from unmask.decode.memory import Memory
from unmask.decode.proposal import Proposal
from unmask.decode.settings import Kind, Part, number_field, whole_field


@dataclass(frozen=True, kw_only=True)
class MultiBlock(Part):
    """Decode up to `count` blocks of an answer at once.

    Attributes:
        count: most blocks that are open.
        add: share of a block's positions that must be written before the next block opens; 1: all of them.
        active: share of a block's positions that must be written before the next one takes at least one position per
            forward, sure or not. 1: only the first unfinished block must, as d3LLM has it.

    >>> MultiBlock(count=3, add=0.25).least(16, 0.25)
    4
    """

    where: ClassVar[str] = "blocks"
    per_row: ClassVar[Mapping[str, Kind]] = {"add": "real", "active": "real"}
    count: int = whole_field(1, default=2, search="it changes the price of a forward")
    add: float = number_field(0.0, 1.0, default=0.5, search=(0.0, 1.0))
    active: float = number_field(0.0, 1.0, default=1.0, search=(0.5, 1.0))

    def least(self, length: int, share: float | Tensor) -> int | Tensor:
        """Positions of a block of that length that make up the share."""
        most = share * length - 1e-9  # 0.1 of 30 is 3, though 0.1 * 30 is more
        return most.ceil().long() if isinstance(most, Tensor) else math.ceil(most)


ONE = MultiBlock(count=1)


class Openings(NamedTuple):
    """Which blocks may commit, and which must; bool [B, N]."""

    open_BN: Tensor
    forced_BN: Tensor


def openings(proposal: Proposal, blocks: MultiBlock, ends_E: Tensor | None) -> Openings:
    """The open blocks of each row's window, by its tokens.

    Behind a block that holds one of `ends_E`, which ends the answer, none opens; None: nothing ends it.

    >>> token = torch.tensor([[5, 5, 5, 9, 9, 9], [5, 9, 9, 9, 9, 9]])
    >>> zero = torch.zeros_like(token)
    >>> made = Proposal(zero, zero, zero, token == 9, token == 9, zero > 0, zero[:, :3], zero[:, 0], token, zero > 0)
    >>> openings(made, MultiBlock(count=3, add=0.5), None).open_BN.long().tolist()
    [[1, 1, 1], [1, 1, 0]]
    >>> openings(made, MultiBlock(count=3, add=0.5), None).forced_BN.long().tolist()
    [[1, 1, 0], [1, 0, 0]]
    """
    added_BN, active_BN = _written(proposal.masked_BL, blocks)
    if ends_E is not None:
        ends_BW = (proposal.token_BL[..., None] == ends_E).any(dim=-1) & proposal.editable
        added_BN = added_BN & ~ends_BW.view(len(ends_BW), blocks.count, -1).any(dim=2)
    open_BN = _behind(added_BN)
    return Openings(open_BN, open_BN & _behind(active_BN))


def later(masked_BW: Tensor, blocks: MultiBlock) -> Tensor:
    """How many blocks lie between each position and the open ones, int64 [B, W]; 0 within those."""
    added_BN, _ = _written(masked_BW, blocks)
    late_BN = (~_behind(added_BN)).cumsum(dim=1)
    return late_BN.repeat_interleave(masked_BW.shape[1] // blocks.count, dim=1)


def _written(masked_BW: Tensor, blocks: MultiBlock) -> tuple[Tensor, Tensor]:
    """Blocks [B, N] of which enough is written for the next one to open, and for it to have to go on."""
    masked_BNL = masked_BW.reshape(len(masked_BW), blocks.count, -1)
    length = masked_BNL.shape[2]
    written_BN = length - masked_BNL.sum(dim=2)
    return written_BN >= blocks.least(length, blocks.add), written_BN >= blocks.least(length, blocks.active)


def _behind(passed_BN: Tensor) -> Tensor:
    """The blocks [B, N] that all before them have let pass; the first one always."""
    first_B1 = torch.ones_like(passed_BN[:, :1])
    return torch.cat((first_B1, passed_BN[:, :-1]), dim=1).long().cumprod(dim=1) > 0


def split(part_BW: Tensor, count: int) -> Tensor:
    """Every block a row, [B N, L, ...]."""
    return part_BW if count == 1 else part_BW.reshape(count * len(part_BW), -1, *part_BW.shape[2:])


def by_block(proposal: Proposal, blocks: MultiBlock, opened: Openings) -> Proposal:
    """The evidence of windows as that of their blocks, of which only the open ones have open positions."""
    count = blocks.count
    rows, length = proposal.open_BL.shape[0], proposal.open_BL.shape[1] // count
    parts = {
        name: split(part, count)
        for name, part in proposal._asdict().items()
        if part is not None and name not in ("step_B", "suffix_B", "forced_B")
    }
    behind_N = length * torch.arange(count - 1, -1, -1, device=proposal.suffix_B.device)
    made = proposal._replace(
        **parts,
        step_B=proposal.step_B.reshape(rows * count),
        suffix_B=(proposal.suffix_B[:, None] + behind_N).flatten(),
        forced_B=opened.forced_BN.flatten(),
    )
    return made._replace(open_BL=made.open_BL & opened.open_BN.flatten()[:, None])


def join(part_RL: Tensor, count: int) -> Tensor:
    """Windows of rows that are blocks, [B, W]."""
    return part_RL.reshape(len(part_RL) // count, -1)


def each(memory: Memory, change: Callable[[Tensor, int], Tensor], count: int) -> Memory:
    """A rule's state, `split` or `join`ed."""
    return None if memory is None else type(memory)(*(change(part, count) for part in memory))
