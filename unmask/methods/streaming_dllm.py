"""Streaming-dLLM (arXiv 2601.17917): a pruned suffix, a threshold that falls as the block fills, an early exit.

    unmask.method("streaming-dllm", suffix_window=96, alpha=0.15)
    unmask.method("streaming-dllm", cache="dual")       # nobody has published dual cache on a pruned suffix; it just works

What ours mends, besides what fast-dllm mends: the threshold follows the masked share of the block alone (published: of
block and visible suffix, so that the same alpha means less with a wider window and far more in the last block), also at
the block's first step; and a row ends as soon as everything before its first EOS is there, not after the whole block.
"""

from unmask.decode.rules import Threshold
from unmask.methods.method import Method, published
from unmask.methods.parts import DynamicThreshold, StopAtEos, Suffix


def streaming_dllm() -> Method:
    """Threshold * (1 - alpha * (1 - masked share of the block)); alpha 0.15 acts like the published 0.3 with window 32."""
    return Method(
        name="streaming-dllm",
        cache="prefix",
        commit=Threshold(),
        suffix=Suffix(),
        dynamic_threshold=DynamicThreshold(alpha=0.15),
        stop_at_eos=StopAtEos(),
    )


# The published decoder with LLaDA's function defaults; Dream's alpha is 0.9, and its tables tune window and alpha per task.
official = published(
    streaming_dllm,
    stop_at_eos=StopAtEos(check="after each finished block"),
    settings={"dynamic_threshold.alpha": 0.3},
)
