"""What a request's tokens come to: their text, where it ends, and what is told of each of them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from unmask.decode.rule import Rule
from unmask.engine.request import Alternative, Request, StepOutput, TokenStep
from unmask.engine.text import Answer, read, settled


@dataclass(frozen=True)
class Reader:
    """Reads answers to one request; `ends` are the ids that end text."""

    request: Request
    tokenizer: Any
    ends: tuple[int, ...]

    def read(self, answer: Sequence[int]) -> Answer:
        """Any answer to the request, cut where it ends."""
        request, answer = self.request, answer[: self.request.length]
        if request.layout is not None:
            return request.layout.read(request.prompt, answer, self.tokenizer, self.ends, request.stop)
        return read(answer, self.tokenizer, self.ends, request.stop, request.fixed)

    def settled(self, answer: Sequence[int]) -> str:
        """Of an answer that grows, the text that can no longer change."""
        request, answer = self.request, answer[: self.request.length]
        if request.layout is not None:
            return request.layout.read(request.prompt, answer, self.tokenizer, self.ends, request.stop, settled=True).text
        return settled(answer, self.tokenizer, self.ends, request.stop, request.fixed)

    def whole(self, final: Sequence[int], answer: Answer, kept: int, filler: int) -> list[int]:
        """The ids of an answer that is over: what is kept of it, and filler; of a canvas all around its holes."""
        length, layout = self.request.length, self.request.layout
        if layout is None:
            return [*final[:kept], *[filler] * (length - kept)]
        return layout.filled(
            [*final, *(self.request.fixed.get(place, filler) for place in range(len(final), length))], answer.used, filler
        )

    def counted(self, answer: Answer) -> Iterable[int]:
        """The places in the answer of the tokens that it counts."""
        return range(answer.tokens) if self.request.layout is None else self.request.layout.places(answer.used)


@dataclass(kw_only=True, eq=False)
class Notes:
    """Of each position the forward that wrote it last, 1 + the rule's index, how sure that was, and what else it might be."""

    steps: dict[int, tuple[int, int, float]] = field(default_factory=dict)
    alternatives: dict[int, list[Alternative]] = field(default_factory=dict)

    def add(self, start: int, forward: int, made: StepOutput) -> None:
        """Take in a forward's decision on the window that begins at `start`."""
        for offset, rule in enumerate(made.taken):
            if rule:
                self.steps[start + offset] = forward, rule, made.confidence[offset]
                if made.alternatives:
                    self.alternatives[start + offset] = made.alternatives[offset]

    def fill(self, positions: Iterable[int], forward: int, rule: int) -> None:
        """Take in what a constraint has filled in behind a forward, for which no probability was asked."""
        self.steps |= dict.fromkeys(positions, (forward, rule, math.nan))

    def told(self, position: int, rules: Sequence[Rule]) -> TokenStep:
        """How the token there came to be."""
        forward, rule, confidence = self.steps[position]
        return TokenStep(forward, rules[rule - 1].name, None if math.isnan(confidence) else confidence)
