"""LLaDA2.2 (inclusionAI's report, 2026; it builds on LLaDA2.1, arXiv 2602.08676): tokens may also go, or make place for others.

    unmask.method("llada2.2")                                 # fill at 0.5, edit wherever another token is likelier
    unmask.method("llada2.2", edit_threshold=0.8)

On a model without tokens for DELETE and SPLIT nothing moves; on one that has them, rules which do not know what they mean
never write them, but for the published methods. The official twin is SGLang's loop, the
public one: a forward for each block of the prompt, and a clean one for each block.

What ours mends: a prompt takes as few forwards as it can, the clean forward of a block rides in the next one's first, and a
row ends with the block that holds its first EOS.
"""

from unmask.decode.editing import Edit
from unmask.decode.indel import Indel
from unmask.methods.method import Method, published
from unmask.methods.parts import StopAtEos


def llada2_2() -> Method:
    """Fill, rewrite, delete and split; its numbers are `threshold`, `edit_threshold` and `max_post_steps`."""
    return Method(name="llada2.2", cache="dual", commit=Indel(), edit=Edit(threshold=0.0), stop_at_eos=StopAtEos())


official = published(
    llada2_2,
    stop_at_eos=StopAtEos(check="after each finished block"),
    settings={"cache": "prefix", "prefill": "one by one"},
)
