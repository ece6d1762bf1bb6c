"""A method from outside the package: a base rule of one's own, which goes with every cache, draft and batch.

python examples/own_method.py
PYTHONPATH=examples unmask generate "Compute 40 + 7 - 9." --method own_method:half_of_the_surest
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

import unmask
from unmask.decode.memory import Memory
from unmask.decode.proposal import Proposal
from unmask.decode.rule import Commit, Look, ranks
from unmask.decode.settings import number_field
from unmask.methods.parts import StopAtEos


@dataclass(frozen=True, kw_only=True)
class Share(Commit):
    """The surest share of the open positions, at least one."""

    name: ClassVar[str] = "share"
    look: ClassVar[Look] = Look(
        label="share", sentence="the surest share of what is open", terminal="green", light="#0b9a6d", dark="#34d399"
    )
    share: float = number_field(0.0, 1.0, default=0.5, search=(0.1, 1.0))

    def __call__(self, proposal: Proposal, memory: Memory) -> tuple[Tensor, Memory]:
        open_BL = proposal.open_BL
        count_B = (open_BL.sum(dim=1) * self.share).ceil().clamp(min=1)
        return open_BL & (ranks(proposal.confidence_BL, open_BL) < count_B[:, None]), memory


def half_of_the_surest() -> unmask.Method:
    """A preset: what `--method own_method:half_of_the_surest` finds."""
    return unmask.Method(name="half", commit=Share(), stop_at_eos=StopAtEos())


if __name__ == "__main__":
    model = unmask.load("unmask-tiny")
    for method in (half_of_the_surest(), half_of_the_surest().change(**{"commit.share": 0.1, "cache": "prefix"})):
        answer = unmask.generate(model, ["Compute 40 + 7 - 9."], method=method)[0]
        print(f"{answer.forwards} forwards: {answer.text}")
