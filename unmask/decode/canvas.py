"""The tokens of a batch while they are being decoded.

Shapes: B rows, T tokens of the longest row, L block length.
"""

import torch
from torch import Tensor


class Canvas:
    """Device state of a batch: each row is its prompt, then the answer, masked at first; shorter rows end in EOS.

    `commit` is the only place that writes a token.
    """

    def __init__(self, prompts: list[list[int]], answer: int, *, mask_id: int, eos_id: int, device: torch.device) -> None:
        """`answer` is the number of masks behind each prompt."""
        longest = max(len(prompt) for prompt in prompts)
        rows = [prompt + [mask_id] * answer + [eos_id] * (longest - len(prompt)) for prompt in prompts]
        self.tokens_BT = torch.tensor(rows, device=device)

    def commit(self, start_B: Tensor, window_BL: Tensor, rows_B: Tensor | None) -> None:
        """Write the blocks that begin at `start_B`; `rows_B` names their rows, None means all in order."""
        index_BL = start_B[:, None] + torch.arange(window_BL.shape[1], device=start_B.device)
        if rows_B is None:
            self.tokens_BT.scatter_(1, index_BL, window_BL)
        else:
            self.tokens_BT[rows_B[:, None], index_BL] = window_BL

    def keep(self, rows_B: Tensor) -> None:
        """Drop every row but these (int64, in order)."""
        self.tokens_BT = self.tokens_BT[rows_B]
