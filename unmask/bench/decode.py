"""The cost of a decode besides the network: one decision, everything after the logits, with a real vocabulary.

Ours against `plain`, loops over rows and windows as in the paper's formulas; both in one run, because absolute timings
of a shared machine mean little.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from unmask.bench.measure import rounds
from unmask.bench.workload import Load, Report
from unmask.decode.memory import Streak
from unmask.decode.step import BlockFacts, StepSettings, decide
from unmask.methods import load as load_method
from unmask.methods.method import Method

VOCABULARY, MASK, EOS = 126464, 336, 81  # LLaDA-8B's vocabulary; ids small enough for a short one too
SHAPES = ((1, 32, VOCABULARY), (16, 32, VOCABULARY))


def step_inputs(rows: int, length: int, vocabulary: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits [B, L, V] with confidences of all sizes, and a window of which about two thirds are masked."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, length, vocabulary, generator=generator)
    candidates = torch.randint(100, 300, (rows, length, 1), generator=generator)
    height = 8 + 12 * torch.rand(rows, length, 1, generator=generator)
    logits.scatter_(2, candidates, height)
    window = torch.where(torch.rand(rows, length, generator=generator) < 0.67, MASK, 7)
    return logits, window


def ours(
    logits_BLV: Tensor, window_BL: Tensor, memory: Streak, method: Method, *, mask_id: int = MASK, eos_id: int = EOS
) -> Callable[[], list[int]]:
    """Our decision for this evidence, up to the one number per row that the host reads."""
    rules = method.rules(window_BL.shape[1], shifted=False)
    settings = StepSettings(rules=rules, one_per_run=method.one_per_run, ending="first")
    empty = (*window_BL.shape, window_BL.device, torch.float32)
    states = tuple(None if rule.state is None else rule.state.empty(*empty) for rule in rules)
    memories = tuple(memory if isinstance(state, Streak) else state for state in states)
    step_B = torch.ones(len(window_BL), dtype=torch.int64, device=window_BL.device)
    facts = BlockFacts(torch.zeros_like(window_BL, dtype=torch.bool), step_B, step_B, None)
    eos_E = torch.tensor([eos_id], device=window_BL.device)

    def step() -> list[int]:
        states_BKL = window_BL[:, None]
        _, left_B = decide(settings, logits_BLV, states_BKL, facts, memories, mask_id=mask_id, eos_E=eos_E)
        left: list[int] = left_B.tolist()
        return left

    return step


def plain(logits_BLV: Tensor, window_BL: Tensor, memory: Streak, method: Method) -> Callable[[], list[int]]:
    """The same rules as loops over rows, ranks, windows and runs, with one comparison at a time.

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
        nothing = torch.zeros(length, dtype=torch.bool, device=window_BL.device)
        for row in range(len(window_BL)):
            is_open = window_BL[row] == MASK
            taken = nothing.clone()
            order = torch.where(is_open, exact[row], -torch.inf).argsort(descending=True)
            for rank in range(int(is_open.sum())):
                spot = order[rank]
                if rank == 0 or exact[row, spot] >= threshold:
                    taken[spot] = True
                else:
                    break
            rest = is_open & ~taken
            swallowed = nothing.clone()
            for start in range(length - spatial.size + 1):
                inside = rest[start : start + spatial.size]
                if not inside.any() or (spatial.max_unmasked is not None and (~inside).sum() > spatial.max_unmasked):
                    continue
                if exact[row, start : start + spatial.size][inside].mean() >= spatial.threshold:
                    swallowed[start : start + spatial.size] |= inside
            rest = rest & ~swallowed
            chosen = nothing.clone()
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
            stable = nothing.clone()
            for place in range(length):
                if rest[place]:
                    same = bool(memory.token[row, place] == candidates[row, place])
                    streak = int(memory.length[row, place]) + 1 if same else 1
                    stable[place] = streak >= temporal.steps and bool(again[row, place] >= temporal.threshold)
            written = torch.where(taken | swallowed | chosen | stable, candidates[row], window_BL[row])
            left.append(int((written == MASK).sum()))
        return left

    return step


def decisions(device: torch.device, load: Load, report: Report) -> Iterator[dict[str, Any]]:
    """Both decisions at each shape, taking turns; `ratio` is the plain loop's time divided by ours."""
    method = load_method("r2-dllm")
    for rows, length, vocabulary in SHAPES:
        report(f"decision at [{rows}, {length}, {vocabulary}]")
        logits, window = (part.to(device) for part in step_inputs(rows, length, vocabulary))
        memory = Streak.empty(rows, length, device, torch.float32)
        with torch.inference_mode():
            sides = (ours(logits, window, memory, method), plain(logits, window, memory, method))
            mine, other = rounds(sides, device, repeats=load.repeats, seconds=load.seconds)
        shape = {"rows": rows, "length": length, "vocabulary": vocabulary}
        yield {"what": "decision"} | shape | asdict(mine) | {"plain": asdict(other), "ratio": other.seconds / mine.seconds}
