"""What later models, rules and constraints build on, each proven with a toy: the engine equals the reference loop there too."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
from torch import Tensor

import unmask
from tests.bytewise import Bytes
from tests.reference import alone, forwards_of
from unmask.decode.constraint import Placed
from unmask.decode.memory import Memory, State
from unmask.decode.proposal import Proposal, Score
from unmask.decode.rule import Look, Rule, RulePart, best
from unmask.decode.rules import Threshold
from unmask.decode.settings import filled_field, whole_field
from unmask.engine.engine import Engine, Limits
from unmask.engine.generate import answer
from unmask.engine.request import Request
from unmask.methods.method import Method
from unmask.models.denoiser import Denoiser
from unmask.models.toy import EOS, MASK, toy

PROMPTS = [[1], [2, 3, EOS], list(range(7)), list(range(8)), [*range(8), EOS], [4] * 20]
STAYS = pytest.mark.parametrize("stays", [False, True])


def model(family: str = "llada", block: int | None = None, dtype: torch.dtype = torch.float32) -> Denoiser:
    made = toy(family, seed=5, sharpness=3, dtype=dtype)
    made.network.spec = dataclasses.replace(made.spec, block=block)
    return dataclasses.replace(made, tokenizer=Bytes())


def expect_equal(denoiser: Denoiser, requests: Sequence[Request]) -> list[unmask.Completion]:
    """In one batch, and few at a time: what the reference loop makes of each."""
    expected = [alone(denoiser, request) for request in requests]
    limits = Limits.fitting(denoiser, requests, rows=2)
    for done in (answer(denoiser, requests), Engine(denoiser, limits, ahead=True).generate(requests)):
        assert [dataclasses.replace(row, seconds=0.0) for row in done] == expected
    return expected


# --- rules that edit, rules with any state, rules that read hidden states -----------------------------------------------


LOOK = Look(label="toy", sentence="a rule of these tests", terminal="red", light="#cc0000", dark="#ff6666")


class Edits(NamedTuple):
    """How often each position has been rewritten, and a confidence to show that its precision is kept."""

    count: Tensor
    surest: Tensor

    @classmethod
    def empty(cls, rows: int, length: int, device: torch.device, dtype: torch.dtype) -> "Edits":
        whole = torch.zeros((rows, length), dtype=torch.int64, device=device)
        return cls(whole, torch.full((rows, length), 0.25, dtype=dtype, device=device))


@dataclass(frozen=True, kw_only=True)
class Rewrite(RulePart):
    """Every written position whose prediction has changed, at most `times` times in a block."""

    times: int = whole_field(1, default=2, search="a toy")
    name: ClassVar[str] = "rewrite"
    look: ClassVar[Look] = LOOK
    state: ClassVar[type[State] | None] = Edits
    edits: ClassVar[bool] = True

    def __call__(self, proposal: Proposal, memory: Memory) -> tuple[Tensor, Memory]:
        assert isinstance(memory, Edits)
        assert memory.surest.dtype == proposal.confidence_BL.dtype
        fresh_B = proposal.step_B == 0
        assert ((memory.count == 0) | ~fresh_B[:, None]).all()
        assert ((memory.surest == 0.25) | ~fresh_B[:, None]).all()
        changed_BL = proposal.editable & (proposal.candidate_BL != proposal.token_BL) & (memory.count < self.times)
        surest_BL = torch.maximum(memory.surest, proposal.confidence_BL)
        # It asks for what is fixed too, which `select` does not let it have.
        return changed_BL | proposal.fixed_BL, Edits(memory.count + changed_BL, surest_BL)


@dataclass(frozen=True, kw_only=True)
class With(Method):
    """A method and one rule more, after its own or (`first`) before them."""

    rule: Rule = filled_field(None)
    first: bool = filled_field(False)

    def rules(self, answer_length: int, **facts: Any) -> tuple[Rule, ...]:
        own = super().rules(answer_length, **facts)
        return (self.rule, *own) if self.first else (*own, self.rule)


def plus(name: str, rule: Rule, *, first: bool = False, **options: object) -> With:
    method = unmask.method(name, block_length=8, **options)
    return With(
        **{part.name: getattr(method, part.name) for part in dataclasses.fields(method) if part.init}, rule=rule, first=first
    )


@STAYS
def test_a_rule_may_rewrite_what_is_written_until_a_step_changes_nothing(stays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside other methods whose rules carry other states, on and off the tables of graphs."""
    monkeypatch.setattr(Denoiser, "replayable", stays)
    denoiser, rewritten, blocks = model(dtype=torch.float64), 0, 0
    methods = [
        plus("fast-dllm", Rewrite()),
        plus("fast-dllm", Rewrite(), draft_steps=3),
        plus("r2-dllm", Rewrite(times=1), first=True, cache="prefix"),
        plus("streaming-dllm-official", Rewrite()),
        unmask.method("r2-dllm", block_length=8),
    ]
    requests = [
        Request(prompt=tuple(prompt), method=methods[number % 5], max_new_tokens=32, fixed={3: 5, 9: EOS} if number % 2 else {})
        for number, prompt in enumerate([*PROMPTS, *PROMPTS[1:5]])
    ]
    expect_equal(denoiser, requests)
    for request in requests:
        decoded, prompt = forwards_of(denoiser, request), len(request.prompt)
        written = [position - prompt for forward in decoded.forwards for position in forward.committed]
        rewritten += len(written) - len(set(written))
        assert not set(written) & set(request.fixed)
        if isinstance(request.method, With):
            # Every block is left behind a forward that has changed nothing.
            ends = [number for number, forward in enumerate(decoded.forwards) if forward.refresh][1:]
            blocks += len(ends)
            assert all(not decoded.forwards[number - 1].committed for number in [*ends, 0])
    assert rewritten > 10
    assert blocks > 5


