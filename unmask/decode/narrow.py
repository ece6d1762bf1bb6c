"""Evidence narrowed to what automata allow. Pure.

Rules commit any subset of a forward's candidates. So the candidates are one way through the automaton, from the state before
the window to one from which the answer can be completed: while the rest of that way stands, any part of it can be committed.

With a temperature the way is drawn: sums take the place of maxima on the way back, and forward each position takes the token
that its own Gumbel noise favours, so that the way is a sample of the model's distribution, given that the answer is allowed.

Rows walk together (chain.py). What is of the size of the vocabulary is done for a run of rows that have one automaton.

Shapes: R rows, L window positions, V vocabulary, X = R L; C token classes of one automaton, N sets of them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.decode.automaton import Automaton
from unmask.decode.chain import Chains, Run, follow, search
from unmask.decode.proposal import Proposal, Score, without
from unmask.decode.sampling import Sampling, gumbel, tempered
from unmask.kernels.vocabulary import ByClass, by_class, evidence, token_of_class

LEAST = -1e4  # of a log-probability: what is allowed stays possible, however unlikely it is


def restrict(
    chains: Chains, logits_RLV: Tensor, proposal: Proposal, *, sampling: Sampling | None = None, score: Score = "confidence"
) -> Proposal:
    """The evidence with one way through the automaton as candidates; what stands in the window stays.

    Confidence is a token's probability among those that its position may still become, the mask's share counted with them:
    where everything is allowed it is the plain one. Positions that can become one token alone count as filler, whose repeats
    are no accident.
    """
    views = [_View.of(run, logits_RLV, proposal, sampling) for run in chains.runs]
    weights = [view.automaton.members.maxima(view.likely_RLC.flatten(0, 1)).view(*view.shape, -1) for view in views]
    ways = search(chains, chains.steps(weights, proposal.token_BL, proposal.masked_BL))
    allowed = ways.allowed(chains)
    sets = follow(chains, ways.step_LP + ways.behind_LP)
    paths = [view.likeliest(set_RL) for view, set_RL in zip(views, sets, strict=True)]
    if sampling is not None:
        paths = _drawn(chains, views, allowed, paths, proposal)
    made = [view.narrowed(may_RLC, path_RL, score) for view, may_RLC, path_RL in zip(views, allowed, paths, strict=True)]
    joined = {name: torch.cat([part[name] for part in made]) if len(made) > 1 else made[0][name] for name in made[0]}
    if proposal.logits_BLV is not None:
        joined["logits_BLV"] = _alone(proposal.logits_BLV, joined["candidate_BL"])
    return proposal._replace(**joined)


def forced(chains: Chains, token_RL: Tensor, mask_id: int) -> Tensor:
    """The windows' tokens, and of the masked positions those that can become one token alone filled with it.

    That closes no way, so no position is forced by those that are filled.
    """
    masked_RL, filled = token_RL == mask_id, []
    weights = [
        torch.zeros((*token_RL[run.rows].shape, len(run.automaton.member_NC)), device=token_RL.device) for run in chains.runs
    ]
    ways = search(chains, chains.steps(weights, token_RL, masked_RL))
    for run, allowed_RLC in zip(chains.runs, ways.allowed(chains), strict=True):
        filled.append(only(run.automaton, allowed_RLC))
    only_RL = torch.cat(filled)
    return torch.where(masked_RL & (only_RL >= 0), only_RL, token_RL)


def only(automaton: Automaton, allowed_RLC: Tensor) -> Tensor:
    """The one token that each position can still become, [R, L]; -1 where it can become several. An end is one token."""
    single_RL = automaton.single_C[allowed_RLC.to(torch.uint8).argmax(dim=2)]
    return single_RL.masked_fill(allowed_RLC.sum(dim=2) != 1, -1)


class _View(NamedTuple):
    """A run's rows, and what their logits say of each class: `likely_RLC` is the logarithm of its best token's probability."""

    automaton: Automaton
    proposal: Proposal
    sampling: Sampling | None
    logits_XV: Tensor
    candidate_X: Tensor
    logsumexp_X1: Tensor
    seen: ByClass
    likely_RLC: Tensor

    @classmethod
    def of(cls, run: Run, logits_RLV: Tensor, proposal: Proposal, sampling: Sampling | None) -> "_View":
        automaton, mine = run.automaton, proposal.rows(run.rows)
        logits_XV = logits_RLV[run.rows].flatten(0, 1).to(mine.confidence_BL.dtype)
        candidate_X, logsumexp_X1 = _likeliest(logits_XV, mine, automaton, sampling)
        seen = by_class(logits_XV, automaton.classes, candidate_X, logsumexp_X1)
        likely_XC = (seen.maxima_RC - logsumexp_X1).nan_to_num(nan=LEAST).clamp(min=LEAST)
        drawn = None if sampling is None else sampling.rows(run.rows)
        likely_RLC = likely_XC.view(*mine.token_BL.shape, -1)
        return cls(automaton, mine, drawn, logits_XV, candidate_X, logsumexp_X1, seen, likely_RLC)

    @property
    def shape(self) -> torch.Size:
        """R and L."""
        return self.proposal.token_BL.shape

    def by_position(self) -> Tensor:
        """The logits, [R, L, V]."""
        return self.logits_XV.view(*self.shape, -1)

    def likeliest(self, set_RL: Tensor) -> Tensor:
        """The tokens [R, L] of a way, the likeliest of each set of classes; what stands stays."""
        automaton, proposal = self.automaton, self.proposal
        class_X = _class(automaton, set_RL, self.likely_RLC).flatten()
        mine_X = automaton.classes.class_V[self.candidate_X] == class_X
        found_X = token_of_class(self.logits_XV, automaton.classes, self.seen, class_X)
        path_RL = torch.where(mine_X, self.candidate_X, found_X).view(self.shape)
        return torch.where(proposal.masked_BL, path_RL, proposal.token_BL)

    def narrowed(self, allowed_RLC: Tensor, path_RL: Tensor, score: Score) -> dict[str, Tensor]:
        """The parts of the proposal that a way changes."""
        automaton, proposal, masked_RL = self.automaton, self.proposal, self.proposal.masked_BL
        share_RL = _share(automaton, self.seen, allowed_RLC.flatten(0, 1), self.logits_XV, self.logsumexp_X1).view(self.shape)
        probability_RL = (self.logits_XV.gather(1, path_RL.view(-1, 1)) - self.logsumexp_X1).exp().view(self.shape)
        probability_RL = torch.where(path_RL == proposal.candidate_BL, proposal.confidence_BL, probability_RL)
        confidence_RL = (probability_RL / share_RL).clamp(max=1.0)
        score_RL = confidence_RL
        if score != "confidence":
            score_RL = evidence(_kept(automaton, allowed_RLC, self.by_position()), automaton.mask_id, score).score_BL
        class_RL1 = automaton.classes.class_V[proposal.candidate_BL][..., None]
        refused_RL = masked_RL & ~allowed_RLC.gather(2, class_RL1)[..., 0]
        return {
            "candidate_BL": path_RL,
            "refused_BL": torch.where(refused_RL, proposal.candidate_BL, -1),
            "confidence_BL": torch.where(masked_RL, confidence_RL, proposal.confidence_BL),
            "score_BL": torch.where(masked_RL, score_RL.to(proposal.score_BL.dtype), proposal.score_BL),
            "filler_BL": torch.where(masked_RL, only(automaton, allowed_RLC) >= 0, proposal.filler_BL),
        }


def _class(automaton: Automaton, set_RL: Tensor, weight_RLC: Tensor) -> Tensor:
    """The heaviest class of each set, [R, L]."""
    return weight_RLC.masked_fill(~automaton.member_NC[set_RL], -torch.inf).argmax(dim=2)


# --- drawing ----------------------------------------------------------------------------------------------------------


class _Drawn(NamedTuple):
    """What a run's rows draw from: the noisy logits, and by class their maxima and the soft sums of those without noise."""

    noisy_RLV: Tensor
    noisy_RLC: Tensor
    soft_RLC: Tensor

    @classmethod
    def of(cls, view: _View, allowed_RLC: Tensor, path_RL: Tensor) -> "_Drawn":
        """`path_RL` are the tokens of the best way, which top-k and top-p leave in, so that one is left."""
        automaton, sampling, class_V = view.automaton, view.sampling, view.automaton.classes.class_V
        assert sampling is not None, "a way is drawn with some noise"
        logits_RLV = view.by_position().to(torch.promote_types(view.logits_XV.dtype, torch.float32))
        logits_RLV = logits_RLV.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        kept_RLV = tempered(_kept(automaton, allowed_RLC, logits_RLV), sampling, automaton.mask_id)
        plain_RL1 = logits_RLV.gather(2, path_RL[..., None]) / sampling.temperature_B1[..., None]
        floor_RL1 = kept_RLV.amax(dim=2, keepdim=True).clamp(min=torch.finfo(kept_RLV.dtype).min / 2) + LEAST
        kept_RLV = kept_RLV.scatter(2, path_RL[..., None], plain_RL1.maximum(floor_RL1))
        noisy_RLV = kept_RLV + gumbel(sampling.seed_B1, sampling.positions_BL, kept_RLV.shape[2])
        scale_RL1 = kept_RLV.amax(dim=2, keepdim=True)
        index_RLV = class_V.expand_as(kept_RLV)
        none_RLC = kept_RLV.new_full(allowed_RLC.shape, -torch.inf)
        noisy_RLC = none_RLC.scatter_reduce(2, index_RLV, noisy_RLV - scale_RL1, "amax")
        most_RLC = none_RLC.scatter_reduce(2, index_RLV, kept_RLV - scale_RL1, "amax")
        share_RLV = (kept_RLV - scale_RL1 - most_RLC.gather(2, index_RLV)).nan_to_num(nan=-torch.inf).exp()
        sum_RLC = torch.zeros_like(most_RLC).scatter_add(2, index_RLV, share_RLV)
        return cls(noisy_RLV, noisy_RLC, most_RLC + sum_RLC.clamp(min=1.0).log())

    def tokens(self, view: _View, set_RL: Tensor) -> Tensor:
        """Those of a way, [R, L]; what stands stays."""
        class_RL1 = _class(view.automaton, set_RL, self.noisy_RLC)[..., None]
        token_RL = self.noisy_RLV.masked_fill(view.automaton.classes.class_V != class_RL1, -torch.inf).argmax(dim=2)
        return torch.where(view.proposal.masked_BL, token_RL, view.proposal.token_BL)


