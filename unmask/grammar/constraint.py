"""A grammar at one place of one answer: the constraint that the decoder asks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self, cast

import torch
from torch import Tensor

from unmask.decode.automaton import Automaton
from unmask.decode.chain import Chain, Chains
from unmask.decode.constraint import Placed
from unmask.decode.narrow import forced, restrict
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

    @property
    def alike(self) -> int:
        return id(self.automaton)

    @classmethod
    def together(cls, rows: Sequence[Placed]) -> "Grammars":
        return Grammars(tuple(cast(Grammar, row.constraint).chain(row) for row in rows))

    def after(self, tokens: Sequence[int]) -> Self:
        state = self.automaton.walk(tokens, self.state)
        assert state >= 0, "the answer has left its grammar"
        return replace(self, state=state, written=self.written + len(tokens))

    def possible(self, tokens: Sequence[int]) -> bool:
        return bool(self._right(tokens[: self.limit - self.written])[self.state])

    def chain(self, place: Placed) -> Chain:
        """The row's window as a chain of states."""
        rest, own = max(0, self.limit - self.written), place.length - place.prompt
        right_S = self._right(place.behind[: max(0, rest - own)])
        return Chain(self.automaton, self.state, right_S, place.prompt + min(rest, own), place.prompt)

    def _right(self, behind: Sequence[int]) -> Tensor:
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


class Grammars(NamedTuple):
    """What rows that decide together are held to; see `unmask.decode.constraint.Held`."""

    chains: tuple[Chain, ...]

    def narrow(self, logits_RLV: Tensor, proposal: Proposal, sampling: Sampling | None, score: Score) -> Proposal:
        return restrict(self._of(proposal.token_BL), logits_RLV, proposal, sampling=sampling, score=score)

    def forced(self, token_RL: Tensor) -> Tensor:
        return forced(self._of(token_RL), token_RL, self.chains[0].automaton.mask_id)

    def _of(self, token_RL: Tensor) -> Chains:
        """The windows, each as often as the forward has tried states of it."""
        rows, length = token_RL.shape
        chains = [chain for chain in self.chains for _ in range(rows // len(self.chains))]
        return Chains.of(chains, length, token_RL.device)
