"""What one forward sees and what it recomputes, as plain data.

Shapes: B rows of this forward, Q query tokens a row, R tokens to predict, S slots of key/value memory.
"""

from typing import NamedTuple

from torch import Tensor


class ForwardPlan(NamedTuple):
    """One model call over B rows.

    The tokens handed to the model stand at `positions` (the rotary position ids, gaps allowed). Their fresh keys and
    values are written to `slots` of the pool's `rows`, if there is a pool; then every query attends to the slots that
    `visible` allows. Padded queries write to the pool's last slot, which nobody sees.

    A forward that recomputes everything it sees needs no pool: `slots` is None and `visible` is over its own queries.
    """

    positions_BQ: Tensor  # int64
    read_BR: Tensor  # int64: index into Q of each token whose logits are wanted
    visible: Tensor | None  # bool [B, S] or [B, Q, S] ([B, Q] or [B, Q, Q] without a pool); None: everything
    slots_BQ: Tensor | None = None  # int64
    rows_B: Tensor | None = None  # int64: the pool's rows; None: all of them, in order
