"""A grammar at one place of one answer: the constraint that the decoder asks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from unmask.decode.automaton import Automaton
from unmask.decode.constraint import Chain, forced, restrict
from unmask.decode.proposal import Proposal, Score
from unmask.decode.sampling import Sampling


@dataclass(frozen=True, kw_only=True, eq=False)
class Grammar:
    """What may follow an answer's finished blocks; see `unmask.decode.constraint.Constraint`.

    Attributes:
        automaton: of the whole answer.
        limit: tokens that the answer has; behind them there are only ends.
        state: that the finished blocks have led to.
        written: tokens in those.
    """

    automaton: Automaton
    limit: int
    state: int = 0
    written: int = 0

    @property
    def least(self) -> int:
        """Tokens that the rest of the answer takes at least."""
        return self.automaton.least(self.state)

    def narrow(
        self,
        logits_KLV: Tensor,
        proposal: Proposal,
        sampling: Sampling | None,
        score: Score,
        *,
        prompt: int,
        behind: Sequence[int],
    ) -> Proposal:
        chain = self._chain(logits_KLV.shape[1] - prompt, behind, logits_KLV.device)
        if prompt == 0:
            return restrict(chain, logits_KLV, proposal, sampling=sampling, score=score)
        shown = Proposal(*(part[:, prompt:] if part is not None and part.dim() > 1 else part for part in proposal))
        if sampling is not None:
            sampling = sampling._replace(positions_BL=sampling.positions_BL[:, prompt:])
        made = restrict(chain, logits_KLV[:, prompt:], shown, sampling=sampling, score=score)
        joined = (
            new if old is None or new is None or old.dim() < 2 else torch.cat((old[:, :prompt], new), dim=1)
            for old, new in zip(proposal, made, strict=True)
        )
        return Proposal(*joined)

    def forced(self, token_KL: Tensor, *, prompt: int, behind: Sequence[int]) -> Tensor:
        """The window's tokens in some states of it, with what can become one token alone filled in."""
        chain = self._chain(token_KL.shape[1] - prompt, behind, token_KL.device)
        return torch.cat((token_KL[:, :prompt], forced(chain, token_KL[:, prompt:])), dim=1)

    def after(self, tokens: Sequence[int]) -> Self:
        state = self.automaton.walk(tokens, self.state)
        assert state >= 0, "the answer has left its grammar"
        return replace(self, state=state, written=self.written + len(tokens))

    def possible(self, tokens: Sequence[int]) -> bool:
        return bool(self._right(tuple(tokens[: self.limit - self.written]))[self.state])

    def _chain(self, length: int, behind: Sequence[int], device: torch.device) -> Chain:
        """The window of that many positions of the answer."""
        rest = max(0, self.limit - self.written)
        right_S = self._right(tuple(behind[: max(0, rest - length)]))
        automaton = self.automaton.on(device)
        return Chain(automaton, self.state, right_S.to(device), min(rest, length))

    def _right(self, behind: tuple[int, ...]) -> Tensor:
        """The states from which these positions, masked or fixed, can be filled so that the answer may end there."""
        automaton = self.automaton
        last = max((place for place, token in enumerate(behind, start=1) if token != automaton.mask_id), default=0)
        right_S = automaton.left_S <= len(behind) - last
        for token in reversed(behind[:last]):
            live_P = right_S[automaton.to_P]
            if token != automaton.mask_id:
                live_P = live_P & automaton.member_NC[:, automaton.classes.class_V[token]][automaton.set_P]
            right_S = torch.zeros_like(right_S).scatter_reduce(0, automaton.from_P, live_P, "amax")
        return right_S
