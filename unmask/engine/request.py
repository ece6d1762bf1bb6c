"""What goes into an engine and what comes out: frozen values, no tensors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal, NamedTuple

from unmask.decode.constraint import Constraint
from unmask.decode.rule import Look
from unmask.engine.holes import Layout
from unmask.errors import LogitsError
from unmask.methods.method import Method

FinishReason = Literal["stop", "length"]


class Owner(NamedTuple):
    """Whose a row is: an API key and a request of it, which share memory and forwards with others; "" is not named."""

    key: str = ""
    request: str = ""

    @property
    def levels(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The key, and the request within the key."""
        return (self.key,), (self.key, self.request)

    @property
    def named(self) -> list[tuple[str, ...]]:
        """Those that have a name; what has none leaves room for no other."""
        return [level for level in self.levels if level[-1]]


UNNAMED = Owner()


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt and how, how long, how random and until where to answer it.

    Attributes:
        prompt: token ids.
        method: how to decode; its own `max_new_tokens`, `temperature`, `top_p` and `top_k` are not looked at any more.
        max_new_tokens: length of the answer, EOS filler included.
        limit: tokens of the answer that the client gets, if fewer: decoding in blocks goes on to the end of one, and a
            request for 100 tokens must not get 128. None: all of them.
        temperature: 0 takes the most probable token.
        top_p, top_k: narrow the sampled distribution; None: the whole of it.
        seed: rows with the same prompt and seed get the same sample, whatever their batch.
        stop: strings that end the answer; needs a tokenizer.
        fixed: offset in the answer -> the token that stands there from the start.
        layout: the holes between them, where the answer is a canvas (`unmask.canvas`); `limit` is where it ends.
        constraint: what the answer must be; such requests decide among themselves.
        alternatives: how many of the most probable tokens are told beside each token of the answer.
        tells: whether what is told of a token comes with its text, in `Progress.told`; not of a canvas, whose end tells all.
        cache_scope: it shares the keys and values of its beginning with requests of the same scope alone.
        owner: whose it is, for the fair shares of memory and forwards; those of no name are one another's.
    """

    prompt: tuple[int, ...]
    method: Method
    max_new_tokens: int = 128
    limit: int | None = None
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    seed: int = 0
    stop: tuple[str, ...] = ()
    fixed: Mapping[int, int] = field(default_factory=dict)
    layout: Layout | None = None
    constraint: Constraint | None = None
    alternatives: int = 0
    tells: bool = False
    cache_scope: str = ""
    owner: Owner = UNNAMED

    @property
    def length(self) -> int:
        """Tokens of the answer that the client gets."""
        return self.max_new_tokens if self.limit is None else self.limit

    @property
    def given_tokens(self) -> int:
        """Tokens of the prompt, and of a canvas's text around its holes."""
        behind = range(0) if self.layout is None else range(self.limit or 0)
        return len(self.prompt) + sum(place in behind for place in self.fixed)


class TokenStep(NamedTuple):
    """How a token of an answer came to stand there, for the last time where rules rewrite tokens.

    Attributes:
        forward: 0-based number of the request's forward that wrote it.
        rule: the name of the rule that did.
        confidence: the token's probability then; in a hole that must be filled, among the tokens that are no end. None where
            the forward has none of it: the token moved there, or it is filler.
    """

    forward: int
    rule: str
    confidence: float | None


class Alternative(NamedTuple):
    """A token that may have been written, and the logarithm of its probability."""

    token: int
    logprob: float


