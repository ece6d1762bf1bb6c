"""LLaDA2.1 (arXiv 2602.08676): masks are filled at a low threshold, and what was committed may still be rewritten.

    unmask.method("llada2.1")                                 # fill at 0.7, edit at 0.5
    unmask.method("llada2.1", mode="speed")                   # fill at 0.5, edit wherever another token is likelier
    unmask.method("r2-dllm", edit_threshold=0.9)              # the same editing behind any other rules

A block is over when it is complete and a step has changed nothing, or after `max_post_steps` steps since it was complete.

What ours mends: the keys and values of finished blocks are kept (published: none are), a prompt that holds EOS ends
nothing, at most one mask is filled per run of equal predictions, and a row ends with the block that holds its first EOS.
"""

from typing import Literal

from unmask.decode.editing import Edit
from unmask.decode.rules import Threshold
from unmask.decode.settings import one_of
from unmask.methods.method import Method, published
from unmask.methods.parts import StopAtEos

# The paper's thresholds for filling and editing.
MODES = {"quality": (0.7, 0.5), "speed": (0.5, 0.0)}


def llada2_1(*, mode: Literal["quality", "speed"] = "quality") -> Method:
    """Fill masks and rewrite tokens at the same steps; its numbers are `threshold`, `edit_threshold` and `max_post_steps`.

    Args:
        mode: the paper's thresholds: "quality" 0.7 and 0.5, "speed" 0.5 and 0.
    """
    one_of("mode", mode, tuple(MODES))
    fill, edit = MODES[mode]
    return Method(
        name="llada2.1",
        cache="dual",
        commit=Threshold(threshold=fill),
        edit=Edit(threshold=edit),
        stop_at_eos=StopAtEos(),
    )


# The published decoder: nothing is kept.
official = published(llada2_1, stop_at_eos=StopAtEos(check="after each finished block"), settings={"cache": "none"})
