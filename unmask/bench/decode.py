"""What decoding costs besides the network, and what the methods save of it.

Two measurements, each A against B in one run, because timings of a shared machine mean little by themselves:

* one step's decision (everything after the logits) at a real vocabulary, ours against `plain`, a row-and-window loop
  written straight from the paper's formulas;
* tokens per second of every preset on a model, against itself with no cache and against vanilla.
"""

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from unmask import tasks
from unmask.decode.memory import Streak
from unmask.decode.proposal import propose
from unmask.decode.rules import Temporal
from unmask.decode.step import advance, status
from unmask.engine.generate import generate
from unmask.methods import TABLE, load
from unmask.methods.method import Method
from unmask.models.denoiser import Denoiser

VOCABULARY, MASK, EOS = 126464, 336, 81  # LLaDA-8B's vocabulary; ids small enough for a short one too
SHAPES = ((1, 32, VOCABULARY), (16, 32, VOCABULARY))


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Seconds of one decision step at one shape, medians of `repeats`."""

    rows: int
    length: int
    vocabulary: int
    ours: float
    plain: float
    repeats: int

    @property
    def ratio(self) -> float:
        return self.plain / self.ours


@dataclass(frozen=True, kw_only=True)
class Speed:
    """One preset on the model: all figures over the same prompts at batch 1."""

    method: str
    forwards: float
    tokens_per_second: float
    times_no_cache: float  # against the same method with cache="none"
    times_vanilla: float  # against vanilla, which has no cache


def step_inputs(rows: int, length: int, vocabulary: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits [B, L, V] that look like a half-sure model's, and a window with about two thirds of it masked."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, length, vocabulary, generator=generator)
    candidates = torch.randint(100, 300, (rows, length, 1), generator=generator)
    height = 8 + 12 * torch.rand(rows, length, 1, generator=generator)
    logits.scatter_(2, candidates, height)
    window = torch.where(torch.rand(rows, length, generator=generator) < 0.67, MASK, 7)
    return logits, window


def ours(logits_BLV: Tensor, window_BL: Tensor, memory: Streak, method: Method) -> Callable[[], list[int]]:
    """Our decision for this evidence, up to the one number a row that the host reads."""
    rules = method.rules(window_BL.shape[1], shifted=False)
    memories = tuple(memory if isinstance(rule, Temporal) else None for rule in rules)
    step_B = torch.ones(len(window_BL), dtype=torch.int64)
    eos = torch.tensor([EOS])

    def step() -> list[int]:
        proposal = propose(logits_BLV, window_BL == MASK, mask_id=MASK, step_B=step_B, suffix_B=step_B, eos=eos)
        outcome = advance(rules, proposal, window_BL[:, None], memories, mask_id=MASK, one_per_run=method.one_per_run)
        left: list[int] = status(outcome.window_BL, mask_id=MASK, eos=eos, ending="first").tolist()
        return left

    return step


def plain(logits_BLV: Tensor, window_BL: Tensor, memory: Streak, method: Method) -> Callable[[], list[int]]:
    """The same rules as loops over rows, ranks, windows and runs, one comparison at a time, as a first reading gives them.

    Probabilities in float64 for threshold and windows and in float32 again for runs and streaks, as published.
    """
    threshold = method.to_dict()["commit"]["threshold"]
    spatial, token, temporal = method.confidence_cluster, method.token_cluster, method.temporal
    assert spatial is not None
    assert token is not None
    assert temporal is not None

    def step() -> list[int]:
        candidates = logits_BLV.argmax(-1)
        exact = logits_BLV.double().softmax(-1).gather(-1, candidates[..., None])[..., 0]
        single = logits_BLV.float().softmax(-1).gather(-1, candidates[..., None])[..., 0]
        again = logits_BLV.float().softmax(-1).gather(-1, candidates[..., None])[..., 0]
        left = []
        length = window_BL.shape[1]
        for row in range(len(window_BL)):
            is_open = window_BL[row] == MASK
            taken = torch.zeros(length, dtype=torch.bool)
            order = torch.where(is_open, exact[row], -torch.inf).argsort(descending=True)
            for rank in range(int(is_open.sum())):
                spot = order[rank]
                if rank == 0 or exact[row, spot] >= threshold:
                    taken[spot] = True
                else:
                    break
            rest = is_open & ~taken
            swallowed = torch.zeros(length, dtype=torch.bool)
            for start in range(length - spatial.size + 1):
                inside = rest[start : start + spatial.size]
                if not inside.any() or (spatial.max_unmasked is not None and (~inside).sum() > spatial.max_unmasked):
                    continue
                if exact[row, start : start + spatial.size][inside].mean() >= spatial.threshold:
                    swallowed[start : start + spatial.size] |= inside
            rest = rest & ~swallowed
            chosen = torch.zeros(length, dtype=torch.bool)
            begin = 0
            while begin < length:
                end = begin + 1
                if rest[begin]:
                    while end < length and rest[end] and candidates[row, end] == candidates[row, begin]:
                        end += 1
                    if end - begin >= token.min_length and single[row, begin:end].max() > token.threshold:
                        chosen[begin + int(single[row, begin:end].argmax())] = True
                begin = end
            rest = rest & ~chosen
            stable = torch.zeros(length, dtype=torch.bool)
            for place in range(length):
                if rest[place]:
                    same = bool(memory.token[row, place] == candidates[row, place])
                    streak = int(memory.length[row, place]) + 1 if same else 1
                    stable[place] = streak >= temporal.steps and bool(again[row, place] >= temporal.threshold)
            written = torch.where(taken | swallowed | chosen | stable, candidates[row], window_BL[row])
            left.append(int((written == MASK).sum()))
        return left

    return step


def decisions(
    report: Callable[[str], None] = lambda line: None, shapes: tuple[tuple[int, int, int], ...] = SHAPES
) -> list[Decision]:
    """Both decisions at each shape, taking turns, so that a busy moment hits both."""
    method = load("r2-dllm")
    found = []
    for rows, length, vocabulary in shapes:
        report(f"decision step at [{rows}, {length}, {vocabulary}]")
        logits, window = step_inputs(rows, length, vocabulary)
        memory = Streak.empty(rows, length, logits.device, torch.float32)
        repeats = 15 if rows == 1 else 5
        with torch.inference_mode():
            sides = (ours(logits, window, memory, method), plain(logits, window, memory, method))
            for side in sides:
                side()
            times: tuple[list[float], list[float]] = ([], [])
            for _ in range(repeats):
                for side, spent in zip(sides, times, strict=True):
                    began = time.perf_counter()
                    side()
                    spent.append(time.perf_counter() - began)
        median = [statistics.median(spent) for spent in times]
        found.append(
            Decision(rows=rows, length=length, vocabulary=vocabulary, ours=median[0], plain=median[1], repeats=repeats)
        )
    return found


def speeds(model: Denoiser, problems: int = 8, report: Callable[[str], None] = lambda line: None) -> list[Speed]:
    """Tokens per second of every preset at batch 1, over the same problems, with its cache and without, taking turns."""
    prompts = [problem.question for problem in itertools.islice(tasks.problems("arithmetic", "test", seed=7), problems)]
    found: list[Speed] = []
    for name in TABLE:
        report(f"{problems} problems with {name}")
        sides = (load(name), load(name, cache="none"))
        spent, tokens, forwards = [0.0, 0.0], [0, 0], [0, 0]
        for method in sides:
            generate(model, prompts[:1], method=method)
        for prompt in prompts:
            for side, method in enumerate(sides):
                began = time.perf_counter()
                row = generate(model, [prompt], method=method)[0]
                spent[side] += time.perf_counter() - began
                tokens[side] += row.tokens
                forwards[side] += row.forwards
        cached, uncached = (count / seconds for count, seconds in zip(tokens, spent, strict=True))
        found.append(
            Speed(
                method=name,
                forwards=forwards[0] / problems,
                tokens_per_second=cached,
                times_no_cache=cached / uncached,
                times_vanilla=cached / found[0].tokens_per_second if found else 1.0,
            )
        )
    return found


def document(model: Denoiser, steps: list[Decision], rates: list[Speed]) -> dict[str, Any]:
    """Everything measured, as one JSON document."""
    return {
        "benchmark": "decode",
        "model": model.name,
        "device": str(model.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "decision_step": [asdict(step) | {"ratio": step.ratio} for step in steps],
        "methods": [asdict(rate) for rate in rates],
    }
