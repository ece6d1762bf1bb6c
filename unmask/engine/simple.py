"""The reference loop: one batch, no scheduler. Papers and tests read this one.

A round takes the rows that are at the same kind of forward (refreshes, or block forwards), makes one model call for them
and lets each commit. Rows never wait for each other's blocks and never see each other's tokens.

    plan -> forward -> propose -> advance -> commit -> one read of a number a row: masks left, or ended

Shapes: B rows of a forward, T tokens of the longest row, L block length, K states of a block tried at once (1 unless
drafting), Q query tokens a row, V vocabulary.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.context.plan import ForwardPlan, assemble
from unmask.context.policy import RowPlan, Window, most_slots, policy
from unmask.decode.canvas import Canvas
from unmask.decode.memory import Memory, Streak
from unmask.decode.proposal import Proposal, Sampling, propose
from unmask.decode.rules import Temporal
from unmask.decode.step import ENDED, Ending, Outcome, advance, drafts, status
from unmask.engine.request import Completion, Observer, Request, StepRecord
from unmask.engine.text import Answer, read
from unmask.errors import ConfigError, EmptyPrompt, MaskInPrompt, PromptTooLong, RequestError
from unmask.methods.method import Method
from unmask.models.denoiser import Denoiser, ModelSpec

_ENDINGS: dict[str, Ending] = {
    "every step": "first",
    "after each finished block": "block",
    "after a block of nothing else": "whole block",
}


def decode(model: Denoiser, requests: Sequence[Request], method: Method, observer: Observer | None = None) -> list[Completion]:
    """Answer all requests as one batch; completions in their order.

    All requests ask for the same `max_new_tokens`. Raises RequestError or ConfigError before the first forward.
    """
    if not requests:
        return []
    if len({request.max_new_tokens for request in requests}) > 1:
        raise ConfigError("the requests of one batch must ask for the same max_new_tokens")
    for request in requests:
        check(request, model.spec)
    with torch.inference_mode():
        done = _Loop(model, requests, method, observer).run()
    return [done[index] for index in range(len(requests))]


def check(request: Request, spec: ModelSpec) -> None:
    """Raises a RequestError that says what is wrong with a prompt and what would be right."""
    if not request.prompt:
        raise EmptyPrompt("the prompt is empty: give it at least one token")
    if spec.mask_id in request.prompt:
        place = request.prompt.index(spec.mask_id)
        raise MaskInPrompt(f"the prompt holds the mask id {spec.mask_id} at position {place}: it stands for an unwritten token")
    odd = [token for token in request.prompt if not 0 <= token < spec.vocab_size]
    if odd:
        raise RequestError(f"the prompt holds the id {odd[0]}: ids run from 0 to {spec.vocab_size - 1}")
    surplus = len(request.prompt) + request.max_new_tokens - spec.max_length
    if surplus > 0:
        raise PromptTooLong(
            f"{len(request.prompt)} prompt tokens and {request.max_new_tokens} new ones exceed the model's "
            f"{spec.max_length} by {surplus}: shorten the prompt or ask for fewer new tokens"
        )


@dataclass(kw_only=True)
class _Row:
    """Where one request stands: numbers on the host."""

    index: int  # into the requests
    request: Request
    start: int  # of its block
    left: int  # masks left in its block when last looked at, or ENDED
    block_forwards: int = 0
    forwards: int = 0
    query_tokens: int = 0

    def tried(self, branches: int) -> int:
        """How many of a forward's `branches` states are the row's own; the others repeat a complete block for the batch."""
        return min(branches, max(1, self.left))


@dataclass(kw_only=True)
class _State:
    """Everything on the device that belongs to rows, first axis the row."""

    canvas: Canvas
    memories: tuple[Memory, ...]
    step_B: Tensor
    commits_BR: Tensor  # tokens written by each rule
    last: Proposal | None = None  # each row's newest evidence; kept only where drafts are made from it

    def take(self, rows_B: Tensor | None) -> tuple[Tensor, tuple[Memory, ...], Tensor]:
        """Tokens [B, T], memories and steps of some rows (None: all)."""
        if rows_B is None:
            return self.canvas.tokens_BT, self.memories, self.step_B
        return self.canvas.tokens_BT[rows_B], tuple(_pick(memory, rows_B) for memory in self.memories), self.step_B[rows_B]

    def put(self, rows_B: Tensor | None, outcome: Outcome) -> None:
        """Store what `advance` handed back for those rows."""
        rules_R = torch.arange(1, self.commits_BR.shape[1] + 1, device=self.commits_BR.device)
        new_BR = (outcome.taken_BL[..., None] == rules_R).sum(dim=1)
        if rows_B is None:
            self.commits_BR += new_BR
            self.memories, self.step_B = outcome.memories, outcome.step_B
            return
        self.commits_BR[rows_B] += new_BR
        self.step_B[rows_B] = outcome.step_B
        for kept, new in zip(self.memories, outcome.memories, strict=True):
            for whole, part in zip(kept or (), new or (), strict=True):
                whole[rows_B] = part

    def keep(self, rows_B: Tensor) -> None:
        """Drop every row but these."""
        self.canvas.keep(rows_B)
        self.memories = tuple(_pick(memory, rows_B) for memory in self.memories)
        self.step_B = self.step_B[rows_B]
        self.commits_BR = self.commits_BR[rows_B]
        if self.last is not None:
            self.last = Proposal(*(part[rows_B] for part in self.last))


def _pick(memory: Memory, rows_B: Tensor) -> Memory:
    return None if memory is None else Streak(*(part[rows_B] for part in memory))


class _Loop:
    """One batch on its way; `run` empties it."""

    def __init__(self, model: Denoiser, requests: Sequence[Request], method: Method, observer: Observer | None) -> None:
        self.model, self.method, self.observer = model, method, observer
        spec, device, answer = model.spec, model.device, requests[0].max_new_tokens
        shifted = spec.lookbehind > 0
        self.length = method.block(answer)
        self.rules = method.rules(answer, shifted=shifted)
        self.anchored = method.anchored(shifted=shifted)
        # The published Dream loops query the block alone and so mispredict its first token, which the anchor has fixed.
        self.lookbehind = 0 if method.official else spec.lookbehind
        self.branches = method.draft.steps if method.draft else 1
        # The published decoders rank by probabilities in float64 (LLaDA) or in the logits' type, where ties fall by chance;
        # float64 tells apart what float32 rounds to the same number.
        self.precision = torch.float64 if method.official else torch.float32
        self.subset = method.draft is not None and method.draft.match == "subset"
        self.policy = policy(method.cache, (method.suffix.window, method.suffix.tail) if method.suffix else None)
        stop = method.stop_at_eos
        self.ending: Ending = "never" if stop is None else _ENDINGS[stop.check]
        eos_ids = spec.eos_ids if stop is None or stop.eos_id is None else (stop.eos_id,)
        self.filler = eos_ids[0]
        # Text and counts end alike for every method; the published loops themselves know nothing of a turn's end.
        self.ends = eos_ids + spec.turn_ids
        self.eos = torch.tensor(eos_ids if method.official else self.ends, device=device)

        self.rows = [
            _Row(index=index, request=request, start=len(request.prompt), left=self.length)
            for index, request in enumerate(requests)
        ]
        self.slots = max(row.start for row in self.rows) + answer
        needs_pool = method.cache != "none" or self.branches > 1
        slots = most_slots(method.cache, self.slots, self.length, self.branches)
        self.pool = model.pool(len(self.rows), slots) if needs_pool else None
        precise = torch.promote_types(model.dtype, self.precision)
        self.state = _State(
            canvas=Canvas(
                [list(request.prompt) for request in requests],
                answer,
                mask_id=spec.mask_id,
                eos_id=self.filler,
                device=device,
            ),
            memories=tuple(
                Streak.empty(len(self.rows), self.length, device, precise) if isinstance(rule, Temporal) else None
                for rule in self.rules
            ),
            step_B=torch.zeros(len(self.rows), dtype=torch.int64, device=device),
            commits_BR=torch.zeros((len(self.rows), len(self.rules)), dtype=torch.int64, device=device),
        )
        self.calls = 0
        self.began = time.perf_counter()

    def run(self) -> dict[int, Completion]:
        """Rounds until every row is done."""
        done: dict[int, Completion] = {}
        while self.rows:
            refreshing = [number for number, row in enumerate(self.rows) if row.block_forwards == 0]
            going_on = [number for number, row in enumerate(self.rows) if row.block_forwards > 0]
            for group in (refreshing, going_on):
                if group:
                    self._round(group)
            over = [number for number, row in enumerate(self.rows) if self._is_over(number, row)]
            done |= {self.rows[number].index: self._complete(number) for number in over}
            if over:
                kept = [number for number in range(len(self.rows)) if number not in over]
                self.rows = [self.rows[number] for number in kept]
                rows_B = torch.tensor(kept, dtype=torch.int64, device=self.model.device)
                self.state.keep(rows_B)
                if self.pool is not None:
                    self.pool.keep(rows_B)
        return done

    # --- a round: one forward, and what each of its rows makes of it

    def _round(self, group: list[int]) -> None:
        rows = [self.rows[number] for number in group]
        device, mask_id = self.model.device, self.model.spec.mask_id
        rows_B = None if len(group) == len(self.rows) else torch.tensor(group, device=device)
        start_B = torch.tensor([row.start for row in rows], device=device)
        tokens_BT, memories, step_B = self.state.take(rows_B)

        window_BL = tokens_BT.gather(1, start_B[:, None] + torch.arange(self.length, device=device))
        states_BKL = window_BL[:, None]
        if self.branches > 1 and rows[0].block_forwards > 0:
            assert self.state.last is not None
            last = self.state.last if rows_B is None else Proposal(*(part[rows_B] for part in self.state.last))
            states_BKL = drafts(window_BL, last, min(self.branches, max(1, *(row.left for row in rows))), mask_id)
        branches = states_BKL.shape[1]

        plans, plan, suffix_B = self._plan(rows, branches, rows_B)
        query_BQ = tokens_BT.gather(1, plan.positions_BQ)
        if branches > 1:
            query_BQ = query_BQ.scatter(1, plan.read_BR, states_BKL.flatten(1))
        # Everything that the host copies to the device goes there before the forward: a copy behind it would wait for it.
        sampling = self._sampling(rows, branches)
        logits_BRV = self.model.forward(query_BQ, plan, self.pool)
        proposal = propose(
            logits_BRV.reshape(len(rows) * branches, self.length, -1),
            states_BKL.flatten(0, 1) == mask_id,
            mask_id=mask_id,
            step_B=step_B.repeat_interleave(branches),
            suffix_B=suffix_B.repeat_interleave(branches),
            eos=self.eos,
            score=self.method.score,
            sampling=sampling,
            precision=self.precision,
        )
        outcome = advance(
            self.rules,
            proposal,
            states_BKL,
            memories,
            mask_id=mask_id,
            one_per_run=self.method.one_per_run,
            subset=self.subset,
        )
        self.state.canvas.commit(start_B, outcome.window_BL, rows_B)
        self.state.put(rows_B, outcome)
        if self.branches > 1:
            self._remember(outcome.last, rows_B)
        if self.observer is not None:
            self._observe(rows, plans, query_BQ.reshape(len(rows), branches, -1), window_BL, outcome)
        self.calls += 1

        # The one thing that the host waits for.
        left = status(outcome.window_BL, mask_id=mask_id, eos=self.eos, ending=self.ending).tolist()
        for row, row_plan, masks in zip(rows, plans, left, strict=True):
            row.query_tokens += row.tried(branches) * row_plan.tokens
            row.left = masks
            row.forwards += 1
            row.block_forwards += 1

    def _plan(self, rows: list[_Row], branches: int, rows_B: Tensor | None) -> tuple[list[RowPlan], ForwardPlan, Tensor]:
        """Each row's plan, the forward's, and how many positions behind the block each row shows it, [B]."""
        plans = [
            self.policy(
                Window(
                    start=row.start,
                    end=row.start + self.length,
                    total=len(row.request.prompt) + row.request.max_new_tokens,
                    lookbehind=self.lookbehind,
                ),
                row.block_forwards,
            )
            for row in rows
        ]
        starts = [row.start for row in rows]
        suffix = [len(plan.positions) - start - self.length for plan, start in zip(plans, starts, strict=True)]
        joined = assemble(
            plans,
            starts,
            self.length,
            branches=branches,
            slots=None if self.pool is None else self.slots,
            rows_B=rows_B,
            device=self.model.device,
        )
        return plans, joined, torch.tensor(suffix, device=self.model.device)

    def _sampling(self, rows: list[_Row], branches: int) -> Sampling | None:
        requests = [row.request for row in rows]
        if not any(request.temperature > 0 for request in requests):
            return None
        vocabulary = self.model.spec.vocab_size

        def column(values: list[float] | list[int]) -> Tensor:
            return torch.tensor(values, device=self.model.device).repeat_interleave(branches)[:, None]

        top_p = [1.0 if request.top_p is None else request.top_p for request in requests]
        top_k = [vocabulary if request.top_k is None else request.top_k for request in requests]
        starts = column([row.start - len(row.request.prompt) for row in rows])
        return Sampling(
            temperature_B1=column([request.temperature for request in requests]),
            seed_B1=column([request.seed for request in requests]),
            positions_BL=starts + torch.arange(self.length, device=self.model.device),
            top_p_B1=column(top_p) if min(top_p) < 1 else None,
            top_k_B1=column(top_k) if min(top_k) < vocabulary else None,
        )

    def _remember(self, last: Proposal, rows_B: Tensor | None) -> None:
        if rows_B is None:
            self.state.last = last
            return
        assert self.state.last is not None, "the first round refreshes every row"
        for whole, part in zip(self.state.last, last, strict=True):
            whole[rows_B] = part

    def _observe(self, rows: list[_Row], plans: list[RowPlan], query_BKQ: Tensor, before_BL: Tensor, outcome: Outcome) -> None:
        """Tell the observer; this reads the device, which nobody pays for who does not look."""
        assert self.observer is not None
        branches = query_BKQ.shape[1]
        queries = [
            row_KQ[: row.tried(branches), : plan.tokens].flatten().tolist()
            for row_KQ, row, plan in zip(query_BKQ, rows, plans, strict=True)
        ]
        taken = [[(place, rule) for place, rule in enumerate(row_L) if rule] for row_L in outcome.taken_BL.tolist()]
        windows = outcome.window_BL.tolist()
        self.observer(
            StepRecord(
                forward=self.calls,
                rows=[row.index for row in rows],
                refresh=rows[0].block_forwards == 0,
                query_tokens=queries,
                committed=[[row.start + place for place, _ in new] for row, new in zip(rows, taken, strict=True)],
                tokens=[[window[place] for place, _ in new] for window, new in zip(windows, taken, strict=True)],
                rule=[[self.rules[rule - 1].name for _, rule in new] for new in taken],
                start=[row.start for row in rows],
                block=before_BL.tolist(),
                candidate=outcome.last.candidate_BL.tolist(),
                confidence=outcome.last.confidence_BL.tolist(),
            )
        )

    # --- the end of a block, and of a row

    def _is_over(self, number: int, row: _Row) -> bool:
        """Whether a row is done; if only its block is, move the row to the next one."""
        if row.left == ENDED or (
            row.request.stop and self.ending == "first" and self._answer(row, self._written(number)).stopped
        ):
            return True
        # The published Dream loops spend one forward on the block even where the refresh has completed it.
        if row.left > 0 or (self.anchored and row.block_forwards < 2):
            return False
        row.start += self.length
        row.block_forwards = 0
        row.left = self.length
        self.state.step_B[number] = 0
        return row.start == len(row.request.prompt) + row.request.max_new_tokens

    def _written(self, number: int) -> list[int]:
        """A row's answer up to its first mask."""
        request = self.rows[number].request
        prompt = len(request.prompt)
        ids: list[int] = self.state.canvas.tokens_BT[number, prompt : prompt + request.max_new_tokens].tolist()
        mask_id = self.model.spec.mask_id
        return ids[: ids.index(mask_id)] if mask_id in ids else ids

    def _answer(self, row: _Row, ids: list[int]) -> Answer:
        return read(ids, self.model.tokenizer, self.ends, row.request.stop)

    def _complete(self, number: int) -> Completion:
        row, ids = self.rows[number], self._written(number)
        answer = self._answer(row, ids)
        if self.ending == "first":
            kept = answer.tokens + (answer.tokens < len(ids) and ids[answer.tokens] in self.ends)
        else:
            kept = min(row.start + self.length - len(row.request.prompt), len(ids)) if row.left == ENDED else len(ids)
        return Completion(
            text=answer.text,
            token_ids=ids[:kept] + [self.filler] * (row.request.max_new_tokens - kept),
            tokens=answer.tokens,
            forwards=row.forwards,
            query_tokens=row.query_tokens,
            finish_reason="stop" if answer.stopped else "length",
            seconds=time.perf_counter() - self.began,
            commits=dict(zip((rule.name for rule in self.rules), self.state.commits_BR[number].tolist(), strict=True)),
        )
