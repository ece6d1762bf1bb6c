"""The reference loop: one prompt, one forward after the other, nothing shared and nothing hidden.

    window -> policy -> assemble -> forward -> decide -> commit, until the answer has ended

Of a block-causal model the keys and values of finished blocks are made final by further queries, along with the first
forward of the next block or, as published, in forwards of their own.

Read it from top to bottom: it needs nothing of the engine, which does the same for many requests at once and is tested
against it. Text, stop strings and limits are the engine's.

Shapes: B is 1, L block length, K states of a block that a forward tries (1 unless drafting), R = K L tokens to predict,
N query tokens, V vocabulary, C model width, E ids that end an answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.context.plan import Query, assemble
from unmask.context.policy import ContextPolicy, RowPlan, Window, clean, keeping, most_slots, policy, sub_block, windows
from unmask.context.pool import KVPool, pages_for
from unmask.decode.constraint import Constraint
from unmask.decode.memory import Memory
from unmask.decode.proposal import Proposal
from unmask.decode.sampling import Sampling
from unmask.decode.step import ENDED, BlockFacts, Outcome, decide, drafts
from unmask.methods.method import Method
from unmask.methods.recipe import Recipe, recipe
from unmask.models.denoiser import Denoiser


class Forward(NamedTuple):
    """One model call: whether it is its block's first, what was handed to the model, and which rule wrote what where."""

    refresh: bool
    query_tokens: list[int]
    committed: list[int]
    tokens: list[int]
    rule: list[str]


class Decoded(NamedTuple):
    """An answer of exactly the tokens asked for, filler behind its end included, and the forwards that it took."""

    token_ids: list[int]
    forwards: list[Forward]


@torch.inference_mode()
def decode(
    model: Denoiser,
    prompt: Sequence[int],
    method: Method,
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float | None = None,
    top_k: int | None = None,
    seed: int = 0,
    fixed: Mapping[int, int] = MappingProxyType({}),
    constraint: Constraint | None = None,
) -> Decoded:
    """Decode one prompt. `fixed` maps offsets in the answer to tokens that stand there from the start.

    Raises ConfigError where the method does not suit the length.

    >>> from unmask.methods import load
    >>> from unmask.models.toy import toy
    >>> made = decode(toy(), [1, 2, 3], load("vanilla", block_length=4), max_new_tokens=4)
    >>> len(made.token_ids), [len(forward.committed) for forward in made.forwards]
    (4, [1, 1, 1, 1])
    """
    settings = recipe(
        method,
        model.spec,
        answer_length=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        head=model.head,
    )
    mask_id = model.spec.mask_id
    blocks = windows(len(prompt), max_new_tokens, settings.length, block=settings.block, lookbehind=settings.lookbehind)
    total = blocks[-1].total
    pool = model.pool(pages_for(most_slots(settings.cache, total, settings.length, settings.branches)))
    row = _Row(
        model=model,
        settings=settings,
        policy=policy(settings.cache, settings.suffix, settings.prompt_interval, block=settings.block),
        tokens=[*prompt, *(fixed.get(offset, mask_id) for offset in range(total - len(prompt)))],
        end=len(prompt) + max_new_tokens,
        sampling=_sampling(settings, temperature, top_p, top_k, seed, model.device),
        pool=pool,
        pages=pool.take(pool.pages),
        forwards=[],
    )
    for window in blocks:
        if row.decode_block(window, constraint) == ENDED:
            break
        constraint = constraint and constraint.after(row.tokens[max(window.start, window.prompt) : window.end])
    answer = row.tokens[len(prompt) : len(prompt) + max_new_tokens]
    return Decoded(_cut(answer, settings, mask_id, fixed, end=window.end - len(prompt)), row.forwards)


