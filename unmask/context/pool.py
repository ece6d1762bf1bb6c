"""The only owner of key/value memory: one pair of tensors a layer, written in place, keys already rotated."""

import torch
from torch import Tensor


class KVPool:
    """Keys and values of B rows and S slots; the plan that assigns slots sends padding to one behind those in use.

    A slot is where a token's key lives; its rotary position is baked into the key, so slots may be compact while
    positions have gaps (pruned suffix). Shapes: [B, G, S + 1, D] a layer, the last slot for padding.
    """

    def __init__(
        self, *, layers: int, rows: int, kv_heads: int, slots: int, head_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (rows, kv_heads, slots + 1, head_size)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]

    def write(self, layer: int, k_BGQD: Tensor, v_BGQD: Tensor, slots_BQ: Tensor, rows_B: Tensor | None) -> None:
        """Store fresh keys and values in these slots, in place."""
        rows = torch.arange(slots_BQ.shape[0], device=slots_BQ.device) if rows_B is None else rows_B
        # Two index tensors around a slice put the indexed axes first: [B, Q, G, D].
        self.keys[layer][rows[:, None], :, slots_BQ] = k_BGQD.transpose(1, 2)
        self.values[layer][rows[:, None], :, slots_BQ] = v_BGQD.transpose(1, 2)

    def read(self, layer: int, slots: int, rows_B: Tensor | None) -> tuple[Tensor, Tensor]:
        """Keys and values [B, G, slots, D] of the first `slots` slots: a view if every row is read, else a copy."""
        keys, values = self.keys[layer][:, :, :slots], self.values[layer][:, :, :slots]
        return (keys, values) if rows_B is None else (keys[rows_B], values[rows_B])

    def keep(self, rows: Tensor) -> None:
        """Drop every row but `rows` (int64, in order)."""
        self.keys = [keys[rows] for keys in self.keys]
        self.values = [values[rows] for values in self.values]
