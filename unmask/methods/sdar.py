"""SDAR (arXiv 2510.06303): blocks in order, each denoised in a few steps, over keys and values that never go stale.

    unmask.method("sdar")                              # all tokens of at least 0.95, one per step at least
    unmask.method("sdar", steps=2)                     # at most two steps per block
    unmask.method("sdar", remasking="static", steps=4)

TraDo decodes alike. Made for block-causal models, where `steps` are per block and any cache is the exact one; on other
models steps are those of the whole answer.

What ours mends: a prompt's tokens are never overwritten, confidence is the plain softmax's whatever filters the sampling
(published script: behind them, so that a top-k of 1 fills a block at one step), temperature 0 is greedy, at most one
commit per run of equal predictions where no number of steps is promised, and a row ends at its first EOS.
"""

from typing import Literal

from unmask.decode.rule import Commit
from unmask.decode.rules import All, Leftmost, Quota, QuotaOrThreshold
from unmask.decode.settings import one_of
from unmask.methods.method import Method, published
from unmask.methods.parts import StopAtEos

RULES: dict[str, type[Commit]] = {"dynamic": QuotaOrThreshold, "static": Quota, "sequential": Leftmost, "all": All}


def sdar(*, remasking: Literal["dynamic", "static", "sequential", "all"] = "dynamic") -> Method:
    """Commit by SDAR's strategies, whose numbers are `steps` (None: one per token) and, where dynamic, `threshold`.

    Args:
        remasking: "dynamic" commits all that are sure, but no fewer than a quota; "static" the quota, the best first;
            "sequential" the quota, from the left; "all" the whole block.
    """
    one_of("remasking", remasking, tuple(RULES))
    return Method(name="sdar", cache="dual", commit=RULES[remasking](), stop_at_eos=StopAtEos())


# The published decoder (of the evaluation, whose confidences are the plain softmax's): it looks for EOS behind a block.
official = published(sdar, stop_at_eos=StopAtEos(check="after each finished block"), settings={"cache": "prefix"})
