"""Networks of the published shapes: refresh, block forward, decision and whole replayed decodes, each against its floor."""

import gc
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch

from unmask.bench import counting
from unmask.bench.counting import Cost, Rates
from unmask.bench.decode import ours
from unmask.bench.floors import name, rates
from unmask.bench.measure import Side, Timing, rounds, wait
from unmask.bench.replays import REPLAYED, Replay, decode, least, queries, replay, requests, schedules, variants
from unmask.bench.workload import ANSWER, BLOCK, PUBLISHED, Load, Report, shaped
from unmask.context.plan import assemble
from unmask.context.pool import KVPool, pages_for
from unmask.decode.memory import Streak
from unmask.engine.graphs import capturing
from unmask.engine.state import RequestState
from unmask.methods import load as load_method
from unmask.models.denoiser import Denoiser

Rows = Iterator[dict[str, Any]]


def shapes(device: torch.device, load: Load, report: Report, floors: list[dict[str, Any]]) -> Rows:
    """For each shape its description, forwards and decodes, against `floors`; what does not fit yields a row with that fact."""
    limits = rates(floors, load.dtype)
    for shape in load.shapes:
        report(f"making {shape}")
        model = shaped(shape, device, load.dtype)
        parameters = sum(weight.numel() for weight in model.network.parameters())
        described = {"parameters": parameters, "bytes": parameters * model.dtype.itemsize, "dtype": name(load.dtype)}
        yield {"what": "shape", "model": shape} | described | asdict(model.network.shape)
        for prompt in load.prompts:
            for variant in variants(model):
                for batch in load.batches:
                    report(f"{shape}, {variant}: batch {batch}, prompts of {prompt} tokens")
                    point = {"model": shape, "variant": variant, "batch": batch, "prompt": prompt, "answer": ANSWER}
                    try:
                        for what, (cost, timing) in forwards(model, load, variant, **_sizes(point)).items():
                            yield {"what": what} | point | against(cost, timing, limits)
                        if batch in load.decodes:
                            yield from _decodes(model, load, limits, point, report)
                    except torch.OutOfMemoryError:
                        yield {"what": "out of memory"} | point
                        release(device)
        del model
        release(device)


def release(device: torch.device) -> None:
    """Free the memory that a deleted network leaves."""
    gc.collect()
    if device.type == "cuda":
        wait(device)
        torch.cuda.empty_cache()


def forwards(
    model: Denoiser, load: Load, variant: str, *, batch: int, prompt: int, answer: int
) -> dict[str, tuple[Cost, Timing]]:
    """A refresh, a block forward and a decision at the middle block of the answer, taking turns."""
    shape, size, mask = model.network.shape, model.dtype.itemsize, model.spec.mask_id
    method = replay(answer // 4, **variants(model)[variant])
    rows, pool = mid_answer(model, method, batch=batch, prompt=prompt, answer=answer)
    length = rows[0].recipe.length
    calls: dict[str, Side] = {}
    costs: dict[str, Cost] = {}
    with torch.inference_mode():
        for what, age in (("refresh", 0), ("block forward", 1)):
            asked = [query for row in rows for query in queries(row, age)]
            calls[what] = block = partial(model.forward, *assemble(asked, device=model.device), pool)
            costs[what] = counting.forward(shape, asked, size)
        logits = block().view(batch, length, -1)
        window = torch.full((batch, length), mask, device=model.device)
        memory = Streak.empty(batch, length, model.device, torch.float32)
        calls["decision"] = ours(
            logits, window, memory, load_method("r2-dllm", block_length=length), mask_id=mask, eos_id=model.spec.eos_ids[0]
        )
        costs["decision"] = counting.decision(batch, length, shape.vocab, size)
        if (replayed := capturing(model.device)(block)) is not None:
            # The kernels alone: the time that an engine with CUDA graphs can reach.
            calls["block forward, captured"] = replayed
            costs["block forward, captured"] = costs["block forward"]
        timings = rounds(list(calls.values()), model.device, repeats=load.repeats, seconds=load.seconds)
    return {what: (cost, timing) for (what, cost), timing in zip(costs.items(), timings, strict=True)}


def mid_answer(model: Denoiser, method: Replay, *, batch: int, prompt: int, answer: int) -> tuple[list[RequestState], KVPool]:
    """Rows at the middle block of their answers, and the key/value memory with their pages."""
    rows = [
        RequestState.start(request, model) for request in requests(model, method, batch=batch, prompt=prompt, answer=answer)
    ]
    pool = model.pool(sum(pages_for(row.slots) for row in rows))
    for row in rows:
        row.pages = pool.take(pages_for(row.slots))
        row.block_number = len(row.windows) // 2
    return rows, pool


def _decodes(model: Denoiser, load: Load, limits: Rates, point: dict[str, Any], report: Report) -> Rows:
    """Replays of the published schedules: all at batch 1, as they were published, one of them at other batches.

    A decode without a cache has forwards of one kind, so one per block is measured and the rest extrapolated.
    """
    published = schedules(model)
    names = [schedule.name for schedule in published]
    at_batches = REPLAYED if REPLAYED in names else names[-1]
    for schedule in published:
        if schedule.name != at_batches and (point["batch"] > 1 or not load.whole):
            continue
        if not schedule.cached and point["variant"] != next(iter(variants(model))):
            continue  # without a cache all variants are the same
        report(f"{model.name}: {schedule.name}, batch {point['batch']}, prompts of {point['prompt']} tokens")
        method = replay(schedule.forwards, **variants(model)[point["variant"]])
        if not schedule.cached:
            method = replay(ANSWER // BLOCK, cache="none")
        times = schedule.forwards / method.forwards
        if model.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(model.device)
        made = decode(model, method, load, **_sizes(point))
        timing = replace(made, seconds=made.seconds * times, fastest=made.fastest * times, slowest=made.slowest * times)
        row = {
            "what": "decode",
            "schedule": schedule.name,
            "forwards": schedule.forwards,
            "extrapolated_from": None if schedule.cached else method.forwards,
            "tokens_per_second": point["batch"] * ANSWER / timing.seconds,
            "published_seconds": schedule.seconds if point["batch"] == 1 and model.name in PUBLISHED else None,
            "peak_bytes": torch.cuda.max_memory_allocated(model.device) if model.device.type == "cuda" else None,
        }
        yield row | point | against(least(model, method, **_sizes(point)) * round(times), timing, limits)


def against(cost: Cost, timing: Timing, limits: Rates) -> dict[str, Any]:
    """A measured time, its floor and their ratio."""
    floor = limits.floor(cost)
    return {"bytes": cost.bytes, "flops": cost.flops, "floor": floor, "ratio": timing.seconds / floor} | asdict(timing)


def _sizes(point: dict[str, Any]) -> dict[str, int]:
    return {size: point[size] for size in ("batch", "prompt", "answer")}
