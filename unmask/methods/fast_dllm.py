"""Fast-dLLM (arXiv 2505.22618): cached keys and values, and every sure token at once.

    unmask.method("fast-dllm")                   # threshold 0.9, dual cache
    unmask.method("fast-dllm", factor=1.0)       # theorem 1 instead of a fixed threshold
    unmask.method("fast-dllm", cache="prefix")

What ours mends: a row ends at its first EOS; at most one commit per run of equal predictions; the factor rule has no
off-by-one; on Dream the forward that starts a block commits by the same rule as every other (published: its first token,
whatever the confidence), and no forward is spent on a finished block.
"""

from unmask.methods.method import Commit, CommitFactor, CommitThreshold, Method, StopAtEos


def fast_dllm(*, threshold: float = 0.9, factor: float | None = None) -> Method:
    """Commit every position of confidence >= threshold; or, with `factor`, as many as theorem 1 allows."""
    return Method(name="fast-dllm", cache="dual", commit=_commit(threshold, factor), stop_at_eos=StopAtEos())


def official(*, threshold: float = 0.9, factor: float | None = None) -> Method:
    """The published decoder, every block decoded to its end."""
    return Method(name="fast-dllm-official", parity="official", cache="dual", commit=_commit(threshold, factor))


def _commit(threshold: float, factor: float | None) -> Commit:
    return CommitThreshold(threshold=threshold) if factor is None else CommitFactor(factor=factor)
