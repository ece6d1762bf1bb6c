"""One request on its way: where it stands, what it asks of the next forward, and how it ends.

It owns all that is its own (tokens, block, pages), so requests come and go without touching each other.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from unmask.context.plan import Query
from unmask.context.policy import (
    ContextPolicy,
    RowPlan,
    Turn,
    Window,
    clean,
    keeping,
    least_tokens,
    most_slots,
    most_tokens,
    policy,
    sub_block,
    windows,
)
from unmask.context.prefix_cache import Lease
from unmask.decode.canvas import Canvas
from unmask.decode.constraint import Constraint
from unmask.decode.spec import ModelSpec
from unmask.decode.step import ENDED
from unmask.engine.request import Completion, Request
from unmask.engine.text import Answer, read, settled
from unmask.errors import EmptyPrompt, MaskInPrompt, PromptTooLong, RequestError
from unmask.methods.recipe import Recipe, recipe
from unmask.models.denoiser import Denoiser


def check(prompt: Sequence[int], answer: int, spec: ModelSpec) -> None:
    """Raises a RequestError that says what is wrong with a prompt for `answer` tokens and what would be right."""
    if not prompt:
        raise EmptyPrompt("the prompt is empty: give it at least one token")
    if spec.mask_id in prompt:
        place = prompt.index(spec.mask_id)
        raise MaskInPrompt(f"the prompt holds the mask id {spec.mask_id} at position {place}: it stands for an unwritten token")
    odd = [token for token in prompt if not 0 <= token < spec.vocab_size]
    if odd:
        raise RequestError(f"the prompt holds the id {odd[0]}: ids run from 0 to {spec.vocab_size - 1}")
    surplus = len(prompt) + answer - spec.max_length
    if surplus > 0:
        raise PromptTooLong(
            f"{len(prompt)} prompt tokens and {answer} new ones exceed the model's "
            f"{spec.max_length} by {surplus}: shorten the prompt or ask for fewer new tokens"
        )


def _check_fixed(request: Request, spec: ModelSpec) -> None:
    """Raises a RequestError where fixed text does not fit into the answer, or leaves nothing to decode."""
    for offset, token in request.fixed.items():
        if not 0 <= offset < request.max_new_tokens:
            raise RequestError(f"fixed text at {offset}: the answer's positions run from 0 to {request.max_new_tokens - 1}")
        if not 0 <= token < spec.vocab_size or token == spec.mask_id:
            raise RequestError(f"fixed text holds the id {token}: ids run from 0 to {spec.vocab_size - 1}, the mask's excepted")
    if len(request.fixed) == request.max_new_tokens:
        raise RequestError("every token of the answer is fixed: leave at least one open")


@dataclass(kw_only=True, eq=False)
class RequestState:
    """Where one request stands; `start` makes one.

    Attributes:
        windows: its blocks, in order; `block_number` is the place among them of the one that is decoded now.
        constraint: what the answer must be behind the finished blocks.
        left: masks left in the block when last looked at, or ENDED or UNSETTLED.
        changed: whether the last forward wrote something.
        block_forwards: forwards so far that decoded the block; 0 stands before its first, the refresh.
        kept: of a block-causal model, the slots whose keys and values are final.
        seeds: whether the block's first forward decodes its first token alone and queries nothing of it.
        closing: forwards that are still to be made of the decoded block, so that its keys and values are final.
        room: most query tokens of a forward, which a long prompt is cut to; None: any number.
        step: commit steps made in the block.
        commits: tokens that each rule wrote, by 1 + its index.
        lease: what it would like of the engine's key/value memory, its own and shared.
        index, pages: where the device keeps what it knows of it, and its key/value memory; lent by the runner.
        began, ended: the clock when it came, and when it was over.
    """

    request: Request
    recipe: Recipe
    model: Denoiser
    canvas: Canvas
    policy: ContextPolicy
    windows: tuple[Window, ...]
    constraint: Constraint | None
    block_number: int = 0
    left: int = 0
    changed: bool = False
    block_forwards: int = 0
    kept: int = 0
    closing: int = 0
    seeds: bool = False
    room: int | None = None
    step: int = 0
    forwards: int = 0
    query_tokens: int = 0
    commits: Counter[int] = field(default_factory=Counter)
    lease: Lease = field(default_factory=Lease)
    index: int = -1
    pages: tuple[int, ...] = ()
    began: float = field(default_factory=time.perf_counter)
    ended: float | None = None
    _turn: tuple[tuple[object, ...], Turn] | None = field(default=None, init=False)

    @classmethod
    def start(cls, request: Request, model: Denoiser) -> "RequestState":
        """Before the first forward. Raises RequestError, ConfigError or ModelError where the request cannot be answered."""
        spec, prompt, answer = model.spec, request.prompt, request.max_new_tokens
        check(prompt, answer, spec)
        _check_fixed(request, spec)
        made = recipe(
            request.method,
            spec,
            answer_length=answer,
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            head=model.head,
        )
        blocks = windows(len(prompt), answer, made.length, block=made.block, lookbehind=made.lookbehind)
        state = cls(
            request=request,
            recipe=made,
            model=model,
            canvas=Canvas(prompt, blocks[-1].total - len(prompt), mask_id=spec.mask_id, fixed=request.fixed),
            policy=policy(made.cache, made.suffix, made.prompt_interval, block=made.block),
            windows=blocks,
            constraint=request.constraint,
        )
        state._open(0)
        return state

    # --- the next forward

    @property
    def window(self) -> Window:
        """Its block."""
        return self.windows[self.block_number]

    @property
    def total(self) -> int:
        """Positions of the prompt and of all blocks."""
        return len(self.canvas.tokens)

    @property
    def slots(self) -> int:
        """Slots of key/value memory that it can need."""
        return most_slots(self.recipe.cache, self.total, self.recipe.length, self.recipe.branches)

    @property
    def shared_block(self) -> int | None:
        """Tokens per block of the keys and values that it shares with other rows; None: the method shares none.

        A loop as published does not: it is there to take the published forwards.
        """
        return self.recipe.block if self.recipe.keeping == "along" else None

    @property
    def reusable(self) -> int:
        """Tokens at the prompt's beginning that it need not query where their keys and values are final."""
        begin = self.windows[0].start
        seeded = self.recipe.seed is not None and self.canvas.tokens[begin] == self.canvas.mask_id
        return max(0, begin - self.recipe.length) if seeded else begin

    @property
    def publishable(self) -> int:
        """Tokens from its beginning whose keys and values are final, and which do not lie behind the answer's end."""
        prompt = self.canvas.prompt
        answer = read(self.canvas.tokens[prompt : self.kept], None, self.recipe.ends, fixed=self.request.fixed)
        return prompt + answer.tokens + 1 if answer.stopped else self.kept

    @property
    def tokens(self) -> int:
        """Most query tokens of its next forward; fewer where a block has less to draft than the method allows."""
        return self.turn().tokens * (self.recipe.branches if self.drafts else 1)

    @property
    def most_tokens(self) -> int:
        """Query tokens that any forward of it can need, where there is room for them."""
        return most_tokens(self.recipe.cache, self.total, self.recipe.length, self.recipe.branches)

    @property
    def least_tokens(self) -> int:
        """Query tokens that a forward must have room for."""
        return least_tokens(self.recipe.cache, self.total, self.recipe.length, self.recipe.branches)

    @property
    def refreshes(self) -> bool:
        """Whether its next forward is a block's first, or comes before that."""
        return self.block_forwards == 0

    @property
    def drafts(self) -> bool:
        """Whether its next forward may try guesses: the one before has left the evidence to make them from."""
        return self.recipe.branches > 1 and not self.refreshes and not self.closing

    def block(self) -> list[int]:
        """The block's tokens."""
        return self.canvas.tokens[self.window.start : self.window.end]

    def turn(self) -> Turn:
        """What the next forward sees and recomputes. All but a block's first are alike, so they are made once per block."""
        alone = self._alone()
        where = self.block_number, self.refreshes, self.kept, self.closing, alone and tuple(self.block())
        if self._turn is None or self._turn[0] != where:
            self._turn = where, self._next(alone)
        return self._turn[1]

    def _alone(self) -> bool:
        """Whether the next forward may query a sub-block alone: one before has queried the whole block."""
        return self.recipe.sub_block is not None and self.block_forwards > int(self.seeds) and not self.closing

    def _next(self, alone: bool) -> Turn:
        recipe, window = self.recipe, self.window
        kept = None
        if recipe.block is not None and recipe.keeping is not None:
            if self.closing:
                return Turn(clean(window.start, window.end, recipe.block), None)
            kept = keeping(self.kept, window.start, block=recipe.block, how=recipe.keeping, room=self.room)
            if kept is not None and kept.query.stop < window.start:
                return Turn(kept, None)
        block = self.policy(window, self.block_forwards)
        if alone and recipe.sub_block is not None:
            block = sub_block(block, window, self.block(), recipe.sub_block, self.canvas.mask_id)
        if kept is None or recipe.keeping == "along":
            return Turn(kept, block)
        return Turn(kept, block._replace(query=slice(window.start, window.start)) if self.seeds else None)

    def queries(self, states: int) -> list[Query]:
        """The next forward's queries, with this many states of the block."""
        turn, asked = self.turn(), []
        if turn.clean is not None:
            asked.append(self._query(turn.clean, start=turn.clean.query.start, length=0))
        if turn.block is not None:
            asked.append(
                self._query(turn.block, start=self.window.start, length=self.recipe.length)._replace(
                    states=states, follows=turn.clean is not None
                )
            )
        return asked

    def _query(self, plan: RowPlan, *, start: int, length: int) -> Query:
        tokens = [self.canvas.tokens[place] for place in plan.queried]
        return Query(plan=plan, tokens=tokens, start=start, length=length, pages=self.pages, copies=self.total)

    def tried(self, states: int) -> int:
        """How many of a forward's states are its own; the others repeat a complete block for the batch."""
        return min(states, max(1, self.left))

    # --- what came of it

    def remember(self, query_tokens: int) -> None:
        """Take in one forward: what it has made final."""
        clean = self.turn().clean
        self.kept = self.kept if clean is None else clean.query.stop
        self.forwards += 1
        self.query_tokens += query_tokens

    def commit(self, block: list[int], taken: list[int], *, left: int, step: int) -> None:
        """Take in the forward's decision: the block, and at each place 0 or 1 + the index of the rule that wrote it."""
        self.canvas.commit(self.window.start, block)
        self.commits.update(taken)
        self.left, self.step, self.changed = left, step, any(taken)
        self.block_forwards += 1
        if self.recipe.finds_final and not self.changed and left in (0, ENDED):
            self.kept = self.window.end  # the forward has seen the block as it stays

    def settle(self) -> bool:
        """Whether the request is over; if only its block is, it moves to the next one that has something to decode."""
        over = self.left == ENDED or self._complete() or (self.recipe.ending == "first" and self._has_enough())
        if not (over or self._block_over()):
            return False
        self.closing = self.closing - 1 if self.closing else self._closing(over)
        if self.closing:
            return False
        if not over:
            over = not self._open(self.block_number + 1)
        if over:
            self.ended = time.perf_counter()
        return over

    def _closing(self, over: bool) -> int:
        """Forwards that a published loop spends on the finished block, the last one of an answer too."""
        recipe = self.recipe
        if not recipe.closes or (over and recipe.ending in ("first", "written")):
            return 0
        return int(self.kept < self.window.end) + int(recipe.confirms)

    def _block_over(self) -> bool:
        # The published Dream loops spend one forward on the block even where the refresh has completed it.
        return self.left == 0 and not (self.recipe.anchored and self.block_forwards < 2)

    def _open(self, number: int) -> bool:
        """Go on to the first block from `number` on that holds a mask; False where there is none."""
        for later in range(number, len(self.windows)):
            if later > 0 and self.constraint is not None:
                window = self.windows[later - 1]
                self.constraint = self.constraint.after(self.canvas.tokens[max(window.start, window.prompt) : window.end])
            window = self.windows[later]
            self.left = self.canvas.tokens[window.start : window.end].count(self.canvas.mask_id)
            if self.left > 0:
                self.block_number, self.block_forwards, self.step, self.changed = later, 0, 0, False
                self.seeds = self.recipe.seed == "alone" and self.block()[0] == self.canvas.mask_id
                return True
        return False

    def _complete(self) -> bool:
        """Whether the answer is complete, though its last block reaches behind it."""
        most = self.request.max_new_tokens
        return not self.recipe.whole and most < self.total - self.canvas.prompt and len(self.final) >= most

    def _has_enough(self) -> bool:
        """Whether a stop string or the limit ends the answer, though the block may not be complete."""
        stopped = bool(self.request.stop) and self.answer().stopped
        return stopped or (self.limit < self.request.max_new_tokens and len(self.final) >= self.limit)

    @property
    def limit(self) -> int:
        """Tokens of the answer that the client gets."""
        return self.request.limit or self.request.max_new_tokens

    @property
    def final(self) -> list[int]:
        """The answer as far as it can no longer change: to its first mask, or where rules edit to the end of a block."""
        written = self.canvas.written
        if self.recipe.edits and self.ended is None:
            return written[: max(0, self.window.start - self.canvas.prompt)]
        return written

    def answer(self) -> Answer:
        """What is final, cut where it ends."""
        return self.read(self.final)

    def read(self, answer: list[int]) -> Answer:
        """Any answer to the request, cut where it ends."""
        request = self.request
        return read(answer[: self.limit], self.model.tokenizer, self.recipe.ends, request.stop, request.fixed)

    def settled(self) -> str:
        """The text so far that can no longer change."""
        request = self.request
        return settled(self.final[: self.limit], self.model.tokenizer, self.recipe.ends, request.stop, request.fixed)

    def complete(self) -> Completion:
        """The completion of a request that is over."""
        assert self.ended is not None, "the request is not over"
        ids, answer, recipe = self.final[: self.limit], self.answer(), self.recipe
        if recipe.ending in ("first", "written"):
            kept = answer.tokens + (answer.tokens < len(ids) and ids[answer.tokens] in recipe.ends)
        else:
            kept = min(self.window.end - self.canvas.prompt, len(ids)) if self.left == ENDED else len(ids)
        return Completion(
            text=answer.text,
            token_ids=ids[:kept] + [recipe.filler] * (self.limit - kept),
            tokens=answer.tokens,
            forwards=self.forwards,
            query_tokens=self.query_tokens,
            finish_reason="stop" if answer.stopped else "length",
            seconds=self.ended - self.began,
            method=self.request.method,
            commits={rule.name: self.commits[number] for number, rule in enumerate(recipe.rules, start=1)},
            cached_tokens=self.lease.cached,
        )
