"""The objective of a fine-tuning as a value: which tokens are masked, which are asked, and the weight of each.

The functions behind it are pure (train/noise.py, train/loss.py); train/batches.py applies them to the rows of a step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from unmask.decode.settings import number, whole
from unmask.decode.spec import ModelSpec
from unmask.errors import ConfigError, unknown
from unmask.train import noise

BLOCK = 32  # R2-dLLM's
WORDS = {
    "objective": ("block", "masked"),
    "window": ("block", "group", "answer"),
    "pattern": ("random", "trajectory", "decode"),
}


class Rows(NamedTuple):
    """Examples as tensors.

    Attributes:
        tokens_BT: ids, EOS to the end.
        answer_BT: bool, may be masked: every answer, and the EOS behind the last one.
        blocks_B: blocks of the last answer up to the one that holds the first EOS.
        steps_BT: the forward, from 1, that wrote each token; 0 where none is known.
    """

    tokens_BT: Tensor
    answer_BT: Tensor
    blocks_B: Tensor
    steps_BT: Tensor


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The settings of the objective; the defaults are R2-dLLM's (arXiv 2604.18995, section 5.2).

    Attributes:
        objective: "block" (section 5.2) or "masked" (1/t), which takes none of the settings up to `near`.
        block_length: None is the model's own, or 32 if it has none. A list is gone through in equal parts of the run
            (d3LLM: 16, 16, 24, 24, 32, 32).
        mask_rate: share of the asked tokens that is masked. Two numbers are a range, from which each row draws; its tokens
            are then weighted by the share that was really masked, so that a rate near 0 adds no variance.
        rising: the low end of the range rises over the run, linearly, to the high end (d3LLM: 0 to 0.8).
        complementary: a batch has two views of every example; the second one masks what the first one shows.
        window: what is asked at once: one "block" after clean ones; a "group" of blocks whose rates rise along it
            (MultiTF's, `mask_rate` does not count there), or which the model decodes together (`pattern: decode`); or the
            whole "answer" up to the block of the first EOS. The latter two train for decoding several blocks at once. A
            block-causal model is asked about all blocks in any case.
        group: most blocks of a group.
        pattern: which tokens are masked: "random" ones, or those that were masked in the "trajectory" of the answer's own
            decode when a share 1 - rate was written (d3LLM); the data must say which forward wrote each token. Or those that
            a "decode" by the model as it is now leaves: of everything that is asked, masked at first, it writes its own
            tokens, wrong ones too, for 0 to `decode_forwards` forwards, and is asked for the rest (`mask_rate` does not count).
        decode_forwards: most forwards of that decode; each row draws its number.
        decode_threshold: confidence from which they write, and the surest token in any case.
        near: tokens that the trajectory writes within so many forwards are learnt from the answer, all later ones from the
            distribution of the frozen base model (TAD: 8); None: all from the answer.
        on_policy: the share of rows whose asked masks the model first fills with its own most probable tokens, in a
            forward without gradient, before it is asked for the right ones (DMax, OPUT).
        wrong: the share of visible tokens of the window that are shown wrongly and asked, with weight 1 (LLaDA2.1, T2T).
        certainty: the weight of the entropy, at temperature 0.5, of asked tokens that are predicted rightly, beside the
            cross-entropy (dParallel: 2).
    """

    objective: Literal["block", "masked"] = "block"
    block_length: int | Sequence[int] | None = None
    mask_rate: float | Sequence[float] = 0.5
    rising: bool = False
    complementary: bool = True
    window: Literal["block", "group", "answer"] = "block"
    group: int = 4
    pattern: Literal["random", "trajectory", "decode"] = "random"
    decode_forwards: int = 4
    decode_threshold: float = 0.9
    near: int | None = None
    on_policy: float = 0.0
    wrong: float = 0.0
    certainty: float = 0.0

    def __post_init__(self) -> None:
        for name, known in WORDS.items():
            if getattr(self, name) not in known:
                raise unknown(name, str(getattr(self, name)), known)
        for length in self.block_length if isinstance(self.block_length, Sequence) else [self.block_length]:
            whole("block_length", length, 1)
        ends = self.rates
        if len(ends) not in (1, 2) or not all(0 <= rate < 1 for rate in ends) or not ends[-1] or list(ends) != sorted(ends):
            raise ConfigError(f"mask_rate must be between 0 and 1, or a range [low, high] of that, got {self.mask_rate}")
        whole("group", self.group, 1, required=True)
        whole("near", self.near, 0)
        whole("decode_forwards", self.decode_forwards, 1, required=True)
        number("decode_threshold", self.decode_threshold, 0.0, 1.0)
        number("on_policy", self.on_policy, 0.0, 1.0)
        number("wrong", self.wrong, 0.0, 1.0)
        number("certainty", self.certainty, 0.0, 100.0)
        self._check_together()

    def _check_together(self) -> None:
        block, fixed = self.objective == "block", not isinstance(self.mask_rate, Sequence)
        decode = self.pattern == "decode"
        for odd, said in (
            (self.rising and fixed, "rising needs a range: mask_rate: [0.0, 0.8]"),
            (self.window == "group" and self.complementary, "window: group takes complementary: false"),
            (self.window == "group" and self.pattern == "trajectory", "window: group takes pattern: random or decode"),
            (self.near is not None and self.pattern != "trajectory", "near takes pattern: trajectory"),
            (not block and self.window != "block", f"window: {self.window} takes objective: block"),
            (not block and self.pattern != "random", f"pattern: {self.pattern} takes objective: block"),
            (decode and self.complementary, "pattern: decode takes complementary: false"),
            (decode and self.on_policy > 0, "pattern: decode is on-policy already: leave on_policy out"),
            (decode and self.wrong > 0, "pattern: decode shows the model's own wrong tokens: leave wrong out"),
        ):
            if odd:
                raise ConfigError(said)

    @property
    def rates(self) -> tuple[float, ...]:
        """The masking rate, or both ends of its range."""
        return tuple(self.mask_rate) if isinstance(self.mask_rate, Sequence) else (self.mask_rate,)

    def block(self, spec: ModelSpec) -> int:
        """The block length of this training, the longest of several.

        Raises ConfigError if it is not that of a block-causal model.
        """
        if spec.block is not None and self.block_length not in (None, spec.block):
            raise ConfigError(f"block_length {self.block_length}: the model has blocks of {spec.block} tokens; leave it out")
        longest = max(self.block_length) if isinstance(self.block_length, Sequence) else self.block_length
        return spec.block or longest or BLOCK

    def hide(self, rows: Rows, spec: ModelSpec, generator: torch.Generator, progress: float = 0.0) -> noise.Hidden:
        """Mask some rows: one view of each, or all first views and then all second ones.

        `progress` is the part of the run that is done, 0 to 1. Under full attention a row of several answers is asked about
        one of them, and everything behind that is masked.
        """
        behind_BT = None
        if spec.block is None:
            turn_BT, behind_BT, blocks_B = noise.draw_answer(rows.answer_BT, self.block(spec), rows.blocks_B, generator)
            rows = rows._replace(answer_BT=turn_BT, blocks_B=blocks_B)
        made, asked_BT = self._masked(rows, spec, generator, progress)
        views = len(made.total_B) // len(asked_BT)
        if behind_BT is not None:
            made = made._replace(hidden_BT=made.hidden_BT | behind_BT.repeat(views, 1))
        if self.wrong:
            tokens_BT, answer_BT = rows.tokens_BT.repeat(views, 1), rows.answer_BT.repeat(views, 1)
            visible_BT = asked_BT.repeat(views, 1) & ~made.hidden_BT
            shown_BT, wrong_BT = noise.wrong_tokens(tokens_BT, answer_BT, visible_BT, self.wrong, generator)
            made = made._replace(shown_BT=shown_BT, weight_BT=made.weight_BT + wrong_BT)
        if self.on_policy:
            made = made._replace(own_B=torch.rand(made.total_B.shape, generator=generator) < self.on_policy)
        return made._replace(certain_B=self.certainty * made.total_B) if self.certainty else made

    def _masked(self, rows: Rows, spec: ModelSpec, generator: torch.Generator, progress: float) -> tuple[noise.Hidden, Tensor]:
        """The masks of the rows' views, and the tokens that all views of a row ask together, bool [B, T]."""
        if self.objective == "masked":
            return noise.masked(rows.answer_BT, generator), rows.answer_BT
        length, blocks_B = self._blocks(rows, spec, progress)
        if self.window == "group":
            return self._group(rows.answer_BT, length, blocks_B, spec, generator)
        if spec.block is not None:
            asked_BT, later_BT = rows.answer_BT, torch.zeros_like(rows.answer_BT)
        elif self.window == "answer":
            asked_BT, later_BT = noise.first_blocks(rows.answer_BT, length, blocks_B)
        else:
            asked_BT, later_BT = noise.draw_block(rows.answer_BT, length, blocks_B, generator)
        if self.pattern == "decode":
            return self._decoded(asked_BT, later_BT, generator), asked_BT
        rate = self._rate(len(asked_BT), generator, progress)
        if self.pattern == "random":
            return noise.views(asked_BT, later_BT, rate, generator, complementary=self.complementary), asked_BT
        if not (rows.steps_BT * rows.answer_BT).any(dim=1).all():
            raise ConfigError("pattern: trajectory needs answers with `steps`: collect them anew with `unmask train collect`")
        state_T = torch.arange(asked_BT.shape[1]) // (spec.block or asked_BT.shape[1])
        order = noise.Trajectory.of(asked_BT, rows.steps_BT, state_T.expand_as(asked_BT))
        first_BT = order.masked(torch.as_tensor(rate))
        made = noise.known_views(asked_BT, later_BT, first_BT, complementary=self.complementary)
        return made if self.near is None else noise.split(made, order, first_BT, self.near), asked_BT

    def _decoded(self, asked_BT: Tensor, later_BT: Tensor, generator: torch.Generator) -> noise.Hidden:
        rows = len(asked_BT)
        return noise.Hidden(
            asked_BT | later_BT,
            asked_BT.float(),
            asked_BT.sum(dim=1).float(),
            own_B=torch.ones(rows, dtype=torch.bool),
            forwards_B=torch.randint(self.decode_forwards + 1, (rows,), generator=generator),
            sure_B=torch.full((rows,), self.decode_threshold),
        )

    def _group(
        self, answer_BT: Tensor, length: int, blocks_B: Tensor, spec: ModelSpec, generator: torch.Generator
    ) -> tuple[noise.Hidden, Tensor]:
        begin_BT, later_BT = None, torch.zeros_like(answer_BT)
        if spec.block is None:
            asked_BT, later_BT, group = noise.draw_group(answer_BT, length, blocks_B, self.group, generator)
        else:
            asked_BT, (group, begin_BT) = answer_BT, noise.groups_on_grid(answer_BT, length, self.group, generator)
        if self.pattern == "decode":
            return self._decoded(asked_BT, later_BT, generator)._replace(begin_BT=begin_BT), asked_BT
        first_BT = noise.bernoulli(asked_BT, noise.rising_rates(group, generator), generator)
        made = noise.known_views(asked_BT, later_BT, first_BT, complementary=False)
        return made._replace(begin_BT=begin_BT), asked_BT

    def _blocks(self, rows: Rows, spec: ModelSpec, progress: float) -> tuple[int, Tensor]:
        """The block length at this point of the run, and how many such blocks each answer fills."""
        if not isinstance(self.block_length, Sequence):
            return self.block(spec), rows.blocks_B
        length = self.block_length[min(int(progress * len(self.block_length)), len(self.block_length) - 1)]
        return length, noise.filled_blocks(rows.tokens_BT, rows.answer_BT, length, spec.eos_ids[0])

    def _rate(self, rows: int, generator: torch.Generator, progress: float) -> float | Tensor:
        if not isinstance(self.mask_rate, Sequence):
            return self.mask_rate
        low, high = self.mask_rate
        low += (high - low) * progress * self.rising
        return (low + (high - low) * noise.stratified(rows, generator))[:, None]
