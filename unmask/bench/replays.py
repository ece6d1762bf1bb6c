"""Decodes of random networks in as many forwards as a paper has published.

With random weights no confidence reaches a threshold, so `Replay` fixes how many tokens each forward commits. Everything
else is a real decode: the engine, the caches, and R2-dLLM's rules, which run and commit nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from unmask.bench import counting
from unmask.bench.counting import Cost
from unmask.bench.measure import Timing, rounds
from unmask.bench.workload import ANSWER, BLOCK, Load
from unmask.context.plan import Query
from unmask.context.pool import pages_for
from unmask.decode.memory import Memory
from unmask.decode.proposal import Proposal
from unmask.decode.redundancy import ConfidenceCluster, Temporal, TokenCluster
from unmask.decode.rule import Commit, Look, Rule, Terms, ranks
from unmask.decode.rules import COUNTED
from unmask.decode.settings import whole_field
from unmask.engine.engine import Engine, Limits
from unmask.engine.request import Request
from unmask.engine.state import RequestState
from unmask.errors import ConfigError
from unmask.methods.method import Method
from unmask.methods.parts import Refresh
from unmask.models.denoiser import Denoiser


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A published decode of 256 tokens in blocks of 32: R2-dLLM v1 (arXiv 2604.18995), table 1, GSM8K, batch 1, one H200.

    `forwards` are model calls per answer, rounded, refreshes included. Dream's published counts leave out the 8 refreshes
    (as its loop's counter does), so they are added here. `seconds` is the published latency for prompts of about 1,000 tokens.
    """

    name: str
    forwards: int
    seconds: float | None = None
    cached: bool = True


REPLAYED = "r2-dllm"  # the schedule of measurements that take only one
SCHEDULES: Mapping[str, tuple[Schedule, ...]] = {
    "LLaDA": (
        Schedule(name="vanilla", forwards=256, seconds=13.1, cached=False),
        Schedule(name="fast-dllm", forwards=86, seconds=2.7),
        Schedule(name=REPLAYED, forwards=63, seconds=2.3),
        Schedule(name="r2-dllm, tuned", forwards=52, seconds=1.7),
    ),
    "Dream": (
        Schedule(name="vanilla", forwards=256, seconds=10.4, cached=False),
        Schedule(name="fast-dllm", forwards=64 + 8, seconds=1.7),
        Schedule(name=REPLAYED, forwards=53 + 8, seconds=1.4),
        Schedule(name="r2-dllm, tuned", forwards=45 + 8, seconds=1.3),
    ),
    # Of block-causal models no forwards and seconds are published together: these are rates that their decoders reach.
    "SDAR": (Schedule(name="two tokens per forward", forwards=128),),
    "LLaDA2": (Schedule(name="four tokens per forward", forwards=64),),
}

PUBLISHED = "a replay takes what was published"
# The contexts that are measured, as settings of the replayed method. Every line is one curve.
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "dual cache": {"cache": "dual"},
    "prompt kept": {"cache": "dual", "refresh": Refresh(prompt_interval=None)},
}
EXACT: Mapping[str, Mapping[str, Any]] = {"exact cache": {}}  # of block-causal models, which have no other


def variants(model: Denoiser) -> Mapping[str, Mapping[str, Any]]:
    """The contexts that are measured of a model; the first is the usual one."""
    return VARIANTS if model.spec.block is None else EXACT


def schedules(model: Denoiser) -> tuple[Schedule, ...]:
    """The published decodes of the model's family."""
    return SCHEDULES[type(model.network).__name__]


@dataclass(frozen=True, kw_only=True)
class Replayed(Commit):
    """Commits so many positions per step that a row takes `forwards` forwards, spread evenly over its blocks.

    What is left over makes the earlier blocks one step longer. The length of the suffix tells which block it is, so the
    context must hold the whole suffix. Where there is none, as on block-causal models, all blocks are alike.
    """

    name: ClassVar[str] = "replayed"
    look: ClassVar[Look] = Look(label="replayed", sentence="as many as a published decode took per forward", **COUNTED)
    reads_open: ClassVar[bool] = True
    forwards: int = whole_field(1, search=PUBLISHED)
    blocks: int = whole_field(1, search=PUBLISHED)

    def __call__(self, proposal: Proposal, memory: Memory) -> tuple[Tensor, Memory]:
        length = proposal.open_BL.shape[1]
        number_B = self.blocks - 1 - proposal.suffix_B // length
        least, surplus = divmod(self.forwards, self.blocks)
        steps_B = least + (number_B < surplus)
        count_B = length // steps_B + (proposal.step_B < length % steps_B)
        return proposal.open_BL & (ranks(proposal.score_BL, proposal.open_BL) < count_B[:, None]), memory


