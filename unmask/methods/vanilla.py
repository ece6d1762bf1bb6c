"""One token per forward, as LLaDA (arXiv 2502.09992) and Dream (arXiv 2508.15487) decode when speed does not matter.

    unmask.method("vanilla")                                                   # LLaDA: blocks of 32, one token per step
    unmask.method("vanilla", steps=64)                                         # 128 tokens in 64 steps: two per step
    unmask.method("vanilla", schedule="timestep", score="negative_entropy", block_length=None)      # Dream's own

Ours ends a row as soon as everything before its first EOS is there; the official twin decodes all the masks. On Dream,
`schedule="timestep"` with ours commits at least one token per step, which the published schedule does not always.
"""

from typing import Literal

from unmask.decode.proposal import Score
from unmask.decode.rules import Quota, Schedule
from unmask.decode.settings import one_of
from unmask.errors import ConfigError
from unmask.methods.method import Method, published
from unmask.methods.parts import StopAtEos

SCHEDULES = ("even", "timestep")


def vanilla(
    *,
    schedule: Literal["even", "timestep"] = "even",
    score: Score = "confidence",
) -> Method:
    """Rank by `score` (confidence | margin | negative_entropy) and commit as many as the schedule says.

    Args:
        schedule: "even" (LLaDA) or "timestep" (Dream).
        score: what ranks the positions; margin and negative_entropy belong to the timestep schedule.
    """
    one_of("schedule", schedule, SCHEDULES)
    if schedule == "even" and score != "confidence":
        raise ConfigError(f'score {score!r} needs schedule="timestep"')
    commit = Quota() if schedule == "even" else Schedule(score=score)
    return Method(name="vanilla", commit=commit, stop_at_eos=StopAtEos())


# The published decoders, every mask decoded.
official = published(vanilla, stop_at_eos=None)
