"""LLaDA2.0 (arXiv 2512.15745): SDAR's dynamic rule in blocks of 32, on mixtures of experts.

    unmask.method("llada2")                      # all tokens of at least 0.95, one per step at least
    unmask.method("llada2", steps=8)             # no fewer than 4 per step in a block of 32
    unmask.method("llada2", cache="none")        # everything up to the block's end at every forward, as published

What ours mends: the keys and values of finished blocks are kept (published: none are), temperature 0 is greedy (published:
a draw at temperature 1), a prompt that holds EOS ends nothing, a short answer has no fewer steps per block, at most one
commit per run of equal predictions where no number of steps is promised, and a row ends at its first EOS.
"""

from unmask.decode.rules import QuotaOrThreshold
from unmask.methods.method import Method, published
from unmask.methods.parts import StopAtEos


def llada2() -> Method:
    """Commit all that are sure, but no fewer than a quota; its options are `threshold`, `steps` and `minimal_topk`."""
    return Method(name="llada2", cache="dual", commit=QuotaOrThreshold(), stop_at_eos=StopAtEos())


# The published decoder: nothing is kept, and EOS is looked for behind a block. Its `eos_early_stop`, which is off, is
# stop_at_eos.check="every step that writes one".
official = published(
    llada2,
    stop_at_eos=StopAtEos(check="after each finished block"),
    settings={"cache": "none", "commit.minimal_topk": 1},
)
