"""The parts of a method that are no rules: what it sees, when it stops, what it guesses."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from unmask.decode.settings import Part, choice_field, flag_field, ids_field, number_field, whole_field

CacheName = Literal["none", "prefix", "dual", "block"]
Check = Literal["every step", "every step that writes one", "after each finished block", "after a block of nothing else"]
Match = Literal["exact", "subset"]

PRICE = "it changes the price of a forward"


@dataclass(frozen=True, kw_only=True)
class Suffix(Part):
    """Keep only the `window` next positions behind the block and the last `tail` of the answer."""

    where: ClassVar[str] = "suffix"
    window: int = whole_field(0, default=32, search=(0, 128))
    tail: int = whole_field(0, default=1, search=PRICE)


@dataclass(frozen=True, kw_only=True)
class Refresh(Part):
    """Recompute the prompt's keys and values only at the start of every `prompt_interval`-th block; None: of the first."""

    where: ClassVar[str] = "refresh"
    prompt_interval: int | None = whole_field(1, default=None, none="value", search=PRICE)


@dataclass(frozen=True, kw_only=True)
class DynamicThreshold(Part):
    """Let the threshold fall by this share as the block fills."""

    where: ClassVar[str] = "dynamic_threshold"
    alpha: float = number_field(0.0, 1.0, default=0.0, search=(0.0, 0.6))


@dataclass(frozen=True, kw_only=True)
class StopAtEos(Part):
    """When to look whether the answer has ended. `eos_id` is a token id or a tuple of some; None: the model's own ids.

    >>> StopAtEos(eos_id=[7, 9]).ids((2,)), StopAtEos().ids((2,))
    ((7, 9), (2,))
    """

    where: ClassVar[str] = "stop_at_eos"
    check: Check = choice_field(*get_args(Check), default="every step")
    eos_id: int | tuple[int, ...] | None = ids_field(default=None, none="unset")

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.eos_id, list):
            object.__setattr__(self, "eos_id", tuple(self.eos_id))

    def ids(self, own: tuple[int, ...]) -> tuple[int, ...]:
        """The ids that end an answer; `own` are the model's."""
        return own if self.eos_id is None else self.eos_id if isinstance(self.eos_id, tuple) else (self.eos_id,)


@dataclass(frozen=True, kw_only=True)
class SubBlocks(Part):
    """Decode a block in sub-blocks of `length` tokens, one after the other (Fast-dLLM v2, arXiv 2509.26328).

    Attributes:
        length: tokens per sub-block; the last one of a block may be shorter.
        cache: whether only a sub-block's first forward queries the whole block, and its others the sub-block alone. Not
            exact: the keys and values of the block's other sub-blocks go stale.
    """

    where: ClassVar[str] = "sub_blocks"
    length: int = whole_field(1, default=8, search=PRICE)
    cache: bool = flag_field(default=False)


@dataclass(frozen=True, kw_only=True)
class Draft(Part):
    """FreeDave: guess up to `steps` states of the block and check all of them in one forward."""

    where: ClassVar[str] = "draft"
    steps: int = whole_field(1, default=4, search=PRICE)
    match: Match = choice_field(*get_args(Match), default="exact")
