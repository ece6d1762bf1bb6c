"""Vectors of block-causal models against our engine: logits, experts, batches and whole decodes of any folder of the format.

A decode is a trajectory of `unmask.generate`, watched by its observer; no loop is written here.
"""

import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

import unmask
from unmask.engine.generate import answer, make_request
from unmask.models.loading import build
from unmask.models.stored import read_json
from unmask.models.weights import fill

MASK = 255
MIXED = 16  # rows of a mixed batch
Vector = Mapping[str, Any]


class Decode(NamedTuple):
    """What a trajectory is compared by: the tokens behind the prompt, masks included, and a letter per forward."""

    written: list[int]
    kinds: str


@cache
def model(folder: Path) -> unmask.Denoiser:
    """A model of the vectors, whose mask is 255, which some of their configs do not say."""
    network = build({"mask_token_id": MASK} | read_json(folder / "config.json"), folder)
    fill(network, folder, device=torch.device("cpu"), dtype=None)
    return unmask.Denoiser(network=network.eval(), tokenizer=None, name=folder.name)


# --- (system, settings) to a method ------------------------------------------------------------------------------------

CHECKS = {
    "sdar-eval": "after each finished block",
    "llada2": "after each finished block",
    "llada2.1-port": "after each finished block",
    "fast-dllm-v2-hub": "every step",
    "fast-dllm-v2": "after each finished block",
}
OTHERS = ("sdar-script", "sglang", "sglang-indel", "freedave", "vanilla", "fast-dllm")
KEYS = {
    *("parity", "max_new_tokens", "block_length", "commit", "cache", "edit", "stop", "early"),
    *("sub_block", "sub_block_cache", "draft_steps", "eager"),
}


