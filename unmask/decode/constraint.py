"""What an answer must be, as the decoder sees it: evidence is narrowed before the rules read it. Pure.

Rules commit any subset of a forward's candidates. So the candidates are one way through the automaton, from the state before
the window to one from which the answer can be completed: while the rest of that way stands, any part of it can be committed.

    weigh      how likely each set of token classes is at each position; a token that stands is sure, all else is impossible
    backward   the best way from each state to the window's end
    forward    which states can be reached; with that, what each position may still become
    follow     the best way itself, and its tokens

With a temperature the way is drawn: sums take the place of maxima on the way back, and forward each position takes the token
that its own Gumbel noise favours, so that the way is a sample of the model's distribution, given that the answer is allowed.

Shapes: K states of a row's window that the forward has tried, L positions, V vocabulary, R = K L; S, C, P, N: automaton.py.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor

from unmask.decode.automaton import Automaton
from unmask.decode.proposal import Proposal, Score, without
from unmask.decode.sampling import Sampling, gumbel, tempered
from unmask.kernels.vocabulary import ByClass, by_class, evidence, token_of_class

LEAST = -1e4  # of a log-probability: what is allowed stays possible, however unlikely it is


class Constraint(Protocol):
    """A frozen value that says what may follow an answer's finished blocks.

    Rules take any subset of what they are offered, so `narrow` must offer candidates of which any subset can be
    completed. Shapes: K states of the block that the forward has tried, L block length, V vocabulary.
    """

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
        """The evidence of one row's forward with other candidates and confidences; a state's own tokens stay.

        `sampling` is how the row draws, and `score` what `score_BL` holds. The first `prompt` positions of the block belong
        to the prompt. `behind` are the row's tokens behind the block: masks, or text that is fixed from the start. It must
        not write to what it is given.
        """
        ...

    def forced(self, token_KL: Tensor, *, prompt: int, behind: Sequence[int]) -> Tensor:
        """The block's tokens with those positions filled in that can become one token alone; the others stay."""
        ...

    def after(self, tokens: Sequence[int]) -> Self:
        """The constraint behind these tokens of the answer, which are final: called on the host, once per block."""
        ...

    def possible(self, tokens: Sequence[int]) -> bool:
        """Whether an answer can be made of these positions, masked or fixed; called on the host, before the first forward."""
        ...


class Chain(NamedTuple):
    """The positions of one row's window, as a chain of states.

    Attributes:
        automaton: what may stand there.
        entry: the state before the first position.
        right_S: bool, from which states the answer can be completed behind the last one.
        inside: positions that belong to the answer; behind them there are only its ends.
    """

    automaton: Automaton
    entry: int
    right_S: Tensor
    inside: int


class Ways(NamedTuple):
    """What the automaton leaves of a window.

    Attributes:
        step_KLP: the weight of each pair.
        behind_KLP: that of the best way from behind it to the window's end, or with `soft` of all; -inf where there is none.
        allowed_KLC: which classes each position may still become.
    """

    step_KLP: Tensor
    behind_KLP: Tensor
    allowed_KLC: Tensor