def test_drafts_of_a_method_that_edits_do_not_change_the_answer() -> None:
    denoiser = model(dtype=torch.float64)
    for prompt in PROMPTS:
        base, drafted = (
            alone(denoiser, Request(prompt=tuple(prompt), method=plus("fast-dllm", Rewrite(), **options), max_new_tokens=24))
            for options in ({}, {"draft_steps": 4})
        )
        assert drafted.token_ids == base.token_ids
        assert drafted.forwards <= base.forwards


def test_a_stream_hands_out_only_what_can_no_longer_change() -> None:
    """With a rule that edits, text comes block by block; what has been sent is always the beginning of the answer."""
    denoiser, sent = model(dtype=torch.float64), 0
    for prompt in PROMPTS:
        engine = Engine(denoiser)
        engine.submit(Request(prompt=tuple(prompt), method=plus("vanilla", Rewrite()), max_new_tokens=32), watch=True)
        text, blocks = "", set()
        while engine.busy:
            for progress in engine.step():
                text += progress.text
                assert progress.record is not None
                if progress.completion is None and progress.text:
                    sent += 1
                    # Only with the forward that ended a block: nothing is masked, and nothing was written.
                    assert not progress.record.committed[0]
                    assert MASK not in progress.record.block[0]
                    blocks.add(progress.record.start[0])
        assert progress.completion is not None
        assert text == progress.completion.text
    assert sent > 3


@dataclass(frozen=True, kw_only=True)
class Probe(RulePart):
    """The surest position, by the logits that the hidden states project to: those that the proposal was made of."""

    project: Tensor = filled_field(None)  # [V, C]
    name: ClassVar[str] = "probe"
    look: ClassVar[Look] = LOOK
    reads_hidden: ClassVar[bool] = True

    def __hash__(self) -> int:
        return id(self.project)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Probe) and self.project is other.project

    def __call__(self, proposal: Proposal, memory: Memory) -> tuple[Tensor, Memory]:
        assert proposal.hidden_BLC is not None
        logits_BLV = proposal.hidden_BLC @ self.project.T
        logits_BLV[..., MASK] = -torch.inf
        assert torch.equal(logits_BLV.argmax(-1), proposal.candidate_BL)
        return best(logits_BLV.amax(-1), proposal.open_BL), memory


