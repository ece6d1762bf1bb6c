"""Results on their way from the device to the host: a ring of pinned buffers, none of which is waited for or made anew."""

from collections.abc import Sequence

import torch
from torch import Tensor

TURNS = 3  # two steps may be on their way while a third is read


class Ring:
    """The buffers of one device; on a CPU there are none, because numbers are where they are read."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers = [torch.empty(0, dtype=torch.int64)] * TURNS
        self._turn = 0

    def to_host(self, parts: Sequence[Tensor]) -> tuple[Tensor, torch.cuda.Event | None]:
        """Numbers, one part behind the other, to be read after the event; until TURNS later ones are asked for."""
        if self._device.type != "cuda":
            whole = parts[0] if len(parts) == 1 else torch.cat(list(parts)) if parts else torch.empty(0, dtype=torch.int64)
            home = whole.cpu()
            return (home.clone() if home is whole else home), None  # the next step writes its numbers where these are
        self._turn = (self._turn + 1) % TURNS
        size = sum(part.numel() for part in parts)
        if self._buffers[self._turn].numel() < size:
            self._buffers[self._turn] = torch.empty(2 * size, dtype=torch.int64, pin_memory=True)
        host = self._buffers[self._turn][:size]
        for part, place in zip(parts, torch.split(host, [part.numel() for part in parts]), strict=True):
            place.copy_(part, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return host, event
