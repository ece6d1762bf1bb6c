"""What a block forward says of each of its queries, where the decisions read it: tables that stay, apart from all graphs.

A forward and the decisions behind it are graphs of their own, so that neither depends on which other takes part. Graphs share
memory for what they compute on, and so hand nothing to each other but by these tables.

Shapes: N queries, and one more that no row reads; L the longest window, V vocabulary, C model width, A alternatives.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.decode.proposal import Score
from unmask.methods.recipe import Structure
from unmask.models.denoiser import Denoiser

_Kind = tuple[tuple[int, ...], torch.dtype]  # what follows [N, L] in a table's shape, and its type


class Said(NamedTuple):
    """What a forward says of queries; numbers beside those of every method are None unless a method reads them.

    Attributes:
        candidate, confidence: as in `Proposal`, [N, L].
        scores: by their names.
        hidden, logits, top_id, top: as in `Proposal`.
    """

    candidate: Tensor
    confidence: Tensor
    scores: dict[Score, Tensor]
    hidden: Tensor | None = None
    logits: Tensor | None = None
    top_id: Tensor | None = None
    top: Tensor | None = None


class EvidenceTables:
    """Room for the evidence of a step's queries."""

    def __init__(self, model: Denoiser, precision: Callable[[Structure], torch.dtype]) -> None:
        """`precision` is that of a structure's confidences and scores."""
        self._model, self._precision = model, precision
        self.shape = (0, 0)  # N and L; where they change, the tables have moved
        self._kinds: dict[str, _Kind] = {}
        self._tables: dict[str, Tensor] = {}

    @property
    def padding(self) -> int:
        """A query that no row reads."""
        return self.shape[0]

    def reserve(self, queries: int, structure: Structure) -> None:
        """Room for that many queries, some of them of this structure."""
        queries, length = max(self.shape[0], queries), max(self.shape[1], structure.width)
        kinds = self._kinds | self._needed(structure)
        new = kinds if (queries, length) != self.shape else kinds.keys() - self._kinds.keys()
        self.shape, self._kinds = (queries, length), kinds
        for name in new:
            tail, dtype = kinds[name]
            self._tables[name] = torch.zeros((queries + 1, length, *tail), dtype=dtype, device=self._model.device)

    def _needed(self, structure: Structure) -> dict[str, _Kind]:
        """The tables that it reads."""
        dtype, real = self._model.dtype, self._precision(structure)
        needed: dict[str, _Kind] = {"candidate": ((), torch.int64), f"confidence {real}": ((), real)}
        if structure.score != "confidence":
            needed[f"{structure.score} {real}"] = (), real
        if structure.reads_hidden:
            needed["hidden"] = (self._model.network.shape.width,), dtype
        if structure.moves:
            needed["logits"] = (self._model.spec.vocab_size,), dtype
        if structure.alternatives:
            tail = (structure.alternatives,)
            needed |= {f"top_id {tail[0]}": (tail, torch.int64), f"top {tail[0]}": (tail, torch.float64)}
        return needed

    def put(self, said: Said, query_N: Tensor | None = None) -> None:
        """What a forward says of queries of these numbers; None: of the first ones of the table."""
        queries, length = said.candidate.shape
        real = said.confidence.dtype
        parts: dict[str, Tensor | None] = {"hidden": said.hidden, "logits": said.logits}
        parts |= {"candidate": said.candidate, f"confidence {real}": said.confidence}
        parts |= {f"{name} {real}": score for name, score in said.scores.items() if name != "confidence"}
        if said.top_id is not None and said.top is not None:
            most = said.top_id.shape[-1]
            parts |= {f"top_id {most}": said.top_id, f"top {most}": said.top}
        for name, part in parts.items():
            if part is None:
                continue
            if query_N is None:
                self._tables[name][:queries, :length].copy_(part)
            else:
                self._tables[name][:, :length].index_copy_(0, query_N, part)

    def seen(self, structure: Structure, query_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Candidate, confidence and score of the positions of these queries, [N, L]."""
        real, width = self._precision(structure), structure.width
        candidate_NL, confidence_NL = (self._get(name, query_N, width) for name in ("candidate", f"confidence {real}"))
        if structure.score == "confidence":
            return candidate_NL, confidence_NL, confidence_NL
        return candidate_NL, confidence_NL, self._get(f"{structure.score} {real}", query_N, width)

    def beside(self, structure: Structure, query_N: Tensor) -> dict[str, Tensor]:
        """What it reads beside the numbers of every method, by the names of the proposal's fields."""
        found, most = {}, structure.alternatives
        if structure.reads_hidden:
            found["hidden_BLC"] = self._get("hidden", query_N, structure.width)
        if structure.moves:
            found["logits_BLV"] = self._get("logits", query_N, structure.width)
        if most:
            precision = torch.promote_types(self._model.dtype, torch.float32)
            found["top_id_BLA"] = self._get(f"top_id {most}", query_N, structure.width)
            found["top_BLA"] = self._get(f"top {most}", query_N, structure.width).to(precision)
        return found

    def _get(self, name: str, query_N: Tensor, length: int) -> Tensor:
        """One number, or several, of the positions of these queries, [N, L, ...]."""
        return self._tables[name][:, :length].index_select(0, query_N)
