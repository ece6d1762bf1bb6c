"""The authors' decoders, replayed: tokens, forwards and every query of 453 decodes, and the networks' logits."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import unmask
from unmask.context.plan import Query, assemble
from unmask.context.policy import Window, policy
from unmask.context.pool import pages_for

GOLDEN = Path(__file__).parent / "golden"
MODELS = sorted(folder.name for folder in (GOLDEN / "models").iterdir())


@cache
def model(name: str) -> unmask.Denoiser:
    return unmask.load(GOLDEN / "models" / name, device="cpu")


@cache
def vectors() -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for line in (GOLDEN / "trajectories.jsonl").read_text().splitlines():
        vector = json.loads(line)
        found.setdefault((vector["system"], vector["case"], vector["model"]), []).append(vector)
    return found


@pytest.mark.parametrize("key", [pytest.param(key, id="-".join(key)) for key in vectors()])
def test_decode_equals_the_published_decoder(key: tuple[str, str, str]) -> None:
    for vector in vectors()[key]:
        queries: list[list[int]] = []
        method = unmask.Method.from_dict(vector["settings"])
        done = unmask.generate(
            model(vector["model"]),
            [vector["prompt"]],
            method=method,
            observer=lambda record, queries=queries: queries.append(record.query_tokens[0]),
        )[0]
        assert done.token_ids == vector["completion"], vector["id"]
        assert done.forwards == vector["forwards"], vector["id"]
        assert queries == vector["queries"], vector["id"]


def test_settings_survive_a_round_trip() -> None:
    for group in vectors().values():
        for vector in group:
            assert unmask.Method.from_dict(vector["settings"]).to_dict() == vector["settings"]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("cache_name", ["full", "full_after", "prefix_cache", "dual_cache"])
def test_logits_with_and_without_a_cache(name: str, cache_name: str) -> None:
    known = load_file(GOLDEN / "logits" / f"{name}.safetensors")
    denoiser = model(name)
    network = denoiser.network
    with torch.inference_mode():
        if cache_name.startswith("full"):
            tokens = known["tokens" if cache_name == "full" else "tokens_after"]
            logits = network(tokens)
        else:
            start, end = known["block"].tolist()
            total = known["tokens"].shape[1]
            window = Window(prompt=start, start=start, end=end, total=total)
            plan = policy(cache_name.removesuffix("_cache"), None)
            pool = denoiser.pool(2 * pages_for(total))
            pages = [pool.take(pages_for(total)) for _ in range(2)]
            for age, name_of_tokens in enumerate(("tokens", "tokens_after")):
                row_plan = plan(window, age)
                queries = [
                    Query(plan=row_plan, tokens=row[row_plan.query], start=start, length=end - start, pages=lent)
                    for row, lent in zip(known[name_of_tokens].tolist(), pages, strict=True)
                ]
                tokens, joined = assemble(queries, device=torch.device("cpu"))
                hidden = network.hidden(tokens[None], joined, pool)
            logits = network.project(hidden).unflatten(1, (2, -1))[0]
    torch.testing.assert_close(logits, known[f"logits_{cache_name}"], atol=1e-4, rtol=0)
