"""Fast-dLLM v2 (arXiv 2509.26328): a block is decoded in sub-blocks, one after the other, every sure token at once.

    unmask.method("fast-dllm-v2")                             # threshold 0.9, sub-blocks of 8
    unmask.method("fast-dllm-v2", sub_block_cache=True)       # later forwards of a sub-block query it alone; not exact
    unmask.method("fast-dllm-v2", sub_block=None)             # the whole block at once

What ours mends: a prompt of exactly one block is not lost, other block lengths are right, a row depends on no other row of
its batch, at most one commit per run of equal predictions, and a row ends at its first EOS.
"""

from unmask.decode.rules import Threshold
from unmask.methods.method import Method, published
from unmask.methods.parts import StopAtEos, SubBlocks


def fast_dllm_v2() -> Method:
    """Commit every position of confidence >= threshold of the first sub-block that has a mask."""
    return Method(name="fast-dllm-v2", cache="dual", commit=Threshold(), sub_blocks=SubBlocks(), stop_at_eos=StopAtEos())


# The published decoder (of the Hub), which stops where nothing before an EOS is masked.
official = published(fast_dllm_v2, stop_at_eos=StopAtEos(), settings={"cache": "prefix"})
