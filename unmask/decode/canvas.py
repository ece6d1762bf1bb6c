"""The tokens of one row while they are being decoded."""

from collections.abc import Sequence


class Canvas:
    """A prompt, then the answer, masked at first. `commit` is the only place that writes a token.

    It lives on the host: the host reads every step's blocks anyway, to know which rows are over and what to hand out, and
    rows that come and go then share no tensor.

    >>> canvas = Canvas([5, 6], 4, mask_id=9)
    >>> canvas.commit(2, [7, 9])
    >>> canvas.tokens, canvas.written
    ([5, 6, 7, 9, 9, 9], [7])
    """

    def __init__(self, prompt: Sequence[int], answer: int, *, mask_id: int) -> None:
        """`answer` is the number of masks behind the prompt."""
        self.tokens = [*prompt, *[mask_id] * answer]
        self.prompt = len(prompt)
        self.mask_id = mask_id

    @property
    def written(self) -> list[int]:
        """The answer up to its first mask: what can no longer change."""
        answer = self.tokens[self.prompt :]
        return answer[: answer.index(self.mask_id)] if self.mask_id in answer else answer

    def commit(self, start: int, block: Sequence[int]) -> None:
        """Write the block that begins at `start`."""
        self.tokens[start : start + len(block)] = block