def method(vector: Vector) -> unmask.Method:
    """The method of a trajectory. Raises ConfigError where the system or a setting is none of ours."""
    system, settings = vector["system"], dict(vector["settings"])
    if system not in CHECKS and system not in OTHERS:
        raise unmask.ConfigError(f"unknown system {system}")
    if unread := sorted(settings.keys() - KEYS):
        raise unmask.ConfigError(f"unknown settings {', '.join(unread)}")
    read = {key: settings[key] for key in ("parity", "block_length", "commit", "cache")}
    read["max_new_tokens"] = new_tokens(vector)
    if settings["stop"]:
        check = "every step that writes one" if settings.get("early") else CHECKS[system]
        read["stop_at_eos"] = {"check": check, "eos_id": settings["stop"]}
    if system == "fast-dllm-v2-hub" and not settings["stop"]:
        read["stop_at_eos"] = {"check": "every step", "eos_id": MASK}  # which is never written: the loop looks all the same
    if system.startswith("sglang"):
        read["prefill"] = "one by one"
    if "edit" in settings:
        read["edit"] = settings["edit"]
    if "sub_block" in settings:
        read["sub_blocks"] = {"length": settings["sub_block"], "cache": settings["sub_block_cache"]}
    if settings.get("draft_steps", 1) > 1:
        read["draft"] = {"steps": settings["draft_steps"], "match": "exact"}
        if settings["eager"]:  # guesses run into the next blocks, each of which opens when the one before is complete
            read["blocks"] = {"count": 1 + -(-settings["draft_steps"] // settings["block_length"]), "add": 1.0}
    return unmask.Method.from_dict(read)


def new_tokens(vector: Vector) -> int:
    """Tokens of the answer; Fast-dLLM v2 counts blocks, the prompt's end being one, and adds the next one's first token."""
    if "new_tokens" in vector:  # of a batch, which goes on until its longest row has enough
        return int(vector["new_tokens"])
    most, length = vector["settings"]["max_new_tokens"], vector["settings"]["block_length"]
    if not vector["system"].startswith("fast-dllm-v2"):
        return int(most)
    return int(most // length * length - len(vector["prompt"]) % length + 1)


# --- what a decode came to ---------------------------------------------------------------------------------------------


def watched(vectors: Sequence[Vector], folder: Path, *, mixed: bool) -> list[Decode]:
    """The decodes of trajectories of one model: each by itself, or all in one batch."""
    denoiser = model(folder)
    records: list[unmask.StepRecord] = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the model was trained with blocks")
        if mixed:
            answer(denoiser, [make_request(denoiser, one["prompt"], method=method(one)) for one in vectors], records.append)
        else:
            unmask.generate(denoiser, [vectors[0]["prompt"]], method=method(vectors[0]), observer=records.append)
    return [_decode(vector, records, row) for row, vector in enumerate(vectors)]


def _decode(vector: Vector, records: Sequence[unmask.StepRecord], row: int) -> Decode:
    prompt, length = len(vector["prompt"]), vector["settings"]["block_length"]
    written = [MASK] * (new_tokens(vector) + 2 * length)
    kinds = ""
    for record in records:
        if row not in record.rows:
            continue
        place = record.rows.index(row)
        for position, token in zip(record.committed[place], record.tokens[place], strict=True):
            written[position - prompt] = token
        query = record.query_tokens[place]
        if MASK not in query and vector["settings"]["cache"] != "none":
            kinds += "c" if "d" in kinds else "p"
        else:
            kinds += "s" if vector["settings"].get("sub_block_cache") and len(query) < length else "d"
    return Decode(written[: new_tokens(vector)], kinds)


def equal(vector: Vector, made: Decode) -> bool:
    """Whether a decode is the trajectory: its tokens, its forwards and their kinds."""
    completion, settings = vector["completion"], vector["settings"]
    written = made.written[: len(completion)]
    if settings["stop"] and vector["system"] not in ("sdar-eval", "fast-dllm-v2"):
        # Cut at the stop, which the loop may have written tokens behind.
        ends = [place for place, token in enumerate(written) if token in settings["stop"]]
        written = written[: ends[0] + 1] if ends else written
    if written != completion:
        return False
    if vector["system"] == "freedave" and settings["draft_steps"] > 1:
        return True
    return made.kinds == vector["kinds"] and len(made.kinds) == vector["forwards"]


def trajectories(folder: Path, chosen: Callable[[Vector], bool] = lambda vector: True) -> Iterator[tuple[Vector, str]]:
    """Every trajectory of a folder, and what is wrong with it; "" where it is equal alone and in a mixed batch."""
    vectors = [json.loads(line) for line in (folder / "trajectories.jsonl").read_text().splitlines()]
    vectors = [vector for vector in vectors if chosen(vector)]
    readable: dict[str, list[Vector]] = {}
    wrong: dict[str, str] = {}
    for vector in vectors:
        try:
            method(vector)
            alone = watched([vector], folder / "models" / vector["model"], mixed=False)[0]
        except unmask.UnmaskError as error:
            wrong[vector["id"]] = str(error)
            continue
        if not equal(vector, alone):
            wrong[vector["id"]] = f"expected {vector['kinds']} {vector['completion']}, got {alone.kinds} {alone.written}"
        readable.setdefault(vector["model"], []).append(vector)
    for name, some in readable.items():
        count = -(-len(some) // MIXED)
        for begin in range(count):  # neighbours of a file are alike: those of a batch come from all over it
            batch = some[begin::count]
            for vector, made in zip(batch, watched(batch, folder / "models" / name, mixed=True), strict=True):
                if not equal(vector, made):
                    wrong.setdefault(vector["id"], f"in a mixed batch: {made.kinds} {made.written}")
    yield from ((vector, wrong.get(vector["id"], "")) for vector in vectors)


# --- logits, experts, batches --------------------------------------------------------------------------------------------


def logits(folder: Path, name: str) -> Iterator[tuple[str, bool]]:
    """Every logits tensor of a model, and whether the network's are within 1e-3 of it."""
    known, denoiser = load_file(folder / "logits" / f"{name}.safetensors"), model(folder / "models" / name)
    for key, expected in known.items():
        begin, _, kind = key.rpartition(".")
        if not kind.startswith("logits_"):
            continue
        tokens = known[".".join(filter(None, (begin, "tokens_after" if kind == "logits_next" else "tokens")))]
        network = denoiser.network
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*was trained with blocks")
            if begin:
                network = denoiser.with_block(int(begin.removeprefix("b"))).network
            made = network(tokens)[:, -expected.shape[1] :]
        yield f"{name}.{key}", torch.allclose(made, expected, atol=1e-3, rtol=0)


def experts(folder: Path, name: str) -> Iterator[tuple[str, bool]]:
    """Every output of a feed-forward part of experts, with the choice where it is known."""
    known, layers = load_file(folder / "logits" / f"{name}.moe.safetensors"), model(folder / "models" / name).network.blocks()
    for number in sorted({int(key.split(".")[1]) for key in known}):
        part, hidden = layers[number].parts().feed_forward, known[f"layers.{number}.hidden"]
        with torch.inference_mode():
            same = torch.allclose(part(hidden), known[f"layers.{number}.output"], atol=1e-3, rtol=0)
            chosen, weights = part.router(hidden)
        if f"layers.{number}.experts" in known:
            order = chosen.argsort(1)
            same &= torch.equal(chosen.gather(1, order), known[f"layers.{number}.experts"].long())
            same &= torch.allclose(weights.gather(1, order), known[f"layers.{number}.weights"], atol=1e-3, rtol=0)
        yield f"{name}.layers.{number}", same


def batches(folder: Path) -> Iterator[tuple[Vector, str]]:
    """Every published batch, and which of its rows are not what ours writes, up to their stop; "" where all are."""
    for line in (folder / "batches.jsonl").read_text().splitlines():
        batch = json.loads(line)
        vectors = [
            batch | {"prompt": prompt, "completion": row, "new_tokens": len(row)}
            for prompt, row in zip(batch["prompts"], batch["completions"], strict=True)
        ]
        try:
            made = watched(vectors, folder / "models" / batch["model"], mixed=True)
        except unmask.UnmaskError as error:
            yield batch, str(error)
            continue
        rows = enumerate(zip(vectors, made, strict=True))
        yield batch, "; ".join(f"row {row} differs{_why(batch, row)}" for row, two in rows if not _same_row(*two))


def _why(batch: Vector, row: int) -> str:
    """What makes a row of a published batch depend on the others, as ours never do."""
    lengths, block = [len(prompt) for prompt in batch["prompts"]], batch["settings"]["block_length"]
    own = lengths[row]
    if batch["settings"]["sub_block_cache"]:
        return ": upstream refreshes the cache within a block for all rows at once"
    if own % block == 0 and min(lengths) // block * block < own < max(lengths):
        # It writes the seed behind a prompt of whole blocks only where the batch begins or no prompt is longer.
        return ": upstream loses its first token, which the prompt predicts, because another prompt is longer"
    return ""


def _same_row(vector: Vector, made: Decode) -> bool:
    expected, stops = vector["completion"], vector["settings"]["stop"]
    ends = [place for place, token in enumerate(expected) if token in stops]
    expected = expected[: ends[0] + 1] if ends else expected
    return made.written[: len(expected)] == expected


def main(arguments: Sequence[str]) -> int:
    """Print how many vectors of a folder are equal, system by system; 1 where any is not.

    Behind the folder one may name systems, which are all that is looked at then, and -v to see what differs.
    """
    folder, *others = arguments
    systems = [one for one in others if one != "-v"]
    torch.set_num_threads(1)
    counts, totals = Counter[str](), Counter[str]()
    for kind, name, wrong in _everything(Path(folder), systems):
        totals[kind] += 1
        counts[kind] += not wrong
        if wrong and "-v" in others:
            print(name, wrong)
    for kind, total in totals.items():
        print(f"{kind}: {counts[kind]} of {total}")
    print(f"{counts.total()} of {totals.total()} equal")
    return int(counts.total() != totals.total())


def _everything(folder: Path, systems: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Kind, name and what is wrong of every vector; "" where it is equal."""
    if not systems:
        for file in sorted((folder / "logits").glob("*.safetensors")):
            name = file.name.removesuffix(".safetensors")
            kind, found = ("experts", experts) if name.endswith(".moe") else ("logits", logits)
            yield from ((kind, key, "" if same else "differs") for key, same in found(folder, name.removesuffix(".moe")))
        yield from (("batches", batch["id"], wrong) for batch, wrong in batches(folder))
    for vector, wrong in trajectories(folder, lambda one: not systems or one["system"] in systems):
        yield vector["system"], vector["id"], wrong
