"""The tokens of one request while they are decoded."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from unmask.decode.holes import Gap, kinds, unneeded


class Canvas:
    """A prompt and behind it the answer, masked except where it is fixed. `commit` is the only place that writes a token.

    It lives on the host: the host reads every step's blocks anyway, to know which requests are over and what to send, and
    requests that come and go share no tensor.

    >>> canvas = Canvas([5, 6], 4, mask_id=9, fixed={1: 3})
    >>> canvas.commit(2, [7, 3, 9])
    >>> canvas.tokens, canvas.written
    ([5, 6, 7, 3, 9, 9], [7, 3])
    """

    def __init__(
        self,
        prompt: Sequence[int],
        answer: int,
        *,
        mask_id: int,
        fixed: Mapping[int, int] = MappingProxyType({}),
        gaps: Sequence[Gap] = (),
    ) -> None:
        """`answer` is the number of positions behind the prompt; `fixed` maps some of them, counted from 0, to their tokens.

        `gaps` are the holes between these, where there are any.
        """
        self.tokens = [*prompt, *(fixed.get(offset, mask_id) for offset in range(answer))]
        self.prompt = len(prompt)
        self.mask_id = mask_id
        self.fixed = frozenset(self.prompt + offset for offset in fixed)
        self.gaps = gaps
        self.kinds = kinds(self.prompt, len(self.tokens), fixed, gaps)  # what may be written at each position

    @property
    def written(self) -> list[int]:
        """The answer up to its first mask."""
        answer = self.tokens[self.prompt :]
        return answer[: answer.index(self.mask_id)] if self.mask_id in answer else answer

    def commit(self, start: int, block: Sequence[int]) -> None:
        """Write the block that begins at `start`; prompt and fixed positions must keep their tokens."""
        if start < self.prompt or self.fixed:
            for place, token in enumerate(block, start):
                given = place < self.prompt or place in self.fixed
                assert not given or token == self.tokens[place], f"position {place} is fixed"
        self.tokens[start : start + len(block)] = block

    def close(self, ends: Sequence[int]) -> list[int]:
        """Fill what is masked behind the end of a hole, the first of `ends` being the filler; returns the positions."""
        places = [self.prompt + offset for offset in unneeded(self.tokens[self.prompt :], self.gaps, ends, self.mask_id)]
        for place in places:
            self.commit(place, [ends[0]])
        return places