def _drawn(
    chains: Chains, views: Sequence[_View], allowed: Sequence[Tensor], paths: Sequence[Tensor], proposal: Proposal
) -> list[Tensor]:
    """The tokens of a way that is drawn: the exact conditional distribution, where neither top-k nor top-p narrows it."""
    drawn = [_Drawn.of(view, may_RLC, path_RL) for view, may_RLC, path_RL in zip(views, allowed, paths, strict=True)]
    members = [view.automaton.members for view in views]

    def steps(weights: Sequence[Tensor]) -> Tensor:
        shaped = [weight_XN.view(*view.shape, -1) for view, weight_XN in zip(views, weights, strict=True)]
        return chains.steps(shaped, proposal.token_BL, proposal.masked_BL)

    soft = [mine.logsumexp(one.soft_RLC.flatten(0, 1)) for mine, one in zip(members, drawn, strict=True)]
    ways = search(chains, steps(soft), soft=True)
    # A pair weighs what the noise says of its own position, and the sum of all that may lie behind it.
    noise = [mine.maxima(one.noisy_RLC.flatten(0, 1)) for mine, one in zip(members, drawn, strict=True)]
    sets = follow(chains, steps(noise) + ways.behind_LP)
    return [one.tokens(view, set_RL) for one, view, set_RL in zip(drawn, views, sets, strict=True)]


