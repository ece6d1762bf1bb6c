"""From collected candidates to training examples: one right answer per prompt."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from unmask.errors import ConfigError
from unmask.files import HEADER, read_journal
from unmask.models.prompting import Prompting

COLLECTED = {"id": int, "candidates": list}  # what every line of a collected file has

Select = Literal["lowest", "highest", "random"]
Spatial = Literal["windows", "components", "positions"]


class Example(NamedTuple):
    """A prompt, the token ids of the answer to learn, without EOS, and the forward that wrote each: empty in older files.

    `prompting` is how the prompt was asked when the answer was collected.
    """

    prompt: str
    answer: tuple[int, ...]
    steps: tuple[int, ...]
    where: str
    prompting: Prompting


def collected(path: Path) -> bool:
    """Whether a file is one of `unmask train collect`."""
    with path.open("rb") as file:
        return file.read(len(HEADER)) == HEADER


def score(candidate: Mapping[str, Any], *, spatial: Spatial, per_token: bool) -> float:
    """R_total of a candidate: spatial triggers (of confidence clusters, counted as `spatial` says, and runs) and temporal ones.

    arXiv 2604.18995, section 5.1. `per_token` divides by the answer's tokens, since a raw count favours short answers.

    >>> triggers = {"windows": 6, "components": 2, "positions": 9, "runs": 1, "temporal": 3}
    >>> score({"tokens": 12, "triggers": triggers}, spatial="components", per_token=True)
    0.5
    """
    triggers = candidate["triggers"]
    total = float(triggers[spatial] + triggers["runs"] + triggers["temporal"])
    return total / max(1, candidate["tokens"]) if per_token else total


def choose(
    candidates: Sequence[Mapping[str, Any]], select: Select, *, spatial: Spatial, per_token: bool, seed: str
) -> Mapping[str, Any] | None:
    """The least or most redundant right candidate, or a random one; None if none is right. Of equals the first."""
    right = [candidate for candidate in candidates if candidate["right"]]
    if not right:
        return None
    if select == "random":
        return random.Random(seed).choice(right)
    sign = 1 if select == "lowest" else -1
    return min(right, key=lambda candidate: sign * score(candidate, spatial=spatial, per_token=per_token))


def examples(path: Path, select: Select, *, spatial: Spatial, per_token: bool, seed: int) -> list[Example]:
    """The chosen answers of a collected file. Raises ConfigError if it is not such a file or has no right answer."""
    provenance, lines = read_journal(path, "unmask train collect", COLLECTED)
    chosen, prompting = [], Prompting.of(provenance)
    for line in lines:
        best = choose(line["candidates"], select, spatial=spatial, per_token=per_token, seed=f"{seed}-{line['id']}")
        if best is not None:
            steps = tuple(best.get("steps", ()))
            chosen.append(Example(line["prompt"], tuple(best["token_ids"]), steps, f"{path}: prompt {line['id']}", prompting))
    if not chosen:
        raise ConfigError(f"{path}: none of its answers is right, so there is nothing to train on")
    return chosen