@dataclass(kw_only=True)
class _Row:
    """The prompt and its answer, which ends at `end`, and how they are decoded."""

    model: Denoiser
    settings: Recipe
    policy: ContextPolicy
    tokens: list[int]
    end: int
    sampling: Sampling | None  # of a block at the start of the answer
    pool: KVPool  # of keys and values
    pages: tuple[int, ...]
    forwards: list[Forward]
    kept: int = 0  # slots whose keys and values are final
    cached: Window | None = None  # the last block that has been queried whole

    def decode_block(self, window: Window, constraint: Constraint | None) -> int:
        """Make forwards until nothing of the block is left to do; what `status` says of it then."""
        settings, mask_id, device = self.settings, self.model.spec.mask_id, self.model.device
        facts, narrow = self.facts(window), None
        if constraint is not None:
            prompt = max(0, window.prompt - window.start)
            narrow = partial(constraint.narrow, prompt=prompt, behind=self.tokens[window.end :])
        eos_E = torch.tensor(settings.eos_ids, device=device)
        precision = torch.promote_types(self.model.dtype, settings.precision)
        memories: tuple[Memory, ...] = tuple(
            None if rule.state is None else rule.state.empty(1, settings.length, device, precision) for rule in settings.rules
        )
        left, age = self.block(window).count(mask_id), 0
        last: Proposal | None = None
        if left > 0:
            self.prefill(window)
        # A block that is complete when it begins takes no forward; rules that edit may go on when it is complete.
        while left not in (0, ENDED) or (settings.anchored and age == 1):
            states_BKL = torch.tensor([[self.block(window)]], device=device)
            if settings.branches > 1 and last is not None:  # guess the next states from the evidence of the forward before
                count = min(settings.branches, max(1, left))
                states_BKL = drafts(states_BKL[:, 0], last.candidate_BL, last.score_BL, count, mask_id)
            query_tokens, logits_RV, hidden_RC = self.predict(self.queries(window, age, states_BKL.shape[1]), states_BKL)
            outcome, left_B = decide(
                settings,
                logits_RV,
                states_BKL,
                facts,
                memories,
                mask_id=mask_id,
                eos_E=eos_E,
                hidden_RC=hidden_RC,
                narrow=narrow,
            )
            left, age = self.commit(window, age, query_tokens, outcome, int(left_B)), age + 1
            facts, memories, last = facts._replace(step_B=outcome.step_B), outcome.memories, outcome.last
        if age > 0:
            self.close(window, left)
        return left

    def block(self, window: Window) -> list[int]:
        return self.tokens[window.start : window.end]

    def facts(self, window: Window) -> BlockFacts:
        """Of the block before its first step."""
        device, offset = self.model.device, window.start - window.prompt
        return BlockFacts(
            fixed_BL=torch.tensor([self.block(window)], device=device) != self.model.spec.mask_id,
            step_B=torch.zeros(1, dtype=torch.int64, device=device),
            suffix_B=torch.tensor([len(self.policy(window, 0).positions) - window.end], device=device),
            sampling=self.sampling and self.sampling._replace(positions_BL=self.sampling.positions_BL + offset),
        )

    def has_enough(self) -> bool:
        """Whether the answer is complete, though the last block may not be."""
        settings = self.settings
        if settings.whole or settings.edits:
            return False
        return self.model.spec.mask_id not in self.tokens[: self.end]

    def keeping(self, end: int) -> RowPlan | None:
        """What makes the keys and values up to there final, as far as one forward does."""
        settings = self.settings
        if settings.block is None or settings.keeping is None:
            return None
        return keeping(self.kept, end, block=settings.block, how=settings.keeping, room=None)

    def prefill(self, window: Window) -> None:
        """Forwards of their own before a block's first, where they are not to go along with it."""
        settings = self.settings
        if settings.keeping in ("own", "one by one"):
            if settings.seed is None or self.tokens[window.start] != self.model.spec.mask_id:
                self.remember(window.start)
            elif settings.keeping == "one by one":
                self.remember(window.start - settings.length)

    def remember(self, end: int) -> None:
        """Forwards that make the keys and values up to `end` final and decide nothing."""
        while self.kept < end and (plan := self.keeping(end)) is not None:
            self.encode(plan, refresh=True)

    def encode(self, plan: RowPlan, *, refresh: bool) -> None:
        """One such forward."""
        query = self.query(plan, start=plan.query.start, length=0)
        tokens_N, joined = assemble([query], device=self.model.device)
        self.model.states(tokens_N, joined, self.pool)
        self.kept = plan.query.stop
        self.forwards.append(Forward(refresh, tokens_N.tolist(), [], [], []))

    def close(self, window: Window, left: int) -> None:
        """A published loop's forwards on the finished block, the last one of an answer too."""
        settings = self.settings
        if settings.closes and not (left == ENDED and settings.ending in ("first", "written")):
            for _ in range((self.kept < window.end) + settings.confirms):
                self.encode(clean(window.start, window.end, settings.length), refresh=False)

    def queries(self, window: Window, age: int, states: int) -> list[Query]:
        """What the block's next forward asks for, with this many states of the block."""
        settings, plan = self.settings, self.policy(window, age)
        if settings.sub_block is not None and self.cached == window:
            plan = sub_block(plan, window, self.block(window), settings.sub_block, self.model.spec.mask_id)
        kept = self.keeping(window.start) if age == 0 else None
        own = self.query(plan, start=window.start, length=settings.length)._replace(states=states)
        if kept is None:
            self.cached = window
            return [own]
        self.kept = window.start
        if settings.seed == "alone":
            own = own._replace(plan=plan._replace(query=slice(window.start, window.start)), tokens=())
        else:
            self.cached = window
        return [self.query(kept, start=kept.query.start, length=0), own._replace(follows=True)]

    def query(self, plan: RowPlan, *, start: int, length: int) -> Query:
        tokens = [self.tokens[position] for position in plan.queried]
        return Query(plan=plan, tokens=tokens, start=start, length=length, pages=self.pages, copies=len(self.tokens))

    def predict(self, queries: list[Query], states_BKL: Tensor) -> tuple[list[int], Tensor, Tensor | None]:
        """One forward over these states of the block: the tokens handed to the model, logits [R, V], hidden states [R, C]."""
        tokens_N, plan = assemble(queries, device=self.model.device)
        handed = [token for query in queries for token in query.tokens]
        if states_BKL.shape[1] > 1:
            tokens_N[plan.read_R] = states_BKL.flatten()
            handed = tokens_N.tolist()
        return handed, *self.model.predict(tokens_N, plan, self.pool, hidden=self.settings.reads_hidden)

    def commit(self, window: Window, age: int, query_tokens: list[int], outcome: Outcome, left: int) -> int:
        """Write the block and record the forward; what is left to do, which may be nothing though the block is not complete."""
        settings = self.settings
        self.tokens[window.start : window.end] = outcome.window_BL[0].tolist()
        taken = {place: rule for place, rule in enumerate(outcome.taken_BL[0].tolist(), window.start) if rule > 0}
        made = Forward(
            refresh=age == 0,
            query_tokens=query_tokens,
            committed=list(taken),
            tokens=[self.tokens[place] for place in taken],
            rule=[settings.rules[rule - 1].name for rule in taken.values()],
        )
        self.forwards.append(made)
        if settings.finds_final and not taken and left in (0, ENDED):
            self.kept = window.end  # the forward has seen the block as it stays
        return ENDED if self.end < window.end and self.has_enough() else left