@dataclass(frozen=True, kw_only=True)
class Replay(Method):
    """A method whose base rule is replaced by a count: `forwards` for the whole answer, refreshes included."""

    forwards: int = whole_field(1, search=PUBLISHED)

    def base(self, terms: Terms) -> Rule:
        """The replayed count."""
        blocks = terms.answer_length // terms.block_length
        if self.suffix is not None:
            raise ConfigError("a replay needs the whole suffix: leave suffix out")
        if not blocks <= self.forwards <= terms.answer_length:
            raise ConfigError(f"{terms.answer_length} tokens in {blocks} blocks cannot take {self.forwards} forwards")
        if terms.on_grid and self.forwards % blocks:
            raise ConfigError(
                f"{self.forwards} forwards are not as many in each of {blocks} blocks: without a suffix they must be"
            )
        return Replayed(forwards=self.forwards, blocks=blocks)


def replay(forwards: int, **settings: Any) -> Replay:
    """A replayed count, then R2-dLLM's rules, which run but reach no threshold; `settings` are fields of Method."""
    return Replay(
        name="replay",
        block_length=BLOCK,
        confidence_cluster=ConfidenceCluster(size=3, threshold=1.0, max_unmasked=1),
        token_cluster=TokenCluster(threshold=1.0),
        temporal=Temporal(steps=3, threshold=1.0),
        forwards=forwards,
        **settings,
    )


def proportional(model: Denoiser, answer: int) -> Replay:
    """R2-dLLM's published decode for answers of another length, with as many forwards per token."""
    published = next(schedule.forwards for schedule in schedules(model) if schedule.name == REPLAYED)
    return replay(round(published * answer / ANSWER), cache="dual")


def requests(model: Denoiser, method: Method, *, batch: int, prompt: int, answer: int) -> list[Request]:
    """Random prompts, the same ones every time."""
    plain = torch.tensor([token for token in range(model.spec.vocab_size) if token != model.spec.mask_id])
    ids = plain[torch.randint(len(plain), (batch, prompt), generator=torch.Generator().manual_seed(0))].tolist()
    return [Request(prompt=tuple(row), method=method, max_new_tokens=answer) for row in ids]


def decode(model: Denoiser, method: Replay, load: Load, *, batch: int, prompt: int, answer: int) -> Timing:
    """A batch through the engine, from the first forward to the last completion."""
    asked = requests(model, method, batch=batch, prompt=prompt, answer=answer)
    engine = engine_for(model, asked, rows=batch)

    def side() -> None:
        assert {row.forwards for row in engine.generate(asked)} == {method.forwards}, (
            "a replay takes the forwards that it replays"
        )

    return rounds([side], model.device, repeats=load.repeats, seconds=load.seconds)[0]


def engine_for(model: Denoiser, asked: Sequence[Request], *, rows: int) -> Engine:
    """An engine with memory for that many rows of these requests and no more."""
    return Engine(model, Limits.fitting(model, asked, rows=rows, tokens=Limits().budget(model)))


def least(model: Denoiser, method: Replay, *, batch: int, prompt: int, answer: int) -> Cost:
    """The bytes and operations of all forwards and decisions of a replay."""
    shape, size = model.network.shape, model.dtype.itemsize
    row = RequestState.start(requests(model, method, batch=1, prompt=prompt, answer=answer)[0], model)
    row.pages = tuple(range(pages_for(row.slots)))
    blocks = len(row.windows)
    cost = counting.decision(batch, row.recipe.length, shape.vocab, size) * method.forwards
    for number in range(blocks):
        row.block_number = number
        steps = method.forwards // blocks + (number < method.forwards % blocks)
        for age, times in ((0, 1), (1, steps - 1)):
            cost += counting.forward(shape, queries(row, age) * batch, size) * times
    return cost


def aged(row: RequestState, age: int) -> RequestState:
    """The row before its block's first forward (age 0), or a later one (1), as if the blocks before were done."""
    row.block_forwards = age
    if row.recipe.block is not None:
        before = row.windows[row.block_number - 1].start if row.block_number else 0
        row.kept = row.window.start if age else before
    return row


def queries(row: RequestState, age: int) -> list[Query]:
    """What a row asks of its block's first forward (age 0) or a later one (1).

    Of a block-causal model the block before goes along with the first, and with the very first the prompt.
    """
    return aged(row, age).queries(1)