@STAYS
@pytest.mark.parametrize("family", ["llada", "dream"])
def test_a_rule_may_read_the_last_hidden_states(family: str, stays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Denoiser, "replayable", stays)
    denoiser = model(family, dtype=torch.float64)
    probe = Probe(project=denoiser.network.head().weight)
    methods = [
        plus("fast-dllm", probe, first=True),
        plus("fast-dllm", probe, first=True, draft_steps=3),
        unmask.method("r2-dllm"),
    ]
    requests = [
        Request(prompt=tuple(prompt), method=methods[number % 3], max_new_tokens=32) for number, prompt in enumerate(PROMPTS)
    ]
    done = expect_equal(denoiser, requests)
    assert all(row.commits["probe"] > 0 for number, row in enumerate(done) if number % 3 < 2)


# --- fixed text and constraints ---------------------------------------------------------------------------------------


@STAYS
@pytest.mark.parametrize("name", ["vanilla", "fast-dllm", "freedave", "streaming-dllm-official"])
def test_fixed_text_is_seen_and_never_written(name: str, stays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Denoiser, "replayable", stays)
    fixed = {0: 7, 5: EOS, **dict.fromkeys(range(8, 16), 3), 20: 1}  # an EOS, and the second block whole
    method = dataclasses.replace(unmask.method(name, block_length=8, cache="dual"), stop_at_eos=None)
    requests = [Request(prompt=tuple(prompt), method=method, max_new_tokens=24, fixed=fixed) for prompt in PROMPTS]
    for request, completion in zip(requests, expect_equal(model(), requests), strict=True):
        assert {offset: completion.token_ids[offset] for offset in fixed} == fixed
        forwards = forwards_of(model(), request).forwards
        assert sum(forward.refresh for forward in forwards) == 2  # a block with nothing to do costs no forward
        assert sum(completion.commits.values()) == 24 - len(fixed)


def test_a_fixed_eos_ends_neither_decode_nor_text() -> None:
    denoiser, method = model(), unmask.method("vanilla", block_length=8)
    for offset in (0, 9):
        request = Request(prompt=(1, 2), method=method, max_new_tokens=16, fixed={offset: EOS})
        (done,) = expect_equal(denoiser, [request])
        assert done.tokens > offset + 1
        assert done.forwards > offset


@pytest.mark.parametrize(
    ("fixed", "words"),
    [
        ({16: 1}, "run from 0 to 15"),
        ({2: 99}, "id 99"),
        ({2: MASK}, "id 23"),
        (dict.fromkeys(range(16), 1), "at least one open"),
    ],
)
def test_fixed_text_that_does_not_fit_is_refused(fixed: dict[int, int], words: str) -> None:
    request = Request(prompt=(1, 2), method=unmask.method("vanilla", block_length=8), max_new_tokens=16, fixed=fixed)
    with pytest.raises(unmask.RequestError, match=words):
        Engine(model()).submit(request)


class Toys(NamedTuple):
    """What rows with toy constraints are held to: their own tokens [B, L], -1 where any may stand, and one that never does."""

    own_BL: Tensor
    never_B: Tensor

    def narrow(self, logits_RLV: Tensor, proposal: Proposal, sampling: object, score: Score) -> Proposal:
        times = len(logits_RLV) // len(self.own_BL)
        own_RL, never_R = self.own_BL.repeat_interleave(times, 0), self.never_B.repeat_interleave(times)
        allowed_RLV = logits_RLV.scatter(2, never_R[:, None, None].expand(*own_RL.shape, 1), -torch.inf)
        allowed_RLV[..., MASK] = -torch.inf
        candidate_RL = torch.where(own_RL >= 0, own_RL, allowed_RLV.argmax(-1))
        probability_RL = allowed_RLV.softmax(-1).gather(-1, candidate_RL[..., None])[..., 0]
        return proposal._replace(candidate_BL=candidate_RL, confidence_BL=probability_RL, score_BL=probability_RL)

    def forced(self, token_RL: Tensor) -> Tensor:
        return token_RL


