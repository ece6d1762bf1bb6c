"""From the logits of a forward to the tables (evidence.py): what the decisions read of each of its queries.

Shapes: N queries, L predicted tokens of each, R = N L rows of logits, V vocabulary, C model width.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from unmask.decode.holes import without_ends
from unmask.decode.proposal import Score
from unmask.decode.sampling import Sampling
from unmask.decode.step import candidates, more
from unmask.engine.decision import drawing
from unmask.engine.device_state import DeviceState, Facts
from unmask.engine.evidence import EvidenceTables, Said
from unmask.engine.forms import Form
from unmask.methods.recipe import Sampled, Structure
from unmask.models.denoiser import Denoiser


class Shared(NamedTuple):
    """What all steps compute on."""

    state: DeviceState
    tables: EvidenceTables

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Where they change, the tables have moved, and no step may look into the old ones."""
        return self.state.shape, self.tables.shape


class Scoring(NamedTuple):
    """Of queries of one form.

    Attributes:
        scores: what rows may rank by.
        like: the structure of one of them.
    """

    form: Form
    scores: tuple[Score, ...]
    like: Structure
    model: Denoiser
    shared: Shared

    def __call__(
        self,
        logits_RV: Tensor,
        hidden_RC: Tensor | None,
        index_N: Tensor,
        facts: Facts[Tensor],
        query_N: Tensor | None = None,
    ) -> None:
        """Put down what is said of queries of rows at these places; `query` as in `EvidenceTables.put`."""
        queries, width, like = len(index_N), self.form.width, self.like
        logits_NLV = logits_RV.view(queries, width, -1)
        if like.hole_ends:
            logits_NLV = without_ends(logits_NLV, self.shared.state.kind(index_N, width), like.hole_ends)
        beside = more(like, logits_NLV, self.model.spec.mask_id)
        candidate_NL, confidence_NL, scores = self._candidates(logits_NLV, facts)
        self.shared.tables.put(
            Said(
                candidate=candidate_NL,
                confidence=confidence_NL,
                scores=scores,
                hidden=None if hidden_RC is None else hidden_RC.view(queries, width, -1),
                logits=beside.get("logits_BLV"),
                top_id=beside.get("top_id_BLA"),
                top=beside.get("top_BLA"),
            ),
            query_N,
        )

    def _candidates(self, logits_NLV: Tensor, facts: Facts[Tensor]) -> tuple[Tensor, Tensor, dict[Score, Tensor]]:
        """Candidate, confidence and scores of all queries: those of a row that is not sampled are as if none were."""
        form, like = self.form, self.like

        def found(sampling: Sampling | None, score: Score) -> tuple[Tensor, Tensor, Tensor]:
            return candidates(
                logits_NLV,
                sampling,
                mask_id=self.model.spec.mask_id,
                score=score,
                precision=like.precision,
                never=like.never,
            )

        made = {score: found(None, score) for score in self.scores}
        if form.sampled:
            sampling = drawing(facts, form.width, Sampled(top_p=True, top_k=True))
            hot_N1 = sampling.temperature_B1 > 0
            for score, plain in made.items():
                drawn = found(sampling, score)
                candidate, sure, ranked = (torch.where(hot_N1, new, old) for new, old in zip(drawn, plain, strict=True))
                made[score] = candidate, sure, ranked
        candidate_NL, confidence_NL, _ = made[self.scores[0]]
        return candidate_NL, confidence_NL, {name: one[2] for name, one in made.items()}