def restrict(
    chain: Chain, logits_KLV: Tensor, proposal: Proposal, *, sampling: Sampling | None = None, score: Score = "confidence"
) -> Proposal:
    """The evidence with one way through the automaton as candidates; what stands in the window stays.

    Confidence is a token's probability among those that its position may still become, the mask's share counted with them:
    where everything is allowed it is the plain one. Positions that can become one token alone count as filler, whose repeats
    are no accident.
    """
    automaton, (rows, length, vocabulary) = chain.automaton, logits_KLV.shape
    logits_RV = logits_KLV.reshape(-1, vocabulary).to(proposal.confidence_BL.dtype)
    candidate_R, logsumexp_R1 = _likeliest(logits_RV, proposal, automaton, sampling)
    seen = by_class(logits_RV, automaton.classes, candidate_R, logsumexp_R1)
    likely_KLC = (seen.maxima_RC - logsumexp_R1).nan_to_num(nan=LEAST).clamp(min=LEAST).view(rows, length, -1)
    ways = search(chain, weigh(chain, automaton.members.maxima(likely_KLC.flatten(0, 1)), proposal))
    class_R = follow(chain, ways.step_KLP + ways.behind_KLP, likely_KLC).flatten()
    mine_R = automaton.classes.class_V[candidate_R] == class_R
    path_R = torch.where(mine_R, candidate_R, token_of_class(logits_RV, automaton.classes, seen, class_R))
    path_KL = torch.where(proposal.masked_BL, path_R.view(rows, length), proposal.token_BL)
    if sampling is not None:
        path_KL = drawn(chain, ways.allowed_KLC, logits_KLV, proposal, sampling, path_KL)
    share_KL = _share(automaton, seen, ways.allowed_KLC.flatten(0, 1), logits_RV, logsumexp_R1).view(rows, length)
    probability_KL = (logits_RV.gather(1, path_KL.view(-1, 1)) - logsumexp_R1).exp().view(rows, length)
    probability_KL = torch.where(path_KL == proposal.candidate_BL, proposal.confidence_BL, probability_KL)
    confidence_KL = (probability_KL / share_KL).clamp(max=1.0)
    score_KL = confidence_KL
    if score != "confidence":
        score_KL = evidence(_kept(automaton, ways.allowed_KLC, logits_KLV), automaton.mask_id, score).score_BL
    return proposal._replace(
        candidate_BL=path_KL,
        confidence_BL=torch.where(proposal.masked_BL, confidence_KL, proposal.confidence_BL),
        score_BL=torch.where(proposal.masked_BL, score_KL.to(proposal.score_BL.dtype), proposal.score_BL),
        filler_BL=only(automaton, ways.allowed_KLC) >= 0,
        logits_BLV=None if proposal.logits_BLV is None else _alone(proposal.logits_BLV, path_KL),
    )


def forced(chain: Chain, token_KL: Tensor) -> Tensor:
    """The window's tokens, and of the masked positions those that can become one token alone filled with it.

    That closes no way, so no position is forced by those that are filled.
    """
    automaton = chain.automaton
    masked_KL = token_KL == automaton.mask_id
    any_RN = automaton.left_S.new_zeros((token_KL.numel(), len(automaton.member_NC)), dtype=torch.float32)
    ways = search(chain, _steps(chain, any_RN.view(*token_KL.shape, -1), token_KL, masked_KL))
    only_KL = only(automaton, ways.allowed_KLC)
    return torch.where(masked_KL & (only_KL >= 0), only_KL, token_KL)


def only(automaton: Automaton, allowed_KLC: Tensor) -> Tensor:
    """The one token that each position can still become, [K, L]; -1 where it can become several. An end is one token."""
    single_KL = automaton.single_C[allowed_KLC.to(torch.uint8).argmax(dim=2)]
    return single_KL.masked_fill(allowed_KLC.sum(dim=2) != 1, -1)


# --- the chain of states ----------------------------------------------------------------------------------------------


def weigh(chain: Chain, weight_RN: Tensor, proposal: Proposal) -> Tensor:
    """The weight of each pair at each position, [K, L, P], from those of the sets of classes where positions are masked."""
    weight_KLN = weight_RN.view(*proposal.token_BL.shape, -1)
    return _steps(chain, weight_KLN, proposal.token_BL, proposal.masked_BL)


def _steps(chain: Chain, weight_KLN: Tensor, token_KL: Tensor, masked_KL: Tensor) -> Tensor:
    """Likewise: what stands weighs nothing, and behind the answer there are only ends."""
    automaton = chain.automaton
    stands_KLN = automaton.member_NC.t()[automaton.classes.class_V[token_KL]]
    weight_KLN = torch.where(
        masked_KL[..., None], weight_KLN, torch.zeros_like(weight_KLN).masked_fill(~stands_KLN, -torch.inf)
    )
    step_KLP = weight_KLN.index_select(2, automaton.set_P)
    if chain.inside < step_KLP.shape[1]:
        step_KLP[:, chain.inside :].masked_fill_(~automaton.end_P, -torch.inf)
    return step_KLP