def _sampling(
    settings: Recipe, temperature: float, top_p: float | None, top_k: int | None, seed: int, device: torch.device
) -> Sampling | None:
    """The numbers that a block at the start of the answer is sampled with; None takes the most probable token."""
    if settings.sampled is None:
        return None
    return Sampling(
        temperature_B1=torch.tensor([[temperature]], device=device),
        seed_B1=torch.tensor([[seed]], device=device),
        positions_BL=torch.arange(settings.length, device=device)[None],
        top_p_B1=torch.tensor([[top_p]], device=device) if settings.sampled.top_p else None,
        top_k_B1=torch.tensor([[top_k]], device=device) if settings.sampled.top_k else None,
    )


def _cut(answer: list[int], settings: Recipe, mask_id: int, fixed: Mapping[int, int], *, end: int) -> list[int]:
    """The answer up to its end, and filler behind it. It ends before `end` at its first EOS, or with its last block."""
    kept = answer[:end]
    if mask_id in kept:
        kept = kept[: kept.index(mask_id)]
    if settings.ending in ("first", "written"):
        ends = [offset for offset, token in enumerate(kept) if token in settings.ends and offset not in fixed]
        kept = kept[: ends[0] + 1] if ends else kept
    return kept + [settings.filler] * (len(answer) - len(kept))
