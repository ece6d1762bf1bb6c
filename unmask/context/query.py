"""What one row asks of a forward, as numbers on the host."""

from collections.abc import Sequence
from typing import NamedTuple

from unmask.context.policy import RowPlan


class Query(NamedTuple):
    """What one row asks of a forward.

    Attributes:
        plan: the positions that exist for it, and which of them are queried.
        tokens: the ids at the queried positions.
        start, length: where its block stands; the block's tokens are predicted.
        states: how many states of the block to try (1 unless drafting). Each is a query of its own that sees its own copy
            of the queried positions and nothing of the others'.
        pages: the row's key/value memory; empty where nothing is remembered.
        copies: the slot of the row behind which the copies of the queried positions live.
        follows: whether the query before it is of the same row and ends where this one begins, so that its last token is
            the one before this one's first.

    A query of `length` 0 is of finished blocks, of which only keys and values are wanted. One of no tokens asks for the
    token behind the query that it follows, of which all its `length` predictions are made.
    """

    plan: RowPlan
    tokens: Sequence[int]
    start: int
    length: int
    states: int = 1
    pages: tuple[int, ...] = ()
    copies: int = 0
    follows: bool = False

    @property
    def alone(self) -> bool:
        """Whether its tokens attend to each other and to nothing else."""
        # Blocks that are remembered attend to their pages: there a kernel passes over the later ones.
        return self.plan.fresh and not (self.pages and self.masked)

    @property
    def masked(self) -> bool:
        """Whether it holds tokens that others of it do not see."""
        return self.plan.block is not None and self.plan.tokens > self.plan.block


def entire(tokens: Sequence[int], start: int, end: int, *, block: int | None = None) -> Query:
    """A forward over a whole row that remembers nothing and predicts the tokens from `start` to `end`.

    `block` is the model's attention pattern (`ModelSpec.block`).
    """
    return Query(RowPlan(list(range(len(tokens))), slice(0, len(tokens)), block), tokens, start, end - start)
