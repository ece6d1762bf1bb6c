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
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.context.plan import Query, assemble
from unmask.context.policy import ContextPolicy, RowPlan, Window, clean, keeping, most_slots, policy, sub_block, windows
from unmask.context.pool import KVPool, pages_for
from unmask.decode.advance import Outcome, drafts
from unmask.decode.constraint import Constraint, Placed, held
from unmask.decode.forced import Forced
from unmask.decode.holes import GIVEN, Gap, first_end, kinds, unneeded
from unmask.decode.memory import Memory
from unmask.decode.sampling import Sampling
from unmask.decode.step import BROKEN, ENDED, BlockFacts, decide
from unmask.errors import LogitsError
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
    gaps: Sequence[Gap] = (),
) -> Decoded:
    """Decode one prompt. `fixed` maps offsets in the answer to tokens that stand there from the start, around the `gaps`.

    Raises ConfigError where the method does not suit the length, and LogitsError where a forward has no numbers.

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
        holes=bool(gaps),
        constrained=constraint is not None,
    )
    mask_id = model.spec.mask_id
    length, count = settings.length, settings.blocks.count
    parts = windows(len(prompt), max_new_tokens, length, block=settings.block, lookbehind=settings.lookbehind, count=count)
    total = parts[-1].total
    tokens = [*prompt, *(fixed.get(offset, mask_id) for offset in range(total - len(prompt)))]
    pool = model.pool(pages_for(most_slots(settings.cache, total, settings.width, settings.branches)))
    row = _Row(
        model=model,
        settings=settings,
        policy=policy(
            settings.cache,
            settings.suffix,
            settings.prompt_interval,
            block=settings.block,
            fixed=sorted(len(prompt) + offset for offset in fixed),
        ),
        windows=parts,
        tokens=tokens,
        kinds=kinds(len(prompt), total, fixed, gaps),
        gaps=gaps,
        left=[tokens[start : start + length].count(mask_id) for start in range(parts[0].start, total, length)],
        end=len(prompt) + max_new_tokens,
        sampling=_sampling(settings, temperature, top_p, top_k, seed, model.device),
        pool=pool,
        pages=pool.take(pool.pages),
        forwards=[],
    )
    for number, window in enumerate(parts):
        if constraint is not None:
            row.fill(number, constraint)
        row.decode_window(number, constraint)
        if row.over:
            break
        constraint = constraint and constraint.after(row.tokens[max(window.start, window.prompt) : window.start + length])
    row.note()
    answer = row.tokens[len(prompt) : len(prompt) + max_new_tokens]
    if gaps:
        return Decoded(_unread(answer, gaps, settings), row.forwards)
    end = row.finished(number) if row.ended(number) else window.end
    return Decoded(_cut(answer, settings, mask_id, fixed, end=end - len(prompt)), row.forwards)


@dataclass(kw_only=True)
class _Row:
    """The prompt and its answer, which ends at `end`, and how they are decoded."""

    model: Denoiser
    settings: Recipe
    policy: ContextPolicy
    windows: tuple[Window, ...]
    tokens: list[int]
    kinds: list[int]  # what may be written at each of them
    gaps: Sequence[Gap]
    left: list[int]  # of each block: masks, or ENDED or UNSETTLED
    end: int
    sampling: Sampling | None  # of a window at the start of the answer
    pool: KVPool  # of keys and values
    pages: tuple[int, ...]
    forwards: list[Forward]
    step_B: Tensor | None = None
    memories: tuple[Memory, ...] = ()
    over: bool = False
    filled: dict[int, int] = field(default_factory=dict)  # places that a constraint has filled in since the last forward
    kept: int = 0  # slots whose keys and values are final
    cached: Window | None = None  # the last window that has been queried whole

    def decode_window(self, number: int, constraint: Constraint | None) -> None:
        """Make forwards until the window moves on: its first block is finished, or all of them if it is the last window."""
        settings, mask_id, device = self.settings, self.model.spec.mask_id, self.model.device
        window, eos_E = self.windows[number], torch.tensor(settings.eos_ids, device=device)
        last, age, placed = None, 0, self.placed(window, constraint)
        held_to = None if placed is None else held([placed])
        self.open(new=number == 0)
        if self.stays(number):
            self.prefill(window)
        # Blocks that are complete when they begin take no forward; rules that edit may go on when they are complete.
        while self.stays(number) or (settings.anchored and age == 1):
            states_BKL = torch.tensor([[self.block(window)]], device=device)
            if settings.branches > 1 and last is not None:  # guess the next states from the evidence of the forward before
                count = min(settings.branches, max(1, self.block(window).count(mask_id)))
                states_BKL = drafts(states_BKL[:, 0], last.candidate_BL, last.score_BL, count, mask_id, settings.blocks)
                states_BKL = states_BKL if held_to is None else held_to.forced(states_BKL[0])[None]
            query_tokens, logits_RV, hidden_RC = self.predict(self.queries(window, age, states_BKL.shape[1]), states_BKL)
            outcome, left_B = decide(
                settings,
                logits_RV,
                states_BKL,
                self.facts(window),
                self.memories,
                mask_id=mask_id,
                eos_E=eos_E,
                hidden_RC=hidden_RC,
                constraint=held_to,
            )
            left = left_B.flatten().tolist()
            if BROKEN in left:
                raise LogitsError(f"the model's logits are no numbers (NaN or infinite) in forward {len(self.forwards)}")
            self.commit(number, age, query_tokens, outcome, left)
            last, age = outcome.last, age + 1
        if age > 0:
            self.close(number)

    def placed(self, window: Window, constraint: Constraint | None) -> Placed | None:
        """The constraint at a window."""
        if constraint is None:
            return None
        return Placed.at(constraint, self.tokens, window.start, window.end, window.prompt)

    def fill(self, number: int, constraint: Constraint) -> None:
        """Before a window: write what the constraint leaves no choice for."""
        window, length = self.windows[number], self.settings.length
        placed = self.placed(window, constraint)
        assert placed is not None
        block = placed.fill(self.block(window), mask_id=self.model.spec.mask_id, first=not self.forwards)
        self.filled |= {place: token for place, token in enumerate(block, window.start) if token != self.tokens[place]}
        self.tokens[window.start : window.end] = block
        for place, start in enumerate(range(window.start, window.end, length), number):
            masks = self.tokens[start : start + length].count(self.model.spec.mask_id)
            self.left[place] = min(self.left[place], masks)

    def note(self) -> None:
        """What has been filled in since the last forward goes down with it."""
        if self.filled:
            last, new = self.forwards[-1], dict(sorted(self.filled.items()))
            names = [Forced.name] * len(new)
            self.forwards[-1] = last._replace(
                committed=[*last.committed, *new], tokens=[*last.tokens, *new.values()], rule=[*last.rule, *names]
            )

    def open(self, *, new: bool) -> None:
        """Before a window: what its blocks have learnt moves on by one; of the last of them nothing is known."""
        settings, device = self.settings, self.model.device
        count, length = settings.blocks.count, settings.length
        precision = torch.promote_types(self.model.dtype, settings.precision)
        empty: tuple[Memory, ...] = tuple(
            None if rule.state is None else rule.state.empty(1, settings.width, device, precision) for rule in settings.rules
        )
        zero_B = torch.zeros(1 if count == 1 else (1, count), dtype=torch.int64, device=device)
        if new or self.step_B is None or count == 1:
            self.memories, self.step_B = empty, zero_B
            return
        self.step_B = torch.cat((self.step_B[:, 1:], zero_B[:, :1]), dim=1)
        self.memories = tuple(
            None
            if old is None or none is None
            else type(old)(
                *(torch.cat((one[:, length:], fresh[:, :length]), dim=1) for one, fresh in zip(old, none, strict=True))
            )
            for old, none in zip(self.memories, empty, strict=True)
        )

    def ahead(self, number: int) -> int:
        """The first block, from the window on, of which something is left to do, or that ends the answer."""
        return next((place for place in range(number, len(self.left)) if self.left[place] != 0), len(self.left))

    def stays(self, number: int) -> bool:
        """Whether the window has something to decode before the next one has."""
        ahead = self.ahead(number)
        return not self.over and ahead < len(self.left) and min(ahead, len(self.windows) - 1) == number

    def ended(self, number: int) -> bool:
        """Whether a block ends the answer, and all before it are finished."""
        return self.left[self.ahead(number) :][:1] == [ENDED]

    def finished(self, number: int) -> int:
        """Up to where its blocks are finished, as far as it moves on."""
        ahead, last = self.ahead(number), len(self.windows) - 1
        blocks = ahead + 1 if self.ended(number) else ahead if ahead == len(self.left) else min(ahead, last)
        return min(self.windows[0].start + blocks * self.settings.length, self.windows[number].end)

    def block(self, window: Window) -> list[int]:
        return self.tokens[window.start : window.end]

    def facts(self, window: Window) -> BlockFacts:
        """Of the window before its next step."""
        device, offset = self.model.device, window.start - window.prompt
        kind_BL = torch.tensor([self.kinds[window.start : window.end]], device=device)
        assert self.step_B is not None
        return BlockFacts(
            fixed_BL=kind_BL == GIVEN,
            step_B=self.step_B,
            suffix_B=torch.tensor([len(self.policy(window, 0).positions) - window.end], device=device),
            sampling=self.sampling and self.sampling._replace(positions_BL=self.sampling.positions_BL + offset),
            kind_BL=kind_BL if self.settings.hole_ends else None,
        )

    def fill_behind_ends(self, window: Window) -> None:
        """A hole that has ended in the window needs nothing of the blocks behind it."""
        settings, prompt, mask_id = self.settings, window.prompt, self.model.spec.mask_id
        for offset in list(unneeded(self.tokens[prompt:], self.gaps, settings.ends, mask_id)):
            self.tokens[prompt + offset] = settings.filler
            self.left[(prompt + offset - self.windows[0].start) // settings.length] -= 1

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

    def close(self, number: int) -> None:
        """A published loop's forwards on the finished blocks, the last one of an answer too."""
        settings, start, end = self.settings, self.windows[number].start, self.finished(number)
        if settings.closes and not (self.over and settings.ending in ("first", "written")):
            for _ in range((self.kept < end) + settings.confirms):
                self.encode(clean(start, end, settings.length), refresh=False)

    def queries(self, window: Window, age: int, states: int) -> list[Query]:
        """What the block's next forward asks for, with this many states of the block."""
        settings, plan = self.settings, self.policy(window, age)
        if settings.sub_block is not None and self.cached == window:
            plan = sub_block(plan, window, self.block(window), settings.sub_block, self.model.spec.mask_id)
        kept = self.keeping(window.start) if age == 0 else None
        own = self.query(plan, start=window.start, length=settings.width)._replace(states=states)
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

    def commit(self, number: int, age: int, query_tokens: list[int], outcome: Outcome, left: list[int]) -> None:
        """Write the window, record the forward, and look what is left to do."""
        settings, window = self.settings, self.windows[number]
        self.memories, self.step_B = outcome.memories, outcome.step_B
        self.tokens[window.start : window.end] = outcome.window_BL[0].tolist()
        taken = {place: rule for place, rule in enumerate(outcome.taken_BL[0].tolist(), window.start) if rule > 0}
        wrote = bool(taken)
        taken = dict(sorted((dict.fromkeys(self.filled, len(settings.rules)) | taken).items()))
        made = Forward(
            refresh=age == 0,
            query_tokens=query_tokens,
            committed=list(taken),
            tokens=[self.tokens[place] for place in taken],
            rule=[settings.rules[rule - 1].name for rule in taken.values()],
        )
        self.forwards.append(made)
        self.filled = {}
        self.left[number : number + len(left)] = left
        self.fill_behind_ends(window)
        # An answer may be complete though the last block, which reaches behind it, is not.
        self.over = self.ended(number) or (self.end < self.windows[-1].total and self.has_enough())
        if settings.finds_final and not wrote:
            self.kept = max(self.kept, self.finished(number))  # the forward has seen them as they stay


def _unread(answer: list[int], gaps: Sequence[Gap], settings: Recipe) -> list[int]:
    """The answer with filler behind the end of each hole."""
    for gap in gaps:
        end = first_end(answer, gap, settings.ends)
        answer[end : gap.end] = [settings.filler] * (gap.end - end)
    return answer


def _sampling(
    settings: Recipe, temperature: float, top_p: float | None, top_k: int | None, seed: int, device: torch.device
) -> Sampling | None:
    """The numbers that a block at the start of the answer is sampled with; None takes the most probable token."""
    if settings.sampled is None:
        return None
    return Sampling(
        temperature_B1=torch.tensor([[temperature]], device=device),
        seed_B1=torch.tensor([[seed]], device=device),
        positions_BL=torch.arange(settings.width, device=device)[None],
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
