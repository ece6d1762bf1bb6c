"""Rules whose numbers are columns decide each row as its own numbers would, to the last digit, for every rule and setting."""

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unmask.decode.multi_block import MultiBlock
from unmask.decode.numbers import MOST, numbers, of_rows, structure
from unmask.decode.rule import Commit, RulePart
from unmask.decode.rules import QuotaOrThreshold, Threshold
from unmask.decode.schedule import timestep_shares
from unmask.decode.settings import Number, Whole, bounds
from unmask.decode.step import BlockFacts, StepSettings, decide
from unmask.methods import TABLE, load
from unmask.methods.recipe import recipe
from unmask.models.toy import toy

LENGTH, VOCABULARY, MASK = 8, 12, 11
KINDS = [kind for part in (Commit, RulePart) for kind in part.__subclasses__() if hasattr(kind, "name") and kind.per_row]
SHARE = Number(least=0.0, most=1.0, search="of what a method fills in")
NEEDS_MORE = ("learned", "indel")  # a commit head; logits that move tokens


def other(value: Any, bound: Any, draw: st.DataObject) -> Any:
    """Another number that may stand where this one does."""
    if isinstance(bound, Whole):
        return draw.draw(st.integers(max(1, bound.least), LENGTH))
    if isinstance(bound, Number):
        return draw.draw(st.floats(max(bound.least, 0.01), min(bound.most, 1.5)))
    return value


def decided(settings: StepSettings, logits_BLV: torch.Tensor, window_BL: torch.Tensor) -> list[torch.Tensor]:
    rows = len(window_BL)
    step_B = torch.arange(rows) % 3
    steps = step_B if settings.blocks.count == 1 else step_B[:, None].expand(-1, settings.blocks.count)
    facts = BlockFacts(torch.zeros_like(window_BL, dtype=torch.bool), steps, step_B, None)
    empty = (rows, window_BL.shape[1], window_BL.device, settings.precision)
    memories = tuple(None if rule.state is None else rule.state.empty(*empty) for rule in settings.rules)
    outcome, left = decide(
        settings, logits_BLV.flatten(0, 1), window_BL[:, None], facts, memories, mask_id=MASK, eos_E=torch.tensor([1])
    )
    return [outcome.window_BL, outcome.taken_BL, left]


def evidence(rows: int, width: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, width, VOCABULARY, generator=generator) * 3
    return logits, torch.where(torch.rand(rows, width, generator=generator) < 0.7, MASK, 3)


def equal_alone(own: list[StepSettings], seed: int, width: int = LENGTH) -> None:
    logits, window = evidence(len(own), width, seed)
    shared = structure(own[0])
    assert all(structure(one) == shared for one in own)
    numbers_FB = torch.tensor([numbers(one) for one in own], dtype=torch.int64).view(len(own), -1).t().contiguous()
    together = decided(of_rows(shared, numbers_FB, shared.precision), logits, window)
    for row, one in enumerate(own):
        repeated = logits[row : row + 1].expand(len(own), -1, -1), window[row : row + 1].expand(len(own), -1)
        alone = decided(one, *(part.contiguous() for part in repeated))
        assert all(torch.equal(mine[row], theirs[row]) for mine, theirs in zip(together, alone, strict=True))


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.name not in NEEDS_MORE], ids=lambda kind: kind.name)
@given(draw=st.data())
def test_a_row_decides_by_its_own_numbers(kind: type[RulePart], precision: torch.dtype, draw: st.DataObject) -> None:
    settings = {name: other(0.5 if isinstance(bound, Number) else 2, bound, draw) for name, bound in bounds(kind).items()}
    settings = {name: value for name, value in settings.items() if isinstance(bounds(kind)[name], Number | Whole)}
    flags = {
        field.name: draw.draw(st.booleans())
        for field in dataclasses.fields(kind)
        if field.name in ("official", "strict", "on_grid")
    }
    if kind is Threshold:
        settings["alpha"] = draw.draw(st.floats(0.1, 0.9))
    rules: list[Any] = [kind(**settings, **flags)]
    for _ in range(4):
        changed = {name: other(getattr(rules[0], name), bounds(kind).get(name, SHARE), draw) for name in kind.per_row}
        rules.append(dataclasses.replace(rules[0], **{name: new for name, new in changed.items() if getattr(rules[0], name)}))
    base = () if issubclass(kind, Commit) else (Threshold(),)  # as methods have it
    equal_alone([StepSettings(rules=(*base, rule), precision=precision) for rule in rules], seed=draw.draw(st.integers(0, 99)))


@given(st.lists(st.tuples(st.floats(0.01, 1.0), st.floats(0.5, 1.0), st.floats(0.2, 1.0)), min_size=2, max_size=5))
def test_so_do_rows_of_several_blocks(drawn: list[tuple[float, float, float]]) -> None:
    own = [
        StepSettings(rules=(QuotaOrThreshold(threshold=bar, steps=3),), blocks=MultiBlock(count=2, add=add, active=active))
        for add, active, bar in drawn
    ]
    equal_alone(own, seed=1, width=2 * LENGTH)


@pytest.mark.parametrize("steps", [*range(1, 70), 255, 256, 1000])
def test_shares_of_timesteps_are_those_of_linspace(steps: int) -> None:
    times = torch.linspace(1, 1e-3, steps + 1)
    shares = 1 - times[1:] / times[:-1]
    shares[-1] = 1.0
    assert torch.equal(timestep_shares(steps), shares)


@pytest.mark.parametrize("preset", TABLE)
def test_no_preset_has_more_numbers_than_there_is_room_for(preset: str) -> None:
    spec = toy("sdar" if preset.startswith(("sdar", "llada2", "fast-dllm-v2")) else "llada").spec
    made = recipe(load(preset), spec, answer_length=spec.block or 32)
    assert len(numbers(made)) < MOST


def test_what_is_off_stays_structure() -> None:
    """A threshold that does not fall is another computation than one that does."""
    still, falling = (StepSettings(rules=(Threshold(alpha=alpha),)) for alpha in (0.0, 0.5))
    assert structure(still) != structure(falling)
    assert len(numbers(still)) == 1
