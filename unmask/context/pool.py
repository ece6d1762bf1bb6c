"""The only owner of key/value memory: pages that rows hold and give back, written in place, keys already rotated.

A page may have several holders: rows that begin alike, and the index that finds it again (context/prefix_cache.py). It is
free when the last of them has given it back.
"""

import bisect

import torch
from torch import Tensor

from unmask.kernels.paged import as_bytes

PAGE = 16  # slots; a row wastes less than a page, and a free list counts pages


def pages_for(slots: int) -> int:
    """Pages that hold this many slots.

    >>> pages_for(0), pages_for(16), pages_for(17)
    (0, 1, 2)
    """
    return -(-slots // PAGE)


class KVPool:
    """Keys and values of a bounded number of slots, [slots, G, D] per layer, shared by rows of any length.

    A slot is where a token's key lives; its rotary position is baked into the key, so a row's slots may be compact while
    its positions have gaps (pruned suffix), and its pages may lie anywhere. Rows that come or go move no other row's keys.
    """

    def __init__(
        self,
        *,
        layers: int,
        pages: int,
        kv_heads: int,
        head_size: int,
        dtype: torch.dtype,
        device: torch.device,
        stored: torch.dtype | None = None,
    ) -> None:
        """`dtype` is the type of what is read; `stored` the one in which it lies, if that is another."""
        self.pages, self.dtype = pages, dtype
        self.scratch = pages  # one more, never lent: what pads a batch writes there, and it is never read
        shape = ((pages + 1) * PAGE, kv_heads, head_size)
        self.keys = [torch.zeros(shape, dtype=stored or dtype, device=device) for _ in range(layers)]
        self.values = [torch.zeros(shape, dtype=stored or dtype, device=device) for _ in range(layers)]
        self._free = list(range(pages))  # in rising order
        self._holders = [0] * pages

    @property
    def free(self) -> int:
        """Pages without a holder."""
        return len(self._free)

    def holders(self, page: int) -> int:
        """How many hold a page."""
        return self._holders[page]

    def take(self, pages: int) -> tuple[int, ...]:
        """Hand out this many free pages, to one holder; the caller knows that they are there.

        In one piece where there is one, the first that is long enough: what lies in one piece is read where it lies.
        """
        assert pages <= self.free, "more pages than are free"
        free = self._free
        lengthy = (begin for begin in range(len(free) - pages + 1) if free[begin + pages - 1] - free[begin] == pages - 1)
        begin = next(lengthy, 0) if pages else 0
        taken = tuple(free[begin : begin + pages])
        del free[begin : begin + pages]
        for page in taken:
            self._holders[page] = 1
        return taken

    def hold(self, pages: tuple[int, ...]) -> None:
        """One holder more of each of these pages, which have one already."""
        for page in pages:
            assert self._holders[page] > 0, "a free page is taken, not held"
            self._holders[page] += 1

    def give(self, pages: tuple[int, ...]) -> None:
        """One holder fewer of each; without a holder a page is free, and overwritten by the next before it is read."""
        for page in pages:
            assert self._holders[page] > 0, "a page is given back once per holder"
            self._holders[page] -= 1
            if self._holders[page] == 0:
                bisect.insort(self._free, page)

    def clear(self, pages: tuple[int, ...]) -> None:
        """Forget what these pages of one holder hold: masked slots are read with weight 0, and 0 times NaN is NaN."""
        own = [page for page in pages if self._holders[page] == 1]
        for whole in (*self.keys, *self.values):
            as_bytes(whole).view(self.pages + 1, -1)[own] = 0

    def view(self, layer: int, *, begin: int, slots: int, rows: int = 1, apart: int = 0) -> tuple[Tensor, Tensor]:
        """The keys and values of rows that lie in one piece each, [B, G, S, D], where they are if they are stored as read.

        The first row's slots begin at `begin`, each further one's `apart` later.
        """

        def rows_of(whole: Tensor) -> Tensor:
            slot, head, channel = whole.stride()
            seen = whole.as_strided(
                (rows, whole.shape[1], slots, whole.shape[2]), (apart * slot, head, slot, channel), begin * slot
            )
            return seen.to(self.dtype)

        return rows_of(self.keys[layer]), rows_of(self.values[layer])

    def read(self, layer: int, slots_BS: Tensor) -> tuple[Tensor, Tensor]:
        """Copies of the keys and values in these slots, [B, G, S, D]."""
        rows, slots = slots_BS.shape
        keys, values = (whole[layer].index_select(0, slots_BS.flatten()).to(self.dtype) for whole in (self.keys, self.values))
        return (
            keys.view(rows, slots, *keys.shape[1:]).transpose(1, 2),
            values.view(rows, slots, *values.shape[1:]).transpose(1, 2),
        )