@dataclass(frozen=True)
class Forbid:
    """One token never stands in the answer."""

    token: int
    alike: ClassVar[int] = 0

    @classmethod
    def together(cls, rows: Sequence[Placed]) -> Toys:
        free_BL = torch.full((len(rows), rows[0].length), -1)
        return Toys(free_BL, torch.tensor([row.constraint.token for row in rows]))  # type: ignore[attr-defined]

    def possible(self, tokens: Sequence[int]) -> bool:
        return True

    def after(self, tokens: Sequence[int]) -> "Forbid":
        assert MASK not in tokens
        return self


@dataclass(frozen=True)
class Alternate:
    """`first`, `second`, `first` and so on, to the last token of the answer."""

    first: int
    second: int
    alike: ClassVar[int] = 0

    @classmethod
    def together(cls, rows: Sequence[Placed]) -> Toys:
        place_BL = torch.stack([torch.arange(row.length) - row.prompt for row in rows])
        first, second = (
            torch.tensor([[getattr(row.constraint, name)] for row in rows])  # [B, 1]
            for name in ("first", "second")
        )
        return Toys(torch.where(place_BL % 2 == 0, first, second), torch.full((len(rows),), MASK))

    def possible(self, tokens: Sequence[int]) -> bool:
        return True

    def after(self, tokens: Sequence[int]) -> "Alternate":
        assert list(tokens) == [(self.first, self.second)[place % 2] for place in range(len(tokens))]
        return Alternate(self.second, self.first) if len(tokens) % 2 else self


@STAYS
@pytest.mark.parametrize("block", [None, 8])
def test_a_constraint_narrows_what_the_rules_see(block: int | None, stays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside requests without one; also where a block begins in the prompt, so that the alternation does not begin with it."""
    monkeypatch.setattr(Denoiser, "replayable", stays)
    denoiser = model() if block is None else toy("sdar", block=block, sharpness=3, dtype=torch.float64)
    methods = [
        unmask.method("vanilla", block_length=8, cache="dual" if block is None else "block"),
        unmask.method("r2-dllm", block_length=8, draft_steps=3),
        unmask.method("fast-dllm", block_length=8, temperature=1.0),
    ]
    plain = [alone(denoiser, Request(prompt=tuple(prompt), method=methods[0], max_new_tokens=24)) for prompt in PROMPTS]
    tokens = [token for row in plain for token in row.token_ids if token != EOS]
    frequent = max(tokens, key=tokens.count)
    constraints = [None, Forbid(frequent), Alternate(4, 9)]
    requests = [
        Request(
            prompt=tuple(prompt), method=method, max_new_tokens=24, temperature=method.temperature or 0.0, constraint=constraint
        )
        for prompt in PROMPTS[::2]
        for method in methods
        for constraint in constraints
    ]
    done = expect_equal(denoiser, requests)
    assert any(frequent in row.token_ids for row in done[0::3])
    assert all(frequent not in row.token_ids for row in done[1::3])
    assert all(row.token_ids == [4, 9] * 12 for row in done[2::3])


# --- a model's own values ---------------------------------------------------------------------------------------------


def test_a_models_own_values_replace_defaults_and_nothing_that_was_named() -> None:
    denoiser = model()
    denoiser.network.defaults = {"commit.threshold": 0.6, "block_length": 8, "cache": "none"}

    def used(method: Method) -> Method:
        return unmask.generate(denoiser, [[1, 2, 3]], method=method, max_new_tokens=16)[0].method

    own = used(unmask.method("fast-dllm"))
    assert (own.commit, own.block_length, own.cache) == (Threshold(threshold=0.6), 8, "none")
    named = used(unmask.method("fast-dllm", threshold=0.9, cache="dual", block_length=16))
    assert (named.commit, named.block_length, named.cache) == (Threshold(threshold=0.9), 16, "dual")
    assert used(unmask.method("fast-dllm-official", block_length=16)).commit == Threshold(threshold=0.9)
    assert unmask.method("fast-dllm").commit == Threshold(threshold=0.9)
