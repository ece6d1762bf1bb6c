"""What an answer must be, as the decoder sees it: evidence is narrowed before the rules read it. Pure.

Rules take any subset of what they are offered. So a constraint must offer candidates of which any subset can be completed.

Shapes: B rows that decide together, K states of a row's window that the forward has tried (1 unless drafting), R = B K, row by
row; L window length, V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor

from unmask.decode.proposal import Proposal, Score
from unmask.decode.sampling import Sampling


class Constraint(Protocol):
    """A frozen value that says what may follow an answer's finished blocks. Rows of one type of it decide together."""

    @property
    def alike(self) -> int:
        """Equal where rows are best decided side by side, because something large is computed for all of them at once."""
        ...

    def after(self, tokens: Sequence[int]) -> Self:
        """The constraint behind these tokens of the answer, which are final: called on the host, once per block."""
        ...

    def possible(self, tokens: Sequence[int]) -> bool:
        """Whether an answer can be made of these positions, masked or fixed; called on the host, before the first forward."""
        ...

    @classmethod
    def together(cls, rows: Sequence["Placed"]) -> "Held":
        """What these rows are held to, each by its own constraint of this type."""
        ...


class Held(Protocol):
    """The constraints of rows at their windows. A row's result does not depend on the others."""

    def narrow(self, logits_RLV: Tensor, proposal: Proposal, sampling: Sampling | None, score: Score) -> Proposal:
        """The evidence of a forward with other candidates and confidences; a state's own tokens stay.

        `sampling` is how the rows draw, and `score` what `score_BL` holds. It must not write to what it is given.
        """
        ...

    def forced(self, token_RL: Tensor) -> Tensor:
        """The windows' tokens with those positions filled in that can become one token alone; the others stay."""
        ...


class Placed(NamedTuple):
    """A row's constraint at its window.

    Attributes:
        constraint: behind the blocks before the window.
        length: the window's positions.
        prompt: the first of them, which belong to the prompt.
        behind: the row's tokens behind the window: masks, or text that is fixed from the start.
    """

    constraint: Constraint
    length: int
    prompt: int
    behind: tuple[int, ...]

    @classmethod
    def at(cls, constraint: Constraint, tokens: Sequence[int], start: int, end: int, prompt: int) -> "Placed":
        """In a row of tokens, prompt included, whose window runs from `start` to `end`."""
        return cls(constraint, end - start, max(0, prompt - start), tuple(tokens[end:]))

    def fill(self, block: list[int], *, mask_id: int, first: bool) -> list[int]:
        """The window with what is forced before any forward; on the host.

        An answer takes at least one: where all of it is forced, its `first` window stays as it is.
        """
        filled: list[int] = held([self]).forced(torch.tensor([block]))[0].tolist()
        if first and mask_id not in filled:
            canvas = [*block, *self.behind]
            whole = held([self._replace(length=len(canvas), behind=())])
            if mask_id not in whole.forced(torch.tensor([canvas]))[0]:
                return block
        return filled


def held(rows: Sequence[Placed]) -> Held:
    """What rows with constraints of one type are held to."""
    return type(rows[0].constraint).together(rows)