def search(chain: Chain, step_KLP: Tensor, *, soft: bool = False) -> Ways:
    """Backward the best way from every pair, or with `soft` the sum of all; forward what can be reached."""
    automaton, (rows, length, _) = chain.automaton, step_KLP.shape
    from_KP, to_KP = (part_P.expand(rows, -1) for part_P in (automaton.from_P, automaton.to_P))
    none_KS = step_KLP.new_full((rows, automaton.states), -torch.inf)
    ahead_KS = torch.where(chain.right_S, 0.0, none_KS)
    behind_KLP = torch.empty_like(step_KLP)
    for place in reversed(range(length)):
        behind_KP = ahead_KS.index_select(1, automaton.to_P)
        behind_KLP[:, place] = behind_KP
        total_KP = step_KLP[:, place] + behind_KP
        ahead_KS = none_KS.scatter_reduce(1, from_KP, total_KP, "amax")
        if soft:
            ahead_KS = _logsumexp(ahead_KS, from_KP, total_KP)
    possible_KLP = step_KLP + behind_KLP > -torch.inf
    reached_KS = torch.zeros(rows, automaton.states, dtype=torch.bool, device=step_KLP.device)
    reached_KS[:, chain.entry] = True
    closed_KS = torch.zeros_like(reached_KS)
    for place in range(length):
        live_KP = possible_KLP[:, place].logical_and_(reached_KS.index_select(1, automaton.from_P))
        reached_KS = closed_KS.scatter_reduce(1, to_KP, live_KP, "amax")
    sets_KLN = possible_KLP.new_zeros((rows, length, len(automaton.member_NC))).scatter_reduce(
        2, automaton.set_P.expand(rows, length, -1), possible_KLP, "amax"
    )
    allowed_KLC = sets_KLN.to(torch.float32) @ automaton.member_NC.to(torch.float32) > 0
    return Ways(step_KLP, behind_KLP, allowed_KLC)


def _logsumexp(most_KS: Tensor, index_KP: Tensor, x_KP: Tensor) -> Tensor:
    """The logarithm of the sum of exponentials by index, given the largest of each."""
    share_KP = (x_KP - most_KS.gather(1, index_KP)).nan_to_num(nan=-torch.inf).exp()  # -inf minus -inf is nothing
    sum_KS = torch.zeros_like(most_KS).scatter_add(1, index_KP, share_KP)
    return most_KS + sum_KS.clamp(min=1.0).log()


def follow(chain: Chain, total_KLP: Tensor, likely_KLC: Tensor) -> Tensor:
    """The classes [K, L] of the way that is best from the entry on; of a pair's classes the likeliest."""
    automaton, (rows, length, _) = chain.automaton, total_KLP.shape
    state_K = torch.full((rows,), chain.entry, device=total_KLP.device)
    pairs = []
    for place in range(length):
        other_KP = automaton.from_P != state_K[:, None]
        pair_K = total_KLP[:, place].masked_fill(other_KP, -torch.inf).argmax(dim=1)
        state_K = automaton.to_P[pair_K]
        pairs.append(pair_K)
    set_KL = automaton.set_P[torch.stack(pairs, dim=1)]
    return likely_KLC.masked_fill(~automaton.member_NC[set_KL], -torch.inf).argmax(dim=2)


# --- drawing ----------------------------------------------------------------------------------------------------------


