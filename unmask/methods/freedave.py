"""FreeDave (arXiv 2510.00294): guess the next states of a decode, check all of them in one forward, keep the true ones.

    unmask.method("freedave")                             # one token a step, several steps a forward
    unmask.method("freedave", threshold=0.9)              # the same around threshold decoding
    unmask.method("r2-dllm", draft_steps=4)               # the same around any method
    unmask.method("freedave", draft_steps=8, multi_block=3, block_add=1.0)   # guesses run into the next blocks ("eager")

In exact arithmetic the answer is that of the base method and the forwards are never more, because a step is only taken
on a state whose own forward has been made: a guess is used if it turns out to be that state, else dropped.

What ours mends: `exact` matching, so that it is lossless over a threshold too (the published full-attention loop accepts
a subset of a threshold step, a state that the base never visits), and no forward on a block that is already complete.
"""

from unmask.decode.rules import Quota, Threshold
from unmask.methods.method import Method, published
from unmask.methods.parts import Draft, StopAtEos


def freedave(*, threshold: float | None = None) -> Method:
    """Draft and verify over one token a step, or over a threshold."""
    commit = Quota() if threshold is None else Threshold(threshold=threshold)
    return Method(name="freedave", cache="dual", commit=commit, draft=Draft(), stop_at_eos=StopAtEos())


# The published loop for full-attention models: subset matching, exit after a block of nothing but EOS.
official = published(freedave, stop_at_eos=StopAtEos(check="after a block of nothing else"), draft=Draft(match="subset"))