class StepOutput(NamedTuple):
    """What the host learns of one row."""

    left: list[int]  # of each block of its window: masks left, or ENDED
    step: int  # of the first
    block: list[int]  # the window's tokens
    taken: list[int]
    confidence: list[float]  # of what was taken
    alternatives: list[list[Alternative]]  # of each place, or of none


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One answer.

    Attributes:
        text: decoded up to the first EOS or stop string; empty where the model has no tokenizer. Of a canvas the whole of it.
        token_ids: exactly max_new_tokens ids (or the request's limit), EOS filler included; a canvas's from its first hole on.
        tokens: how many of them come before the first EOS or stop string; what every rate is computed from. Of a canvas
            those that the model has written, which are its holes' up to their ends.
        forwards: model calls in which this row took part, refreshes included.
        query_tokens: tokens handed to the model over all those calls, drafts included.
        finish_reason: "stop" at an EOS or stop string, "length" where the answer filled its tokens. Of a canvas "length" where
            a hole that may end early did not.
        seconds: from the request until the row was done, waiting included.
        method: that was used, the model's own values filled in.
        commits: rule -> how many tokens it wrote, in the method's order; what lies behind the end of the answer counts too.
        cached_tokens: of the prompt, that were in no forward of it because their keys and values were there already.
        holes: the texts of a canvas's holes, as they stand in `text`; empty where there is no canvas.
        places: where each of the `tokens` stands in `token_ids`.
        steps: of each of them the forward that wrote it, the rule and the confidence.
        alternatives: of each of them the most probable tokens at that forward, where the request asks for them.
    """

    text: str
    token_ids: list[int]
    tokens: int
    forwards: int
    query_tokens: int
    finish_reason: FinishReason
    seconds: float
    method: Method
    commits: Mapping[str, int]
    cached_tokens: int = 0
    holes: list[str] = field(default_factory=list)
    places: list[int] = field(default_factory=list, compare=False, repr=False)
    steps: list[TokenStep] = field(default_factory=list, compare=False, repr=False)
    alternatives: list[list[Alternative]] = field(default_factory=list, compare=False, repr=False)

    @property
    def tokens_per_forward(self) -> float:
        """Tokens before the answer's end per model call."""
        return self.tokens / self.forwards if self.forwards else 0.0


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One forward and what came of it; every list has one entry per row of the forward.

    Attributes:
        forward: 0-based number of the model call within the batch.
        rows: indices into the prompts.
        refresh: whether it is the first forward of the row's block, which recomputes everything that it sees, or with a
            `prompt_interval` now and then everything but the prompt. Of a block-causal model it, or one before it.
        query_tokens: the ids handed to the model, without padding; drafts one after the other.
        committed: positions in the row (prompt included, 0-based) that were written, in rising order.
        tokens: the ids written there.
        rule: the rule that took each of them.
        looks: how the rules of the row are shown, by name.
        prompt: tokens of the row's prompt, behind which its answer begins.
        start: where the row's block begins.
        block: the block's ids before the forward, mask ids where nothing is written.
        candidate, confidence: what each position of the block would become and how surely; with drafts, at the last of
            the steps that the forward had evidence for. A forward that only makes keys and values final has none: its
            candidates are the block itself, with confidences of 0.
        refused: of each position of the block the token that the model would rather have written and the request's grammar
            does not allow there, or -1; empty of a row without a grammar.
    """

    forward: int
    rows: list[int]
    refresh: list[bool]
    query_tokens: list[list[int]]
    committed: list[list[int]]
    tokens: list[list[int]]
    rule: list[list[str]]
    prompt: list[int]
    start: list[int]
    block: list[list[int]]
    candidate: list[list[int]]
    confidence: list[list[float]]
    refused: list[list[int]] = field(default_factory=list)
    looks: list[Mapping[str, Look]] = field(default_factory=list)

    @classmethod
    def of_batch(cls, records: Sequence["StepRecord"], *, forward: int, rows: list[int]) -> "StepRecord":
        """One record of a forward from those of its rows."""
        lists = {
            part.name: [entry for record in records for entry in getattr(record, part.name)]
            for part in fields(cls)
            if part.name not in ("forward", "rows")
        }
        return cls(forward=forward, rows=rows, **lists)


Observer = Callable[[StepRecord], None]


@dataclass(frozen=True, kw_only=True)
class Draft:
    """How an answer would go on if every guess of the current block stood; anything of it may still change.

    Attributes:
        start: letters of text handed out so far; the draft goes behind them.
        text: decoded up to a guessed EOS.
        masked: offsets in the answer of the tokens that are guesses.
        forward: 0-based number of the request's forward.
    """

    start: int
    text: str
    masked: list[int]
    forward: int


class Told(NamedTuple):
    """What is told of some tokens of an answer, one behind the other: their ids, and as in `Completion`."""

    token_ids: list[int]
    steps: list[TokenStep]
    alternatives: list[list[Alternative]]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What one forward made of one request.

    Attributes:
        number: of the request, from `submit`.
        text: new text that can no longer change; all of them together are the completion's.
        completion: with the last progress; None before.
        error: in place of a completion, where the forward's logits were no numbers.
        told: of the tokens whose text is complete with this one; where the request `tells`, and not with the completion.
        record, draft: only where the request is watched. The record is that of a batch of this request alone.
    """

    number: int
    text: str
    completion: Completion | None = None
    error: LogitsError | None = None
    told: Told | None = None
    record: StepRecord | None = None
    draft: Draft | None = None
