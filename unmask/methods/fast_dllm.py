"""Fast-dLLM (arXiv 2505.22618): cached keys and values, and every sure token at once.

    unmask.method("fast-dllm")                   # threshold 0.9, dual cache
    unmask.method("fast-dllm", factor=1.0)       # theorem 1 instead of a fixed threshold
    unmask.method("fast-dllm", cache="prefix")

What ours mends: a row ends at its first EOS; at most one commit per run of equal predictions; the factor rule has no
off-by-one; on Dream the forward that starts a block commits by the same rule as every other (published: its first token,
whatever the confidence), and no forward is spent on a finished block.
"""

from unmask.decode.rules import Factor, Threshold
from unmask.methods.method import Method, published
from unmask.methods.parts import StopAtEos


def fast_dllm(*, factor: float | None = None) -> Method:
    """Commit every position of confidence >= threshold; or, with `factor`, as many as theorem 1 allows."""
    commit = Threshold() if factor is None else Factor(factor=factor)
    return Method(name="fast-dllm", cache="dual", commit=commit, stop_at_eos=StopAtEos())


# The published decoder, every block decoded to its end.
official = published(fast_dllm, stop_at_eos=None)
