"""Block-causal decoding written plainly, without the engine: what benchmarks/block.py measures ours against.

Shapes: B rows, L block length, K tokens per step, Q queried tokens of a row, S slots, V vocabulary; H query heads, G
key/value heads, D head size, C model width, R rotated channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from unmask.models.attention import rotary, rotate
from unmask.models.denoiser import Denoiser


class Plain:
    """The loop without an engine: rows in step, each with dense keys and values whose slots are positions."""

    def __init__(self, model: Denoiser, prompts: Sequence[list[int]], *, new_tokens: int, steps: int) -> None:
        """`steps` are those of a block, each of which commits as many tokens as the others."""
        assert model.spec.block is not None
        block = self.block = model.spec.block
        self.model, self.mask_id, self.steps = model, model.spec.mask_id, steps
        self.shape, self.parts = model.network.shape, [layer.parts() for layer in model.network.blocks()]
        self.starts_B = torch.tensor([len(prompt) // block * block for prompt in prompts])
        self.rounds = max(-(-(len(prompt) % block + new_tokens) // block) for prompt in prompts)
        self.slots = int(self.starts_B.max()) + self.rounds * block
        self.tokens_BS = torch.full((len(prompts), self.slots), self.mask_id)
        for row, prompt in enumerate(prompts):
            self.tokens_BS[row, : len(prompt)] = torch.tensor(prompt)
        past = (len(prompts), self.slots, self.shape.kv_heads, self.shape.head_size)
        self.keys, self.values = ([torch.zeros(past) for _ in self.parts] for _ in range(2))
        self.query_tokens = 0

    def decode(self) -> Tensor:
        """Prefill, then one block of every row per round; the tokens [B, S]."""
        self.hidden(torch.arange(int(self.starts_B.max())).expand(len(self.starts_B), -1))
        for number in range(self.rounds):
            positions_BL = self.starts_B[:, None] + number * self.block + torch.arange(self.block)
            step = 0
            while (self.tokens_BS.gather(1, positions_BL) == self.mask_id).any():
                self.commit(positions_BL, self.model.network.project(self.hidden(positions_BL)), step)
                step += 1
            self.hidden(positions_BL)  # the keys and values of the finished block
        return self.tokens_BS

    def commit(self, positions_BL: Tensor, logits_BLV: Tensor, step: int) -> None:
        """Write the step's quota of each block, the surest first."""
        confidence_BLV = logits_BLV.softmax(-1)
        confidence_BLV[..., self.mask_id] = 0
        confidence_BL, candidate_BL = confidence_BLV.max(-1)
        block_BL = self.tokens_BS.gather(1, positions_BL)
        confidence_BL[block_BL != self.mask_id] = -1
        base, surplus = divmod(self.block, self.steps)
        best_BK = confidence_BL.topk(base + (step < surplus), dim=1).indices
        taken_BL = torch.zeros_like(block_BL, dtype=torch.bool).scatter(1, best_BK, True) & (block_BL == self.mask_id)
        self.tokens_BS.scatter_(1, positions_BL, torch.where(taken_BL, candidate_BL, block_BL))

    def hidden(self, positions_BQ: Tensor) -> Tensor:
        """One forward of the tokens there, whose keys and values are stored; their last states [B, Q, C]."""
        network, seen = self.model.network, int(positions_BQ.max()) + 1
        self.query_tokens += positions_BQ.numel()
        mask_B1QS = (torch.arange(seen) // self.block <= positions_BQ[..., None] // self.block)[:, None]
        mask = None if mask_B1QS.all() else mask_B1QS
        x = network.embed(self.tokens_BS.gather(1, positions_BQ))
        cos_BQR, sin_BQR = rotary(positions_BQ, self.shape.rotary, self.shape.theta, x.dtype)
        for number, parts in enumerate(self.parts):
            q, k, v = (heads.unflatten(-1, (-1, parts.head_size)) for heads in parts.qkv(parts.attention_norm(x)))
            q, k = parts.q_norm(q), parts.k_norm(k)
            q, k = (rotate(heads.transpose(1, 2), cos_BQR, sin_BQR) for heads in (q, k))
            attended_BHQD = self.attend(number, q, k.transpose(1, 2), v, positions_BQ, mask)
            x = x + parts.o(attended_BHQD.transpose(1, 2).flatten(2))
            x = x + parts.feed_forward(parts.mlp_norm(x))
        normed: Tensor = network.final_norm()(x)
        return normed

    def attend(
        self, number: int, q: Tensor, k_BQGD: Tensor, v_BQGD: Tensor, positions_BQ: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Store a layer's keys and values and attend to all that each row may see."""
        rows_B1, seen = torch.arange(len(positions_BQ))[:, None], int(positions_BQ.max()) + 1
        self.keys[number][rows_B1, positions_BQ], self.values[number][rows_B1, positions_BQ] = k_BQGD, v_BQGD
        k, v = (past[number][:, :seen].transpose(1, 2) for past in (self.keys, self.values))
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
