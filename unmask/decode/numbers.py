"""The numbers of a decision as data: rows that differ in nothing else decide together, each by numbers of its own. Pure.

    Threshold(threshold=0.9)    as a row has it                      -> 0.9                                      `numbers`
    Threshold(threshold=real)   what it has in common with others    -> they decide in one batch, as one graph   `structure`
    Threshold(threshold=[B, 1]) as it runs for all of them                                                       `of_rows`

Which settings of a rule may be columns the rule says (`per_row`); all others are structure. A setting that is None, False or
0 turns something off, so that it stays as it is too.

Shapes: B rows, F numbers.
"""

import copy
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from unmask.decode.around import Around
from unmask.decode.settings import Kind
from unmask.decode.step import StepSettings

MOST = 16  # numbers of a method; the presets have up to ten


@dataclass(frozen=True)
class PerRow:
    """What stands for a number that each row has its own of."""

    kind: Kind


Settings = TypeVar("Settings", bound=StepSettings)
_Change = Callable[[Any, Kind], Any]


def bits(number: float) -> int:
    """A real number's bits as float64 has them, so that it can stand among whole numbers.

    >>> bits(1.0) == 0x3FF0000000000000
    True
    """
    (whole,) = struct.unpack("<q", struct.pack("<d", number))
    return int(whole)


def numbers(settings: StepSettings) -> list[int]:
    """The numbers in their order, as many as `structure` leaves out: whole ones as they are, real ones as their bits.

    >>> from unmask.decode.rules import Quota, Threshold
    >>> numbers(StepSettings(rules=(Threshold(threshold=0.8), Quota(steps=4)))) == [bits(0.8), 4]
    True
    """
    found: list[int] = []

    def note(value: Any, kind: Kind) -> Any:
        found.append(int(value) if kind == "whole" else bits(value))
        return value

    _changed(settings, note)
    return found[:MOST]


def structure(settings: Settings) -> Settings:
    """The settings without their numbers.

    >>> from unmask.decode.rules import Threshold
    >>> one, other = (StepSettings(rules=(Threshold(threshold=number),)) for number in (0.7, 0.9))
    >>> structure(one) == structure(other)
    True
    """
    left = iter(range(MOST))

    def drop(value: Any, kind: Kind) -> Any:
        return PerRow(kind) if next(left, None) is not None else value

    return _changed(settings, drop)


def of_rows(settings: Settings, numbers_FB: Tensor, precision: torch.dtype) -> Settings:
    """A structure with the numbers of rows, int64 [F, B], as columns: real ones in the precision of confidences.

    Of several blocks at once a rule sees every block as a row, so that its columns are [B N, 1].
    """
    count = settings.blocks.count
    exact_FB = numbers_FB.contiguous().view(torch.float64)
    real_FB = exact_FB.to(precision)
    place = iter(range(len(numbers_FB)))

    def column(value: Any, kind: Kind) -> Any:
        if not isinstance(value, PerRow):
            return value
        column_B = (numbers_FB if kind == "whole" else real_FB)[next(place)]
        return (column_B if count == 1 else column_B.repeat_interleave(count))[:, None]

    def share(value: Any, kind: Kind) -> Any:  # of a window's blocks, compared in float64 as on the host
        return exact_FB[next(place)][:, None] if isinstance(value, PerRow) else value

    return _changed(settings, column, share)


def _changed(settings: Settings, change: _Change, share: _Change | None = None) -> Settings:
    """A copy whose numbers are changed in turn: those of the rules, then those of several blocks by `share`, if they differ."""
    made = copy.copy(settings)
    object.__setattr__(made, "rules", tuple(_swapped(rule, change) for rule in settings.rules))
    if settings.blocks.count > 1:
        object.__setattr__(made, "blocks", _swapped(settings.blocks, share or change))
    return made


def _swapped(part: Any, change: _Change) -> Any:
    """A copy of a rule, or of what has numbers, whose bounds are not looked at again."""
    per_row: Mapping[str, Kind] = part.per_row
    made = copy.copy(part)
    for name, kind in per_row.items():
        if (value := getattr(part, name)) not in (None, 0):
            object.__setattr__(made, name, change(value, kind))
    if isinstance(part, Around):
        object.__setattr__(made, "rule", _swapped(part.rule, change))
    return made
