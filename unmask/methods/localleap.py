"""LocalLeap (arXiv 2510.07081): around a position that is sure, others need to be less sure.

    unmask.method("localleap")                              # anchors at 0.9; 0.75 within 4 positions of one; dual cache
    unmask.method("localleap", relaxed_threshold=0.8)       # the paper's number for Dream
    unmask.method("localleap", radius=0)                    # as fast-dllm decodes
    unmask.method("r2-dllm", commit={"rule": "localleap"})  # the same behind R2-dLLM's rules

Written from the paper's criterion; no code of its authors is at hand, so there is no -official twin. Around is within the
block: what a forward remembers of other blocks is no anchor.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import max_pool1d

from unmask.decode.memory import Memory
from unmask.decode.proposal import Proposal
from unmask.decode.rule import Commit, Look, surest
from unmask.decode.rules import SURE, exceeds
from unmask.decode.settings import Kind, number_field, whole_field
from unmask.methods.method import Method
from unmask.methods.parts import StopAtEos


@dataclass(frozen=True, kw_only=True)
class LocalLeap(Commit):
    """Open positions of confidence >= threshold, the anchors; those near one of >= relaxed_threshold; and the best anyway.

    Example: confidences .8 .7 .95 .5 .8, threshold .9, relaxed .75, radius 1: only .95 goes; radius 2: both .8 go too.

    Attributes:
        threshold: of an anchor.
        relaxed_threshold: of a position at most `radius` positions from an anchor.
        radius: in positions; 0: no position is near an anchor but itself.
    """

    name: ClassVar[str] = "localleap"
    look: ClassVar[Look] = Look(label="localleap", sentence="all that are this sure, and less sure ones near them", **SURE)
    reads_open: ClassVar[bool] = True
    per_row: ClassVar[Mapping[str, Kind]] = {"threshold": "real", "relaxed_threshold": "real"}
    threshold: float = number_field(0.0, 1.0, default=0.9, search=(0.5, 1.0))
    relaxed_threshold: float = number_field(0.0, 1.0, default=0.75, search=(0.4, 1.0))
    radius: int = whole_field(0, default=4, search=(1, 16))

    def __call__(self, proposal: Proposal, memory: Memory) -> tuple[Tensor, Memory]:
        anchor_BL = exceeds(proposal, self.threshold, strict=False)
        reach = min(self.radius, anchor_BL.shape[1] - 1)
        near_BL = max_pool1d(anchor_BL[:, None].float(), 2 * reach + 1, stride=1, padding=reach)[:, 0] > 0
        leap_BL = near_BL & exceeds(proposal, self.relaxed_threshold, strict=False)
        return anchor_BL | leap_BL | surest(proposal), memory


def localleap() -> Method:
    """Commit anchors and what is nearly as sure around them; its numbers are `threshold`, `relaxed_threshold` and `radius`."""
    return Method(name="localleap", cache="dual", commit=LocalLeap(), stop_at_eos=StopAtEos())