def drawn(
    chain: Chain, allowed_KLC: Tensor, logits_KLV: Tensor, proposal: Proposal, sampling: Sampling, path_KL: Tensor
) -> Tensor:
    """The tokens of a way that is drawn: the exact conditional distribution, where neither top-k nor top-p narrows it.

    `path_KL` are those of the best way, which the filters leave in, so that one is left.
    """
    automaton, class_V = chain.automaton, chain.automaton.classes.class_V
    logits_KLV = logits_KLV.to(torch.promote_types(logits_KLV.dtype, torch.float32)).nan_to_num(
        nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf
    )
    kept_KLV = tempered(_kept(automaton, allowed_KLC, logits_KLV), sampling, automaton.mask_id)
    plain_KL1 = logits_KLV.gather(2, path_KL[..., None]) / sampling.temperature_B1[..., None]
    floor_KL1 = kept_KLV.amax(dim=2, keepdim=True).clamp(min=torch.finfo(kept_KLV.dtype).min / 2) + LEAST
    kept_KLV = kept_KLV.scatter(2, path_KL[..., None], plain_KL1.maximum(floor_KL1))
    noisy_KLV = kept_KLV + gumbel(sampling.seed_B1, sampling.positions_BL, kept_KLV.shape[2])
    scale_KL1 = kept_KLV.amax(dim=2, keepdim=True)
    index_KLV = class_V.expand_as(kept_KLV)
    none_KLC = kept_KLV.new_full(allowed_KLC.shape, -torch.inf)
    noisy_KLC = none_KLC.scatter_reduce(2, index_KLV, noisy_KLV - scale_KL1, "amax")
    most_KLC = none_KLC.scatter_reduce(2, index_KLV, kept_KLV - scale_KL1, "amax")
    soft_RC = _logsumexp(most_KLC.flatten(0, 1), index_KLV.flatten(0, 1), (kept_KLV - scale_KL1).flatten(0, 1))
    ways = search(chain, weigh(chain, automaton.members.logsumexp(soft_RC), proposal), soft=True)
    # A pair weighs what the noise says of its own position, and the sum of all that may lie behind it.
    noise_KLP = weigh(chain, automaton.members.maxima(noisy_KLC.flatten(0, 1)), proposal)
    class_KL = follow(chain, noise_KLP + ways.behind_KLP, noisy_KLC)
    token_KL = noisy_KLV.masked_fill(class_V != class_KL[..., None], -torch.inf).argmax(dim=2)
    return torch.where(proposal.masked_BL, token_KL, proposal.token_BL)


# --- evidence ---------------------------------------------------------------------------------------------------------


def _likeliest(logits_RV: Tensor, proposal: Proposal, automaton: Automaton, sampling: Sampling | None) -> tuple[Tensor, Tensor]:
    """The most probable token of each position and the logarithm of its softmax's denominator."""
    if sampling is not None:
        return without(logits_RV, (automaton.mask_id,)).argmax(dim=1), logits_RV.logsumexp(dim=1, keepdim=True)
    candidate_R, confidence_R1 = proposal.candidate_BL.flatten(), proposal.confidence_BL.reshape(-1, 1)
    least = torch.finfo(confidence_R1.dtype).tiny
    return candidate_R, logits_RV.gather(1, candidate_R[:, None]) - confidence_R1.clamp(min=least).log()


def _share(automaton: Automaton, seen: ByClass, allowed_RC: Tensor, logits_RV: Tensor, logsumexp_R1: Tensor) -> Tensor:
    """The share of the distribution that is not forbidden, the mask's included, [R]; 1 where nothing is."""
    mask_R = (logits_RV[:, automaton.mask_id] - logsumexp_R1[:, 0]).exp()
    largest = automaton.classes.largest
    open_R = (seen.mass_RC * allowed_RC).sum(dim=1) + mask_R
    forbidden_R = (seen.mass_RC * ~allowed_RC).sum(dim=1) - (mask_R if largest > 0 else 0.0)
    return torch.where(allowed_RC[:, largest], 1.0 - forbidden_R, open_R).clamp(min=torch.finfo(open_R.dtype).tiny)


def _kept(automaton: Automaton, allowed_KLC: Tensor, logits_KLV: Tensor) -> Tensor:
    """The logits of what each position may still become, and of the mask."""
    keeps_KLV = allowed_KLC[..., automaton.classes.class_V]
    keeps_KLV[..., automaton.mask_id] = True
    return logits_KLV.masked_fill(~keeps_KLV, -torch.inf)


def _alone(logits_KLV: Tensor, token_KL: Tensor) -> Tensor:
    """Logits in which no other token can be chosen, for rules that look for one themselves."""
    return torch.full_like(logits_KLV, -torch.inf).scatter(2, token_KL[..., None], 0.0)
