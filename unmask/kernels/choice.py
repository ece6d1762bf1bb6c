"""Whether the kernels run on a card: by what it can do, and no longer where one of them has failed. The plain form always does.

What a card cannot run is known before the first launch (`unfit`). What only a launch shows (a driver older than the compiler,
a tile that does not fit after all) is said by whoever launched (`give_up`), and from then on this process does without.
"""

import importlib.util
import warnings
from typing import NamedTuple

import torch

OLDEST = (7, 5)  # what Triton compiles for
# Bytes of shared memory that the largest tile of a kernel takes, heads of up to 128 channels, by bytes of a number: what the
# compiler says for cards before sm_90, which have less of it.
SHARED = {2: 86_016, 4: 73_728}


class Card(NamedTuple):
    """What matters of a GPU.

    Attributes:
        capability: major and minor.
        shared: bytes of shared memory that one program may have.
        hip: whether it is AMD's, for which no kernel of ours was made.
    """

    capability: tuple[int, int]
    shared: int
    hip: bool = False

    @classmethod
    def of(cls, device: torch.device) -> "Card":
        """The card at hand."""
        facts = torch.cuda.get_device_properties(device)
        shared = getattr(facts, "shared_memory_per_block_optin", facts.shared_memory_per_block)  # AMD's have no optin
        return cls((facts.major, facts.minor), shared, torch.version.hip is not None)


def unfit(card: Card, dtype: torch.dtype, *, triton: bool = True) -> str | None:
    """Why the kernels do not run there on numbers of this type; None: they do.

    >>> unfit(Card((9, 0), 232_448), torch.bfloat16), unfit(Card((8, 6), 101_376), torch.bfloat16)
    (None, None)
    >>> unfit(Card((7, 5), 65_536), torch.float32)
    'float32 needs 73728 bytes of shared memory per program, and the card has 65536'
    """
    if card.hip:
        return "they are written for NVIDIA's cards"
    if not triton:
        return "Triton is not installed"
    if card.capability < OLDEST:
        return (
            f"they need compute capability {OLDEST[0]}.{OLDEST[1]}, and the card has {card.capability[0]}.{card.capability[1]}"
        )
    needed = SHARED.get(dtype.itemsize, 0)
    if card.shared < needed:
        name = str(dtype).removeprefix("torch.")
        return f"{name} needs {needed} bytes of shared memory per program, and the card has {card.shared}"
    return None


_verdicts: dict[tuple[torch.device, torch.dtype], str | None] = {}


def runs(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels run on that device on numbers of this type; where they do not, one warning says why.

    Those that only count (on whole numbers) do without where any type was given up: they belong to forwards of that type.
    """
    key = device, dtype
    if key not in _verdicts:
        why = unfit(Card.of(device), dtype, triton=importlib.util.find_spec("triton") is not None)
        _verdicts[key] = None
        if why is not None:
            give_up(device, dtype, why)
    if dtype.is_floating_point:
        return _verdicts[key] is None
    return all(why is None for (place, _), why in _verdicts.items() if place == device)


def give_up(device: torch.device, dtype: torch.dtype, why: str) -> None:
    """Do without them there from now on, and say so."""
    _verdicts[device, dtype] = why
    warnings.warn(f"no kernels on {device} in {dtype}, plain PyTorch instead, which is slower: {why}", stacklevel=2)
