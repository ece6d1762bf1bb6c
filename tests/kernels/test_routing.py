"""The choice of experts: its plain form against the rules one by one in fp64, its kernel against its plain form."""

import pytest
import torch
from devices import DEVICES, HALF, kernel
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from unmask.kernels.routing import best, choose, route
from unmask.models.shape import MoE

LLADA2 = {"experts": 256, "chosen": 8, "score": "sigmoid", "groups": 8, "best_groups": 4, "scale": 2.5}


def moe(**rules: object) -> MoE:
    return MoE(layers=(True,), mlp=1, **rules)  # type: ignore[arg-type]


@st.composite
def routers(draw: st.DrawFn) -> tuple[Tensor, Tensor | None, MoE]:
    """Logits of rows, some of them equal; any rules; odd numbers of experts, groups and tokens."""
    groups = draw(st.sampled_from([1, 1, 2, 3, 8]))
    experts = groups * draw(st.integers(2, 9))
    best_groups = draw(st.integers(1, groups))
    capacity = draw(st.integers(1, experts)) if groups == 1 and draw(st.booleans()) else None
    rules = moe(
        experts=experts,
        chosen=draw(st.integers(1, min(8, capacity or experts // groups * best_groups))),
        score=draw(st.sampled_from(["softmax", "sigmoid"])),
        weigh_biased=draw(st.booleans()),
        normalise=draw(st.booleans()),
        scale=draw(st.sampled_from([1.0, 2.5])),
        groups=groups,
        best_groups=best_groups,
        capacity=capacity,
        block=draw(st.sampled_from([1, 3, 4])) if capacity else None,
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    shape = draw(st.sampled_from([1, 2])), draw(st.sampled_from([0, 1, 5, 8])), experts
    logits = torch.randint(-20, 20, shape, generator=generator) / 8
    bias = torch.randint(-3, 3, (experts,), generator=generator) / 4 if draw(st.booleans()) else None
    return logits, bias, rules


def scores(logits: Tensor, bias: Tensor | None, rules: MoE) -> tuple[Tensor, Tensor]:
    """In fp64, and those that the choice is made by."""
    plain = logits.double().softmax(-1) if rules.score == "softmax" else logits.double().sigmoid()
    return plain, plain if bias is None else plain + bias.double()


def told_apart(biased: Tensor, rules: MoE) -> bool:
    """Whether no two scores, or sums of a group's two best, differ by what rounding could turn."""
    sums = biased.unflatten(-1, (rules.groups, -1)).topk(2).values.sum(-1)
    return not any(
        ((gaps > 1e-12) & (gaps < 2e-6)).any()
        for gaps in (biased.sort().values.diff(), sums.sort().values.diff(), biased.flatten().sort().values.diff())
    )


def definition(logits: Tensor, bias: Tensor | None, rules: MoE) -> tuple[Tensor, Tensor]:
    """Token by token and expert by expert."""
    plain, biased = scores(logits, bias, rules)
    rounded = biased.float().double().mul(1e6).round().tolist()  # equal ones are equal
    ids, weights = [], []
    for r, row in enumerate(rounded):
        for q, mine in enumerate(row):
            allowed = set(range(rules.experts))
            if rules.capacity is not None:
                begin = q - q % rules.block
                votes = [max(column) for column in zip(*row[begin : begin + rules.block], strict=True)]
                allowed = set(first(votes, rules.capacity))
            elif rules.groups > 1:
                size = rules.experts // rules.groups
                groups = [mine[begin : begin + size] for begin in range(0, rules.experts, size)]
                kept = first([sum(sorted(group)[-2:]) for group in groups], rules.best_groups)
                allowed = {expert for expert in allowed if expert // size in kept}
            chosen = first([score if e in allowed else float("-inf") for e, score in enumerate(mine)], rules.chosen)
            ids.append(chosen)
            weights.append((biased if rules.weigh_biased else plain)[r, q, chosen])
    if not ids:
        return torch.zeros(0, rules.chosen, dtype=torch.int64), torch.zeros(0, rules.chosen, dtype=torch.float64)
    by_token = torch.stack(weights)
    if rules.normalise:
        by_token = by_token / by_token.sum(-1, keepdim=True)
    return torch.tensor(ids), by_token * rules.scale


def first(numbers: list[float], count: int) -> list[int]:
    return sorted(range(len(numbers)), key=lambda place: (-numbers[place], place))[:count]


def check(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], rules: MoE) -> None:
    assert torch.equal(found[0], expected[0])
    # A sum of biased weights near 0 magnifies what rounding has left.
    bound = 1e-3 if rules.normalise and rules.weigh_biased else 2e-6
    torch.testing.assert_close(found[1].double(), expected[1], rtol=bound, atol=bound)


def usable(biased: Tensor, rules: MoE) -> bool:
    """Whether weights can be divided by their sum."""
    return not (rules.normalise and rules.weigh_biased) or bool((biased > 0.01).all())


@given(routers())
def test_the_plain_form_is_the_definition(made: tuple[Tensor, Tensor | None, MoE]) -> None:
    logits, bias, rules = made
    biased = scores(*made)[1]
    assume(told_apart(biased, rules) and usable(biased, rules))
    check(choose(*made), definition(*made), rules)
    ids, weights = choose(logits.double(), None if bias is None else bias.double(), rules)
    assert weights.dtype == torch.float64
    assert torch.equal(ids, definition(*made)[0])


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=25, deadline=None)
@given(routers())
def test_the_kernel_is_the_plain_form(device: str, made: tuple[Tensor, Tensor | None, MoE]) -> None:
    biased = scores(*made)[1]
    assume(told_apart(biased, made[2]) and usable(biased, made[2]))
    found, expected = kernel(device, choose)(*made), choose(*made)
    check(found, (expected[0], expected[1].double()), made[2])
    assert (found[0].dtype, found[1].dtype) == (torch.int64, torch.float32)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("ways", [{}, {"groups": 1, "capacity": 48, "block": 4}, {"groups": 1, "score": "softmax"}])
def test_as_published(device: str, ways: dict[str, object]) -> None:
    """LLaDA2.0, 2.2 and SDAR's way of choosing: logits that are all different, a bias near 0."""
    rules = moe(**(LLADA2 | ways))
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, 6, 256, generator=generator)
    bias = torch.randn(256, generator=generator) / 10
    found, expected = kernel(device, choose)(logits, bias, rules), choose(logits, bias, rules)
    check(found, (expected[0], expected[1].double()), rules)


@pytest.mark.parametrize("device", DEVICES)
def test_among_equals_the_lowest_ids_are_chosen(device: str) -> None:
    """Scores that sigmoid has rounded to 1 are equal, groups of equal sums too."""
    rules = moe(**(LLADA2 | {"experts": 24}))
    for logits in (torch.zeros(1, 2, 24), torch.full((1, 2, 24), 90.0), torch.full((1, 2, 24), -200.0)):
        for found in (choose(logits, None, rules), kernel(device, choose)(logits, None, rules)):
            assert found[0].tolist() == [list(range(8))] * 2
    assert best(torch.tensor([[-0.5, -0.25, -0.5, -0.25, -torch.inf]]), 5).tolist() == [[1, 3, 0, 2, 4]]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("half", [False, True])
def test_logits_are_precise(device: str, half: bool) -> None:
    """Summed in fp32 whatever the type of states and weights."""
    if half and device == "interpreter":
        pytest.skip("torch's product of 16 bits into fp32 is a GPU's alone")
    dtype = HALF[device] if half else torch.float32
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 7, 64, generator=generator).to(dtype)
    weight = torch.randn(12, 64, generator=generator).to(dtype)
    rules = moe(experts=12, chosen=12, score="sigmoid", normalise=False)
    for found in (route(x, weight, None, rules), kernel(device, route)(x, weight, None, rules)):
        expected = (x.double() @ weight.double().t()).sigmoid().flatten(0, 1).sort(descending=True)
        assert found[1].dtype == torch.float32
        torch.testing.assert_close(found[1].double(), expected.values, rtol=1e-5, atol=1e-6)
