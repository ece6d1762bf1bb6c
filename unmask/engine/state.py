"""One request on its way: where it stands, what it asks of the next forward, and how it ends.

It owns all that is its own (tokens, block, pages), so requests come and go without touching each other.
"""

import time
from collections import Counter
from dataclasses import dataclass, field

from unmask.context.pieces import chained
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
from unmask.decode.constraint import Constraint, Placed
from unmask.decode.step import BROKEN, ENDED
from unmask.engine.check import check_constraint, checked
from unmask.engine.reading import Notes, Reader
from unmask.engine.request import Request, StepOutput
from unmask.engine.text import Answer
from unmask.methods.recipe import Recipe, Structure
from unmask.models.denoiser import Denoiser


@dataclass(kw_only=True, eq=False)
class RequestState:
    """Where one request stands; `start` makes one.

    Attributes:
        structure: what its decisions have in common with those of others.
        windows: of one block each, or of several that are decoded at once; in order. `block_number` is the place among them
            of the one that is decoded now, and of its first block among the blocks.
        constraint: what the answer must be behind the blocks before the window.
        left: of each block the masks when last looked at, or ENDED or UNSETTLED.
        moved: tokens by which the window moved on when it was opened; 0: it is the first.
        changed: whether the last forward wrote something.
        broken: whether its logits were no numbers, which ends the request without an answer.
        block_forwards: forwards so far that decoded the window; 0 stands before its first, the refresh.
        kept: of a block-causal model, the slots whose keys and values are final.
        opened: whether the device knows the window.
        seeds: whether the block's first forward decodes its first token alone and queries nothing of it.
        closing: forwards that are still to be made of the decoded block, so that its keys and values are final.
        room: most query tokens of a forward, which a long prompt is cut to; None: any number.
        step: commit steps made in the window's first block.
        commits: tokens that each rule wrote, by 1 + its index.
        notes: what will be told of each token.
        filled: what a constraint has filled in since the last forward: by place, the token and 1 + the index of its rule.
        lease: what it would like of the engine's key/value memory, its own and shared.
        index, pages: where the device keeps what it knows of it, and its key/value memory; lent by the runner.
        began, ended: the clock when it came, and when it was over.
    """

    request: Request
    recipe: Recipe
    structure: Structure
    model: Denoiser
    canvas: Canvas
    policy: ContextPolicy
    windows: tuple[Window, ...]
    constraint: Constraint | None
    block_number: int = 0
    left: list[int] = field(default_factory=list)
    moved: int = 0
    changed: bool = False
    broken: bool = False
    block_forwards: int = 0
    opened: bool = False
    kept: int = 0
    closing: int = 0
    seeds: bool = False
    room: int | None = None
    step: int = 0
    forwards: int = 0
    query_tokens: int = 0
    commits: Counter[int] = field(default_factory=Counter)
    notes: Notes = field(default_factory=Notes)
    filled: dict[int, tuple[int, int]] = field(default_factory=dict)
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
        made = checked(request, model)
        blocks = windows(
            len(prompt), answer, made.length, block=made.block, lookbehind=made.lookbehind, count=made.blocks.count
        )
        gaps = () if request.layout is None else request.layout.gaps
        canvas = Canvas(prompt, blocks[-1].total - len(prompt), mask_id=spec.mask_id, fixed=request.fixed, gaps=gaps)
        state = cls(
            request=request,
            recipe=made,
            structure=made.structure,
            model=model,
            canvas=canvas,
            policy=policy(made.cache, made.suffix, made.prompt_interval, block=made.block, fixed=sorted(canvas.fixed)),
            windows=blocks,
            constraint=request.constraint,
        )
        begin, end = blocks[0].start, blocks[-1].end
        state.left = [state.masks_of(start, start + made.length) for start in range(begin, end, made.length)]
        check_constraint(request, state.canvas.tokens[len(prompt) :])
        state._open(min(state.ahead, len(blocks) - 1))
        state.moved = 0
        if request.layout is not None and not any(state.left):  # a canvas without holes
            state.ended = state.began
        return state

    # --- the next forward

    @property
    def window(self) -> Window:
        """Its block, or its blocks."""
        return self.windows[self.block_number]

    @property
    def ahead(self) -> int:
        """The place of the first block, from the window on, of which something is left to do, or that ends the answer."""
        numbers = range(self.block_number, len(self.left))
        return next((number for number in numbers if self.left[number] != 0), len(self.left))

    @property
    def masks(self) -> int:
        """Masks in the window."""
        return self.masks_of(self.window.start, self.window.end)

    def masks_of(self, start: int, end: int) -> int:
        """Masks among these positions."""
        return self.canvas.tokens[start:end].count(self.canvas.mask_id)

    @property
    def total(self) -> int:
        """Positions of the prompt and of all blocks."""
        return len(self.canvas.tokens)

    @property
    def slots(self) -> int:
        """Slots of key/value memory that it can need."""
        return most_slots(self.recipe.cache, self.total, self.recipe.width, self.recipe.branches)

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
    def tokens(self) -> int:
        """Most query tokens of its next forward; fewer where a block has less to draft than the method allows."""
        return self.turn().tokens * (self.recipe.branches if self.drafts else 1)

    @property
    def most_tokens(self) -> int:
        """Query tokens that any forward of it can need, where there is room for them."""
        return most_tokens(self.recipe.cache, self.total, self.recipe.width, self.recipe.branches)

    @property
    def least_tokens(self) -> int:
        """Query tokens that a forward must have room for."""
        recipe = self.recipe
        return least_tokens(recipe.cache, self.total, recipe.length, recipe.branches, recipe.blocks.count)

    @property
    def refreshes(self) -> bool:
        """Whether its next forward is a block's first, or comes before that."""
        return self.block_forwards == 0

    @property
    def recomputes(self) -> bool:
        """Whether its next forward is more than a step of its block: a refresh, or of a block-causal model a prompt's part."""
        clean = self.turn().clean
        if self.recipe.block is None:
            return self.refreshes
        return clean is not None and clean.tokens > self.recipe.length

    @property
    def drafts(self) -> bool:
        """Whether its next forward may try guesses: the one before has left the evidence to make them from."""
        return self.recipe.branches > 1 and not self.refreshes and not self.closing

    @property
    def placed(self) -> Placed | None:
        """Its constraint at the window."""
        held, window = self.constraint, self.window
        return None if held is None else Placed.at(held, self.canvas.tokens, window.start, window.end, self.canvas.prompt)

    def block(self) -> list[int]:
        """The window's tokens."""
        return self.canvas.tokens[self.window.start : self.window.end]

    def kinds(self) -> list[int]:
        """What may be written at each of them (decode/holes.py)."""
        return self.canvas.kinds[self.window.start : self.window.end]

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
                return Turn(clean(window.start, self.finished, recipe.block), None)
            kept = keeping(
                self.kept, window.start, block=recipe.block, how=recipe.keeping, room=self.room, count=recipe.blocks.count
            )
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
                self._query(turn.block, start=self.window.start, length=self.recipe.width)._replace(
                    states=states, follows=turn.clean is not None
                )
            )
        return asked

    def _query(self, plan: RowPlan, *, start: int, length: int) -> Query:
        tokens = chained(self.canvas.tokens[span.start : span.stop] for span in plan.spans)
        return Query(plan=plan, tokens=tokens, start=start, length=length, pages=self.pages, copies=self.total)

    def tried(self, states: int) -> int:
        """How many of a forward's states are its own; the others repeat a complete block for the batch."""
        return min(states, max(1, self.masks))

    # --- what came of it

    def remember(self, query_tokens: int) -> None:
        """Take in one forward: what it has made final."""
        clean = self.turn().clean
        self.kept = self.kept if clean is None else clean.query.stop
        self.forwards += 1
        self.query_tokens += query_tokens
        self.filled = {}

    def commit(self, made: StepOutput) -> None:
        """Take in the forward's decision; of logits that are no numbers nothing is written."""
        taken, left = made.taken, made.left
        if BROKEN in left:
            self.broken = True
            return
        self.notes.add(self.window.start, self.forwards - 1, made)
        self.canvas.commit(self.window.start, made.block)
        self.commits.update(taken)
        self.left[self.block_number : self.block_number + len(left)] = left
        for place in self.canvas.close(self.recipe.ends):  # in blocks behind the window
            self.left[(place - self.windows[0].start) // self.recipe.length] -= 1
        self.step, self.changed = made.step, any(taken)
        self.block_forwards += 1
        if self.recipe.finds_final and not self.changed:
            self.kept = max(self.kept, self.finished)  # the forward has seen them as they stay

    def settle(self) -> bool:
        """Whether the request is over; if only its first blocks are, it moves on to what is left to decode."""
        if self.broken:
            self.ended = time.perf_counter()
            return True
        ahead = self.ahead
        looks = self.recipe.ending == "first" or self.request.layout is not None
        over = self.has_ended or self._complete() or (looks and self._has_enough())
        if not (over or self._moves_on()):
            return False
        self.closing = self.closing - 1 if self.closing else self._closing(over)
        if self.closing:
            return False
        if not over and ahead < len(self.left):
            self._open(min(ahead, len(self.windows) - 1))
        if over or self.ahead == len(self.left):  # where a constraint has filled in the rest, only now
            self.ended = time.perf_counter()
        return self.ended is not None

    @property
    def has_ended(self) -> bool:
        """Whether a block ends the answer, and all before it are finished."""
        return self.left[self.ahead :][:1] == [ENDED]

    @property
    def finished(self) -> int:
        """Up to where the window's blocks are finished, as far as it moves on."""
        ahead = self.ahead + self.has_ended
        place = self.windows[0].start + ahead * self.recipe.length
        if ahead < len(self.left) and not self.has_ended:
            place = min(place, self.windows[-1].start)
        return min(place, self.window.end)

    def _closing(self, over: bool) -> int:
        """Forwards that a published loop spends on finished blocks, the last one of an answer too."""
        recipe = self.recipe
        if not recipe.closes or (over and recipe.ending in ("first", "written")):
            return 0
        return int(self.kept < self.finished) + int(recipe.confirms)

    def _moves_on(self) -> bool:
        """Whether the window's first block is finished, and there is another window or nothing left to do."""
        if self.ahead < len(self.left) and min(self.ahead, len(self.windows) - 1) == self.block_number:
            return False
        # The published Dream loops spend one forward on the block even where the refresh has completed it.
        return not (self.recipe.anchored and self.block_forwards < 2)

    def _open(self, number: int) -> None:
        """Go on to this window, or where a constraint leaves nothing of it to decode to the next."""
        start, length = self.window.start, self.recipe.length
        while True:
            for window in self.windows[self.block_number : number]:
                if self.constraint is not None:
                    block = slice(max(window.start, window.prompt), window.start + length)
                    self.constraint = self.constraint.after(self.canvas.tokens[block])
            self.block_number = number
            self._fill()
            if number == (number := min(self.ahead, len(self.windows) - 1)):
                break
        self.block_forwards, self.step, self.changed, self.opened = 0, 0, False, False
        self.moved = self.window.start - start
        self.seeds = self.recipe.seed == "alone" and self.block()[0] == self.canvas.mask_id

    def _fill(self) -> None:
        """Write what the constraint leaves no choice for in the window; it costs no forward."""
        if self.placed is None:
            return
        begin, length, rule = self.window.start, self.recipe.length, len(self.recipe.rules)
        block = self.placed.fill(self.block(), mask_id=self.canvas.mask_id, first=self.forwards == 0)
        new = {place: (token, rule) for place, token in enumerate(block, begin) if token != self.canvas.tokens[place]}
        self.canvas.commit(begin, block)
        self.filled |= new
        self.commits[rule] += len(new)
        self.notes.fill(new, max(0, self.forwards - 1), rule)
        for number, start in enumerate(range(begin, self.window.end, length), self.block_number):
            self.left[number] = min(self.left[number], self.masks_of(start, start + length))

    def _complete(self) -> bool:
        """Whether the answer is complete, though its last block reaches behind it."""
        most = self.request.max_new_tokens
        return not self.recipe.whole and most < self.total - self.canvas.prompt and len(self.final) >= most

    def _has_enough(self) -> bool:
        """Whether a stop string or the limit ends the answer, though the block may not be complete."""
        if self.request.layout is not None:
            return bool(self.request.stop) and self.answer().complete
        stopped = bool(self.request.stop) and self.answer().stopped
        return stopped or (self.request.length < self.request.max_new_tokens and len(self.final) >= self.request.length)

    @property
    def final(self) -> list[int]:
        """The answer as far as it can no longer change: to its first mask, or where rules edit to the end of a block."""
        written = self.canvas.written
        if self.recipe.edits and self.ended is None:
            return written[: max(0, self.window.start - self.canvas.prompt)]
        return written

    def answer(self) -> Answer:
        """What is final, cut where it ends."""
        return self.reader.read(self.final)

    @property
    def reader(self) -> Reader:
        """What reads answers to the request."""
        return Reader(self.request, self.model.tokenizer, self.recipe.ends)
