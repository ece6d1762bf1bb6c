"""What a commit rule is, and how rules join. Pure: evidence in, a mask out; the step writes.

A rule answers one question: which of the positions still open does it take? Rules run in order and each sees what the
earlier ones left (`select`). Checked: with R2-dLLM's rules a plain union of masks differs from the published decoder.

Everything about a rule stands in one place: its settings with their bounds and search ranges (fields), its state, its
colour and words (class attributes). The rules themselves are in rules.py, redundancy.py and the files of methods.

Shapes: B rows, L block positions.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from unmask.decode.commit_head import CommitHead
from unmask.decode.memory import Memory, State
from unmask.decode.proposal import Proposal, Score
from unmask.decode.settings import Kind, Part, filled
from unmask.errors import ConfigError

TERMINAL = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a rule's tokens are shown, as plain data.

    Attributes:
        label: its name in words.
        sentence: what it takes.
        terminal: one of a terminal's eight colours, `bright_` before it or not.
        light, dark: #rrggbb on light and on dark paper.
    """

    label: str
    sentence: str
    terminal: str
    light: str
    dark: str

    def __post_init__(self) -> None:
        if not isinstance(self.label, str) or not isinstance(self.sentence, str) or not self.label:
            raise ConfigError(f"a rule's look needs a label and a sentence, got {self.label!r} and {self.sentence!r}")
        if str(self.terminal).removeprefix("bright_") not in TERMINAL:
            raise ConfigError(
                f"{self.label}: the terminal's colour must be one of {', '.join(TERMINAL)}, got {self.terminal!r}"
            )
        for paper, colour in (("light", self.light), ("dark", self.dark)):
            if not re.fullmatch(r"#[0-9a-fA-F]{6}", str(colour)):
                raise ConfigError(f"{self.label}: the colour on {paper} paper must be #rrggbb, got {colour!r}")


class Rule(Protocol):
    """What `select` runs. `memory` comes in as it was handed back at the step before.

    Attributes:
        name: what a record shows.
        state: the kind of state that it carries; None: none.
        look: how its tokens are shown.
        edits: whether it may rewrite what has been committed.
        moves: whether it may move tokens within the block as well; it then says itself what the block becomes.
        reads_hidden: whether it wants the last hidden state of each position as evidence.
        reads_open: whether it reads the evidence of masked positions and of no others, which then need not be made.
        per_row: which of its settings may be columns [B, 1], a number for each row, and whether whole or real ones
            (decode/numbers.py).
    """

    @property
    def name(self) -> str: ...

    @property
    def state(self) -> type[State] | None: ...

    @property
    def look(self) -> Look: ...

    @property
    def edits(self) -> bool: ...

    @property
    def moves(self) -> bool: ...

    @property
    def reads_hidden(self) -> bool: ...

    @property
    def reads_open(self) -> bool: ...

    @property
    def per_row(self) -> Mapping[str, Kind]: ...

    def __call__(self, proposal: Proposal, memory: Memory) -> tuple[Tensor, Memory]: ...

    def settled(self, memory: Memory) -> Tensor | None:
        """Of a rule that edits: the rows [B] whose block it leaves alone from now on if it is complete; None: of no row."""
        ...

    def write(self, proposal: Proposal, taken_BL: Tensor, memory: Memory, mask_id: int) -> tuple[Tensor, Memory]:
        """Of a rule that moves: the block [B, L] with all that the step has taken, and the memory that goes with it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Where a rule decides: what `RulePart.bind` fills into the fields of these names that a rule declares by `filled_field`.

    Attributes:
        answer_length, block_length: in tokens.
        official: whether the method is to behave as published.
        shifted: whether row i - 1 of the model's output predicts token i.
        alpha: by how much the threshold falls as the block fills.
        on_grid: whether the model is block-causal: its blocks lie on a grid from position 0, and steps are per block.
        edit_threshold, max_post_steps: of the method's `edit`; no threshold: it has none.
        marks: the model's ids for DELETE and SPLIT, if it has any.
        head: the model's commit head, if it has one.
    """

    answer_length: int
    block_length: int
    official: bool = False
    shifted: bool = False
    alpha: float = 0.0
    on_grid: bool = False
    edit_threshold: float | None = None
    max_post_steps: int = 0
    marks: tuple[int, ...] = ()
    head: CommitHead | None = None

    @property
    def strict(self) -> bool:
        """Whether a confidence must exceed a threshold: the published loops of block-causal models compare like that."""
        return self.official and self.on_grid


