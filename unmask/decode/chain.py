"""The positions of rows' windows as chains of states: which ways lead through their automata, and which is the best. Pure.

Rows walk together whatever their automata are: the states of all rows stand side by side, numbered through, as if they were one
automaton that is in as many states at once as there are rows; so do their pairs of states and their sets of classes.

    backward   the best way from each state to the window's end, or with `soft` the sum of all ways
    forward    which states can be reached; with that, what each position may still become
    follow     the best way itself

Shapes: R rows, L positions; S states, P pairs and N sets of classes of all rows together, C classes of one row's automaton.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import NamedTuple, Self

import torch
from torch import Tensor

from unmask.decode.automaton import Automaton


class Chain(NamedTuple):
    """One row's window.

    Attributes:
        automaton: what may stand there.
        entry: the state before the first position of the answer.
        right_S: bool, from which states the answer can be completed behind the last position; on the host.
        inside: positions up to the answer's end; behind them there are only its ends.
        prompt: the first positions, which belong to the prompt: the state stays what it is.
    """

    automaton: Automaton
    entry: int
    right_S: Tensor
    inside: int
    prompt: int = 0


class Run(NamedTuple):
    """Rows one behind the other that have one automaton, and where their sets are among all."""

    automaton: Automaton
    rows: slice
    sets: slice

    def spread(self, sets_LN: Tensor) -> Tensor:
        """What all sets have, as that of each of its rows' own, [rows, L, N]."""
        mine_LN = sets_LN[:, self.sets]
        return mine_LN.view(len(mine_LN), self.rows.stop - self.rows.start, -1).transpose(0, 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Chains:
    """The windows of rows that decide together.

    Attributes:
        runs: the rows by their automata.
        from_P, to_P, set_P: the pairs of all rows.
        entry_R, right_S: as in `Chain`.
        shut_LP: pairs that no way takes there; None: there are none.
        waits_LS: where the state stays what it is; None: nowhere.
    """

    runs: tuple[Run, ...]
    from_P: Tensor
    to_P: Tensor
    set_P: Tensor
    entry_R: Tensor
    right_S: Tensor
    shut_LP: Tensor | None
    waits_LS: Tensor | None

    @classmethod
    def of(cls, chains: Sequence[Chain], length: int, device: torch.device) -> Self:
        """Of windows of that length; nothing here waits for the device."""
        automata = [chain.automaton.on(device) for chain in chains]
        states, sets = ([0, *accumulate(sizes)] for sizes in zip(*map(_sizes, automata), strict=True))
        place_L1, shut_LP, waits_LS = torch.arange(length, device=device)[:, None], None, None
        if any(chain.inside < length for chain in chains):
            shut = ((place_L1 >= chain.inside) & ~one.end_P for chain, one in zip(chains, automata, strict=True))
            shut_LP = torch.cat(list(shut), dim=1)
        if any(chain.prompt for chain in chains):
            waits = ((place_L1 < chain.prompt).expand(-1, one.states) for chain, one in zip(chains, automata, strict=True))
            waits_LS = torch.cat(list(waits), dim=1)
        return cls(
            runs=tuple(_runs(automata, sets)),
            from_P=_numbered([one.from_P for one in automata], states),
            to_P=_numbered([one.to_P for one in automata], states),
            set_P=_numbered([one.set_P for one in automata], sets),
            entry_R=torch.tensor([begin + chain.entry for begin, chain in zip(states, chains, strict=False)], device=device),
            right_S=torch.cat([chain.right_S for chain in chains]).to(device),
            shut_LP=shut_LP,
            waits_LS=waits_LS,
        )

    def steps(self, weights: Sequence[Tensor], token_RL: Tensor, masked_RL: Tensor) -> Tensor:
        """The weight of each pair at each position [L, P], from those of each run's sets [rows, L, N] where it is masked.

        What stands weighs nothing, and all else is impossible there.
        """
        packed = []
        for run, weight_RLN in zip(self.runs, weights, strict=True):
            stands_RLN = run.automaton.member_NC.t()[run.automaton.classes.class_V[token_RL[run.rows]]]
            fixed_RLN = torch.zeros_like(weight_RLN).masked_fill(~stands_RLN, -torch.inf)
            packed.append(torch.where(masked_RL[run.rows, :, None], weight_RLN, fixed_RLN).transpose(0, 1).flatten(1))
        step_LP = torch.cat(packed, dim=1).index_select(1, self.set_P)
        return step_LP if self.shut_LP is None else step_LP.masked_fill_(self.shut_LP, -torch.inf)


def _sizes(automaton: Automaton) -> tuple[int, int]:
    return automaton.states, len(automaton.member_NC)


def _runs(automata: Sequence[Automaton], sets: Sequence[int]) -> Iterator[Run]:
    begin = 0
    for _, some in groupby(automata, key=id):
        row, *others = some
        end = begin + 1 + len(others)
        yield Run(row, slice(begin, end), slice(sets[begin], sets[end]))
        begin = end


def _numbered(parts: Sequence[Tensor], begins: Sequence[int]) -> Tensor:
    """Numbers of all rows one behind the other, counted through."""
    return torch.cat([part + begin for part, begin in zip(parts, begins, strict=False)])


class Ways(NamedTuple):
    """What the automata leave of the windows.

    Attributes:
        step_LP: the weight of each pair.
        behind_LP: that of the best way from behind it to the window's end, or with `soft` of all; -inf where there is none.
        live_LP: whether a way leads over it.
    """

    step_LP: Tensor
    behind_LP: Tensor
    live_LP: Tensor

    def allowed(self, chains: Chains) -> list[Tensor]:
        """The classes that each position of a run's rows may still become, bool [rows, L, C]; it means nothing in a prompt."""
        count, pieces = chains.runs[-1].sets.stop, _pieces(self.live_LP)
        sets = [_scattered(some_LP.new_zeros((len(some_LP), count)), chains.set_P, some_LP, "amax") for some_LP in pieces]
        sets_LN = torch.cat(sets).to(torch.float32)
        return [run.spread(sets_LN) @ run.automaton.member_NC.to(torch.float32) > 0 for run in chains.runs]


def search(chains: Chains, step_LP: Tensor, *, soft: bool = False) -> Ways:
    """Backward the best way from every pair, or with `soft` the sum of all; forward what can be reached."""
    from_P, to_P, waits_LS = chains.from_P, chains.to_P, chains.waits_LS
    none_S = step_LP.new_full(chains.right_S.shape, -torch.inf)
    ahead_S, behind = torch.where(chains.right_S, 0.0, none_S), []
    for place, step_P in reversed(list(enumerate(step_LP.unbind()))):
        behind.append(ahead_S.index_select(0, to_P))
        total_P = step_P + behind[-1]
        best_S = none_S.scatter_reduce(0, from_P, total_P, "amax")
        if soft:
            best_S = _logsumexp(best_S, from_P, total_P)
        ahead_S = best_S if waits_LS is None else torch.where(waits_LS[place], ahead_S, best_S)
    behind_LP = torch.stack(behind[::-1])
    none_S = torch.zeros_like(chains.right_S)
    reached_S, live = none_S.index_fill(0, chains.entry_R, True), []
    for place, possible_P in enumerate((step_LP + behind_LP > -torch.inf).unbind()):
        live.append(possible_P & reached_S.index_select(0, from_P))
        next_S = none_S.scatter_reduce(0, to_P, live[-1], "amax")
        reached_S = next_S if waits_LS is None else torch.where(waits_LS[place], reached_S, next_S)
    return Ways(step_LP, behind_LP, torch.stack(live))


def _logsumexp(most_S: Tensor, index_P: Tensor, x_P: Tensor) -> Tensor:
    """The logarithm of the sum of exponentials by index, given the largest of each."""
    share_P = (x_P - most_S.index_select(0, index_P)).nan_to_num(nan=-torch.inf).exp()  # -inf minus -inf is nothing
    return most_S + torch.zeros_like(most_S).scatter_add(0, index_P, share_P).clamp(min=1.0).log()


def follow(chains: Chains, total_LP: Tensor) -> list[Tensor]:
    """The way that is best from each row's entry on: the set of classes at each position, numbered as its automaton's own.

    Of equal pairs the first. One tensor [rows, L] for each run.
    """
    pair_LS = torch.cat([_best(chains, some_LP) for some_LP in _pieces(total_LP)])
    next_LS = chains.to_P[pair_LS]
    if chains.waits_LS is not None:
        next_LS = torch.where(chains.waits_LS, torch.arange(next_LS.shape[1], device=next_LS.device), next_LS)
    way = [chains.entry_R]
    for next_S in next_LS.unbind()[:-1]:
        way.append(next_S.index_select(0, way[-1]))
    set_RL = chains.set_P[pair_LS.gather(1, torch.stack(way))].t()
    return [set_RL[run.rows] - _begins(run, set_RL.device) for run in chains.runs]


def _best(chains: Chains, total_LP: Tensor) -> Tensor:
    """The best pair from each state on, the first of equals, [L, S]; the last of all where no pair begins."""
    shape, pairs = (len(total_LP), len(chains.right_S)), total_LP.shape[1]
    best_LS = _scattered(total_LP.new_full(shape, -torch.inf), chains.from_P, total_LP, "amax")
    number_P, last = torch.arange(pairs, device=total_LP.device), pairs - 1
    number_LP = torch.where(total_LP == best_LS.index_select(1, chains.from_P), number_P, last)
    return _scattered(number_P.new_full(shape, last), chains.from_P, number_LP, "amin")


def _begins(run: Run, device: torch.device) -> Tensor:
    """The number of each row's first set, [rows, 1]."""
    return torch.arange(run.sets.start, run.sets.stop, len(run.automaton.member_NC), device=device)[:, None]


def _pieces(x_LP: Tensor) -> tuple[Tensor, ...]:
    """Some positions at a time, on a CPU of no more numbers than its cache holds."""
    return torch.split(x_LP, max(1, 2**15 // x_LP.shape[1])) if x_LP.is_cpu else (x_LP,)


def _scattered(into_LX: Tensor, index_P: Tensor, x_LP: Tensor, how: str) -> Tensor:
    """Each position's values reduced by index, into tensors of as many as there are. Flat, which a CPU does much faster."""
    length, size = into_LX.shape
    index_LP = index_P + size * torch.arange(length, device=index_P.device)[:, None]
    return into_LX.view(-1).scatter_reduce(0, index_LP.view(-1), x_LP.reshape(-1), how).view(length, size)
