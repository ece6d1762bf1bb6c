"""What an answer must be, as the decoder sees it: evidence is narrowed before the rules read it."""

from collections.abc import Sequence
from typing import Protocol, Self

from torch import Tensor

from unmask.decode.proposal import Proposal


class Constraint(Protocol):
    """A frozen value that says what may follow an answer's finished blocks.

    Rules take any subset of what they are offered, so `narrow` must offer candidates of which any subset can be
    completed. Shapes: K states of the block that the forward has tried, L block length, V vocabulary.
    """

    def narrow(self, logits_KLV: Tensor, proposal: Proposal, *, prompt: int, behind: Sequence[int]) -> Proposal:
        """The evidence of one row's forward with other candidates and confidences; a state's own tokens stay.

        The first `prompt` positions of the block belong to the prompt. `behind` are the row's tokens behind the block:
        masks, or text that is fixed from the start. It must not write to what it is given.
        """
        ...

    def after(self, tokens: Sequence[int]) -> Self:
        """The constraint behind these tokens of the answer, which are final: called on the host, once per block."""
        ...
