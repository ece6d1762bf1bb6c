"""The trajectory of a decode, when each token was written, and how redundant it was.

Redundancy is the tokens that R2-dLLM's rules would have committed, counted while they are off.

A recorder observes a decode without these rules and applies each of them, in the published order, to the positions that
the base rule left masked. The text does not change: these are potential triggers (arXiv 2604.18995, section 5.1 and
appendix A.3). The paper does not define one trigger, so several counts are kept.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from unmask.decode.memory import Streak
from unmask.decode.proposal import Proposal
from unmask.decode.redundancy import ConfidenceCluster, Temporal, TokenCluster
from unmask.engine.request import StepRecord
from unmask.methods.method import Method


@dataclass(kw_only=True)
class Triggers:
    """Potential triggers of one answer, summed over its forwards.

    Attributes:
        windows: windows of the confidence cluster that reach its threshold.
        components: contiguous runs of positions that such windows would commit.
        positions: the positions themselves.
        runs: runs of one repeated prediction that would commit (token cluster).
        temporal: positions that would be final (temporal finalisation).
    """

    windows: int = 0
    components: int = 0
    positions: int = 0
    runs: int = 0
    temporal: int = 0

    def to_dict(self) -> dict[str, int]:
        """Plain data for a line of JSON."""
        return asdict(self)


class Recorder:
    """An observer that counts potential triggers; `triggers[i]` belongs to prompt i of the batch.

    Predictions that end the answer are left out: a tail of EOS is filler, not redundancy.

    Attributes:
        triggers: of each prompt's answer.
        forwards: of each prompt so far.
        steps: of each prompt, the forward (from 1) that last wrote an offset of its answer; what no forward wrote is absent.
    """

    def __init__(self, method: Method, *, prompts: int, mask_id: int, ends: Sequence[int]) -> None:
        assert method.confidence_cluster is not None
        assert method.token_cluster is not None
        assert method.temporal is not None
        self._window: ConfidenceCluster = method.confidence_cluster
        self._run: TokenCluster = method.token_cluster
        self._temporal: Temporal = method.temporal
        self._mask_id, self._ends = mask_id, torch.tensor(list(ends))
        self._streaks: dict[int, Streak] = {}
        self.triggers = [Triggers() for _ in range(prompts)]
        self.forwards = [0] * prompts
        self.steps: list[dict[int, int]] = [{} for _ in range(prompts)]

    def __call__(self, record: StepRecord) -> None:
        """Take in one forward."""
        for row, positions, prompt in zip(record.rows, record.committed, record.prompt, strict=True):
            self.forwards[row] += 1
            self.steps[row].update((position - prompt, self.forwards[row]) for position in positions)
        self._count(record)

    def _count(self, record: StepRecord) -> None:
        """Count what the rules would have committed after one forward."""
        block_BL, candidate_BL = torch.tensor(record.block), torch.tensor(record.candidate)
        taken_BL = torch.zeros_like(block_BL, dtype=torch.bool)
        for row, (positions, start) in enumerate(zip(record.committed, record.start, strict=True)):
            taken_BL[row, [position - start for position in positions]] = True
        masked_BL = block_BL == self._mask_id
        filler_BL = (candidate_BL[..., None] == self._ends).any(dim=-1)
        rows, length = block_BL.shape
        confidence_BL = torch.tensor(record.confidence)
        proposal = Proposal(
            candidate_BL=candidate_BL,
            confidence_BL=confidence_BL,
            score_BL=confidence_BL,
            masked_BL=masked_BL,
            open_BL=masked_BL & ~taken_BL & ~filler_BL,
            filler_BL=filler_BL,
            step_B=torch.tensor([0 if first else 1 for first in record.refresh]),
            suffix_B=torch.zeros(rows, dtype=torch.int64),
            token_BL=block_BL,
            fixed_BL=torch.zeros_like(masked_BL),
        )
        fresh = Streak.empty(1, length, torch.device("cpu"), confidence_BL.dtype)
        kept = [self._streaks.get(row, fresh) for row in record.rows]
        streak = Streak(*(torch.cat(parts) for parts in zip(*kept, strict=True)))

        wide = length >= self._window.size
        windows_B = self._window.windows(proposal).sum(dim=1) if wide else torch.zeros(rows, dtype=torch.int64)
        covered_BL, _ = self._window(proposal, None)
        proposal = proposal._replace(open_BL=proposal.open_BL & ~covered_BL)
        runs_BL, _ = self._run(proposal, None)
        proposal = proposal._replace(open_BL=proposal.open_BL & ~runs_BL)
        stable_BL, memory = self._temporal(proposal, streak)
        assert isinstance(memory, Streak)
        starts_BL = covered_BL & ~torch.nn.functional.pad(covered_BL, (1, 0))[:, :-1]
        for row, index in enumerate(record.rows):
            self._streaks[index] = Streak(*(part[row : row + 1] for part in memory))
            counts = self.triggers[index]
            counts.windows += _total(windows_B[row])
            counts.components += _total(starts_BL[row])
            counts.positions += _total(covered_BL[row])
            counts.runs += _total(runs_BL[row])
            counts.temporal += _total(stable_BL[row])


def _total(marks: Tensor) -> int:
    return int(marks.sum())
