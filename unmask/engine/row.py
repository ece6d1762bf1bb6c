"""One request on its way: where it stands, what it asks of the next forward, and how it ends.

A row owns everything that is its own (tokens, rule memory, pages), so rows come and go without touching each other.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from unmask.context.plan import Query
from unmask.context.policy import RowPlan, Window, most_slots, most_tokens
from unmask.decode.canvas import Canvas
from unmask.decode.step import ENDED
from unmask.engine.recipe import Recipe, recipe
from unmask.engine.request import Completion, Request
from unmask.engine.text import Answer, read, settled
from unmask.errors import EmptyPrompt, MaskInPrompt, PromptTooLong, RequestError
from unmask.models.denoiser import Denoiser, ModelSpec


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


@dataclass(kw_only=True, eq=False)
class Row:
    """Where one request stands; `start` makes one.

    Attributes:
        begin: the first position of its block.
        left: masks left in the block when last looked at, or ENDED.
        block_forwards: forwards of the block so far; 0 stands before its refresh.
        step: commit steps made in the block.
        commits: tokens that each rule wrote, by 1 + its index.
        seat, pages: where the device keeps what it knows of it, and its key/value memory; lent by the runner.
        began, ended: the clock when it was asked for, and when it was over.
    """

    request: Request
    recipe: Recipe
    model: Denoiser
    canvas: Canvas
    begin: int
    left: int
    block_forwards: int = 0
    step: int = 0
    forwards: int = 0
    query_tokens: int = 0
    commits: Counter[int] = field(default_factory=Counter)
    seat: int = -1
    pages: tuple[int, ...] = ()
    began: float = field(default_factory=time.perf_counter)
    ended: float = 0.0
    _planned: tuple[tuple[int, bool], RowPlan] | None = field(default=None, init=False)

    @classmethod
    def start(cls, request: Request, model: Denoiser) -> "Row":
        """Before the first forward. Raises RequestError or ConfigError where the request cannot be answered."""
        check(request.prompt, request.max_new_tokens, model.spec)
        made = recipe(request, model.spec)
        canvas = Canvas(request.prompt, request.max_new_tokens, mask_id=model.spec.mask_id)
        return cls(request=request, recipe=made, model=model, canvas=canvas, begin=canvas.prompt, left=made.length)

    # --- the next forward

    @property
    def total(self) -> int:
        return len(self.canvas.tokens)

    @property
    def slots(self) -> int:
        """Slots of key/value memory that it can need."""
        return most_slots(self.recipe.cache, self.total, self.recipe.length, self.recipe.branches)

    @property
    def tokens(self) -> int:
        """Most query tokens of its next forward; fewer where a block has less to draft than the method allows."""
        return self.plan().tokens * (1 if self.refreshes else self.recipe.branches)

    @property
    def most_tokens(self) -> int:
        """Query tokens that any forward of it can need."""
        return most_tokens(self.recipe.cache, self.total, self.recipe.length, self.recipe.branches)

    @property
    def refreshes(self) -> bool:
        """Whether its next forward is a block's first."""
        return self.block_forwards == 0

    def block(self) -> list[int]:
        return self.canvas.tokens[self.begin : self.begin + self.recipe.length]

    def plan(self) -> RowPlan:
        """What the next forward sees and recomputes. Behind a block's first all are alike, so it is made twice a block."""
        where = self.begin, self.refreshes
        if self._planned is None or self._planned[0] != where:
            window = Window(
                prompt=self.canvas.prompt,
                start=self.begin,
                end=self.begin + self.recipe.length,
                total=self.total,
                lookbehind=self.recipe.lookbehind,
            )
            self._planned = where, self.recipe.policy()(window, self.block_forwards)
        return self._planned[1]

    def query(self, plan: RowPlan, states: int) -> Query:
        """The next forward's query, with this many states of the block."""
        tokens = self.canvas.tokens
        return Query(
            plan=plan,
            tokens=[tokens[place] for place in plan.positions[plan.query]],
            start=self.begin,
            length=self.recipe.length,
            states=states,
            pages=self.pages,
            copies=self.total,
        )

    def tried(self, states: int) -> int:
        """How many of a forward's states are the row's own; the others repeat a complete block for the batch."""
        return min(states, max(1, self.left))

    # --- what came of it

    def commit(self, block: list[int], taken: list[int], *, left: int, step: int, query_tokens: int) -> None:
        """Take in one forward: the block, and at each place 0 or 1 + the index of the rule that wrote it."""
        self.canvas.commit(self.begin, block)
        self.commits.update(taken)
        self.left, self.step = left, step
        self.forwards += 1
        self.block_forwards += 1
        self.query_tokens += query_tokens

    def settle(self) -> bool:
        """Whether the row is over; if only its block is, it moves to the next one."""
        over = self._over()
        if over:
            self.ended = time.perf_counter()
        return over

    def _over(self) -> bool:
        if self.left == ENDED or (self.recipe.ending == "first" and self._has_enough()):
            return True
        # The published Dream loops spend one forward on the block even where the refresh has completed it.
        if self.left > 0 or (self.recipe.anchored and self.block_forwards < 2):
            return False
        self.begin += self.recipe.length
        self.block_forwards = self.step = 0
        self.left = self.recipe.length
        return self.begin == self.total

    def _has_enough(self) -> bool:
        """Whether a stop string or the limit ends the answer, though the block may not be complete."""
        stopped = bool(self.request.stop) and self.answer().stopped
        return stopped or len(self.canvas.written) >= self.wanted < self.request.max_new_tokens

    @property
    def wanted(self) -> int:
        """Tokens of the answer that somebody wants."""
        return self.request.limit or self.request.max_new_tokens

    def answer(self) -> Answer:
        """What is written so far, cut where it ends."""
        return self.read(self.canvas.written)

    def read(self, answer: list[int]) -> Answer:
        """Any answer to the request, cut where it ends."""
        return read(answer[: self.wanted], self.model.tokenizer, self.recipe.ends, self.request.stop)

    def settled(self) -> str:
        """The text so far that can no longer change."""
        return settled(self.canvas.written[: self.wanted], self.model.tokenizer, self.recipe.ends, self.request.stop)

    def complete(self) -> Completion:
        """The completion of a row that is over."""
        ids, answer, recipe = self.canvas.written[: self.wanted], self.answer(), self.recipe
        if recipe.ending == "first":
            kept = answer.tokens + (answer.tokens < len(ids) and ids[answer.tokens] in recipe.ends)
        else:
            kept = min(self.begin + recipe.length - self.canvas.prompt, len(ids)) if self.left == ENDED else len(ids)
        return Completion(
            text=answer.text,
            token_ids=ids[:kept] + [recipe.filler] * (self.wanted - kept),
            tokens=answer.tokens,
            forwards=self.forwards,
            query_tokens=self.query_tokens,
            finish_reason="stop" if answer.stopped else "length",
            seconds=self.ended - self.began,
            commits={rule.name: self.commits[number] for number, rule in enumerate(recipe.rules, start=1)},
        )