# --- evidence ---------------------------------------------------------------------------------------------------------


def _likeliest(logits_XV: Tensor, proposal: Proposal, automaton: Automaton, sampling: Sampling | None) -> tuple[Tensor, Tensor]:
    """The most probable token of each position and the logarithm of its softmax's denominator."""
    if sampling is not None:
        return without(logits_XV, (automaton.mask_id,)).argmax(dim=1), logits_XV.logsumexp(dim=1, keepdim=True)
    candidate_X, confidence_X1 = proposal.candidate_BL.flatten(), proposal.confidence_BL.reshape(-1, 1)
    least = torch.finfo(confidence_X1.dtype).tiny
    return candidate_X, logits_XV.gather(1, candidate_X[:, None]) - confidence_X1.clamp(min=least).log()


def _share(automaton: Automaton, seen: ByClass, allowed_XC: Tensor, logits_XV: Tensor, logsumexp_X1: Tensor) -> Tensor:
    """The share of the distribution that is not forbidden, the mask's included, [X]; 1 where nothing is."""
    mask_X = (logits_XV[:, automaton.mask_id] - logsumexp_X1[:, 0]).exp()
    open_X = (seen.mass_RC * allowed_XC).sum(dim=1) + mask_X
    forbidden_X = (seen.mass_RC * ~allowed_XC).sum(dim=1)
    by_rest_X = allowed_XC[:, automaton.classes.largest]  # the share of the largest class is what the others leave
    return torch.where(by_rest_X, 1.0 - forbidden_X, open_X).clamp(min=torch.finfo(open_X.dtype).tiny)


def _kept(automaton: Automaton, allowed_RLC: Tensor, logits_RLV: Tensor) -> Tensor:
    """The logits of what each position may still become, and of the mask."""
    keeps_RLV = allowed_RLC[..., automaton.classes.class_V]
    keeps_RLV[..., automaton.mask_id] = True
    return logits_RLV.masked_fill(~keeps_RLV, -torch.inf)


def _alone(logits_RLV: Tensor, token_RL: Tensor) -> Tensor:
    """Logits in which no other token can be chosen, for rules that look for one themselves."""
    return torch.full_like(logits_RLV, -torch.inf).scatter(2, token_RL[..., None], 0.0)