@dataclass(frozen=True, kw_only=True)
class RulePart(Part):
    """A rule that is its own settings. A subclass has a name and a look, and a state if it carries one."""

    name: ClassVar[str]
    look: ClassVar[Look]
    state: ClassVar[type[State] | None] = None
    edits: ClassVar[bool] = False
    moves: ClassVar[bool] = False
    reads_hidden: ClassVar[bool] = False
    reads_open: ClassVar[bool] = False
    per_row: ClassVar[Mapping[str, Kind]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if hasattr(cls, "name") and not isinstance(getattr(cls, "look", None), Look):
            raise TypeError(f"{cls.__name__}: the rule {cls.name} needs a look: Look(label=..., sentence=..., ...)")

    def bind(self, terms: Terms) -> Self:
        """The rule as it runs there. Raises ConfigError where it cannot."""
        own = filled(type(self))
        return replace(self, **{name: getattr(terms, name) for name in own}) if own else self

    def __call__(self, proposal: Proposal, memory: Memory) -> tuple[Tensor, Memory]:
        """The mask of the positions that it takes, [B, L], and its memory for the next step."""
        raise NotImplementedError

    def settled(self, memory: Memory) -> Tensor | None:
        """Of a rule that edits: the rows [B] whose block it leaves alone from now on if it is complete; None: of no row."""
        return None

    def write(self, proposal: Proposal, taken_BL: Tensor, memory: Memory, mask_id: int) -> tuple[Tensor, Memory]:
        """Of a rule that moves: the block [B, L] with all that the step has taken, and the memory that goes with it."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Commit(RulePart):
    """A method's first rule: it takes at least one position of every row that has one open.

    Except where `proposal.forced_B` says that a row may take none: of several blocks at once the later ones need not go on.
    """

    where: ClassVar[str] = "commit"

    @property
    def counted(self) -> bool:
        """Whether it promises how many steps a block takes, so that none of its commits may be held back."""
        return False

    def evidence(self) -> Score:
        """What `proposal.score_BL` holds for it: by that it ranks, and so do drafts."""
        return "confidence"


class Selection(NamedTuple):
    """`taken_BL` int64: 0 where nothing is committed, else 1 + the index of the rule that took the position."""

    taken_BL: Tensor
    memories: tuple[Memory, ...]


def select(rules: Sequence[Rule], proposal: Proposal, memories: Sequence[Memory], *, one_per_run: bool = False) -> Selection:
    """Run the rules in order; each sees the positions that the earlier ones left open.

    `one_per_run` keeps, of every run of equal predictions, only the commit of the earliest rule (the most confident
    position if one rule took several), because copies of one token at neighbouring positions are usually the same word
    that has not found its place (specs of R2-dLLM, duplicate-token hazard). Predictions that end the answer are exempt.
    """
    taken_BL: Tensor | None = None
    kept: list[Memory] = []
    for number, (rule, memory) in enumerate(zip(rules, memories, strict=True), start=1):
        mask_BL, memory = rule(proposal, memory)
        new_BL = mask_BL & proposal.open_BL
        if number < len(rules):
            proposal = proposal._replace(open_BL=proposal.open_BL ^ new_BL)
        if rule.edits:  # it also rewrites what no earlier rule has written in this step, where its token is another one
            edited_BL = proposal.editable & (proposal.candidate_BL != proposal.token_BL)
            edited_BL = edited_BL if taken_BL is None else edited_BL & (taken_BL == 0)
            new_BL = new_BL | (mask_BL & edited_BL)
        # What one rule takes is closed to the next, so that a sum is enough.
        taken_BL = new_BL.long() if taken_BL is None else taken_BL.add(new_BL, alpha=number)
        kept.append(memory)
    if taken_BL is None:
        taken_BL = torch.zeros_like(proposal.candidate_BL)
    if one_per_run:
        # Confidence lies in 0..1, so two apart is enough to let an earlier rule win.
        key_BL = proposal.confidence_BL.sub(taken_BL, alpha=2).masked_fill(taken_BL == 0, -torch.inf)
        first_BL = best_of_run(key_BL, same_run(proposal.candidate_BL, proposal.masked_BL))
        taken_BL = taken_BL * (first_BL | proposal.filler_BL)
    return Selection(taken_BL, tuple(kept))


# --- ranks and runs ---------------------------------------------------------------------------------------------------


def ranks(score_BL: Tensor, among_BL: Tensor) -> Tensor:
    """Place of each position in falling order of score, 0 the best; those outside `among` come last. Ties: lower index.

    >>> ranks(torch.tensor([[0.2, 0.9, 0.5]]), torch.tensor([[True, False, True]]))
    tensor([[1, 2, 0]])
    """
    return torch.where(among_BL, score_BL, -torch.inf).argsort(dim=1, descending=True, stable=True).argsort(dim=1)


def best(score_BL: Tensor, among_BL: Tensor) -> Tensor:
    """The mask [B, L] of the one best position of each row; empty where `among` is empty. Ties: lower index."""
    top_B1 = torch.where(among_BL, score_BL, -torch.inf).argmax(dim=1, keepdim=True)
    return among_BL & (positions(score_BL) == top_B1)


def surest(proposal: Proposal, by_BL: Tensor | None = None) -> Tensor:
    """The one surest open position [B, L] of each row that must take one, by confidence or `by_BL`. Ties: lower index."""
    top_BL = best(proposal.confidence_BL if by_BL is None else by_BL, proposal.open_BL)
    return top_BL if proposal.forced_B is None else top_BL & proposal.forced_B[:, None]


def fillable(proposal: Proposal) -> Tensor:
    """How many positions of each row's block were open when it began [B]: all but what is fixed."""
    return (~proposal.fixed_BL).sum(dim=1)


def flat(number: "float | Tensor") -> "float | Tensor":
    """A setting that may be a column [B, 1] as it is counted with what is [B]."""
    return number[:, 0] if isinstance(number, Tensor) else number


def positions(like_BL: Tensor) -> Tensor:
    """0, 1, ... for each column [L]: one tensor for all that ask, so that no step makes it again. It is only read."""
    return _positions(like_BL.shape[1], like_BL.device)[0]


@functools.cache
def _positions(length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The positions, and numbers below zero of which each is another."""
    with torch.inference_mode(False):
        place_L = torch.arange(length, device=device)
        return place_L, ~place_L


def same_run(candidate_BL: Tensor, among_BL: Tensor) -> Tensor:
    """Whether i and j stand in one unbroken run of equal candidates within `among`. Bool [B, L, L].

    A position outside `among` is a run of its own.

    >>> same_run(torch.tensor([[7, 7, 3]]), torch.tensor([[True, True, False]]))[0].long()
    tensor([[1, 1, 0],
            [1, 1, 0],
            [0, 0, 1]])
    """
    key_BL = torch.where(among_BL, candidate_BL, _positions(among_BL.shape[1], among_BL.device)[1])
    number_BL = pad(key_BL[:, 1:] != key_BL[:, :-1], (1, 0)).cumsum(dim=1)
    return number_BL[:, :, None] == number_BL[:, None, :]


def best_of_run(key_BL: Tensor, same_BLL: Tensor) -> Tensor:
    """The mask [B, L] of positions that hold the largest key of their own run. Ties: lower index."""
    top_BL = torch.where(same_BLL, key_BL[:, None, :], -torch.inf).argmax(dim=2)
    return top_BL == positions(key_BL)
