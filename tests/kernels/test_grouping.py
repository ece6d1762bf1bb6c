"""Tokens in the order of their experts, and the weighted sum: plain forms against loops, kernels against plain forms."""

import pytest
import torch
from devices import DEVICES, HALF, kernel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unmask.kernels.grouping import by_expert, grouped_product, in_torch, weighted_sum

BOUND = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@st.composite
def choices(draw: st.DrawFn, most: int) -> tuple[Tensor, int]:
    """Different experts of each token; some experts have no token, or all."""
    experts = draw(st.integers(1, 9))
    tokens, chosen = draw(st.sampled_from([0, 1, 5, most])), draw(st.integers(1, min(experts, 4)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    ranks = torch.rand(tokens, experts, generator=generator) + draw(st.booleans()) * torch.arange(experts)
    return ranks.topk(chosen).indices, experts


def check(found: tuple[Tensor, Tensor, Tensor], experts_NK: Tensor, experts: int) -> None:
    pairs = [(int(e), n, k) for n, row in enumerate(experts_NK) for k, e in enumerate(row)]
    token_M, place_NK, end_E = found
    assert token_M.tolist() == [n for _, n, _ in sorted(pairs)]
    assert [sorted(pairs)[place][1:] for place in place_NK.flatten()] == [pair[1:] for pair in pairs]
    assert end_E.tolist() == [sum(pair[0] <= expert for pair in pairs) for expert in range(experts)]
    assert (token_M.dtype, place_NK.dtype, end_E.dtype) == (torch.int64, torch.int64, torch.int32)


@given(choices(40))
def test_the_plain_order_is_that_of_the_experts(made: tuple[Tensor, int]) -> None:
    check(by_expert(*made), *made)


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=25, deadline=None)
@given(choices(600))  # more pairs than are read at a time
def test_the_kernels_order_is_that_of_the_experts(device: str, made: tuple[Tensor, int]) -> None:
    check(kernel(device, by_expert)(*made), *made)


@st.composite
def products(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of experts with any number of them: none, one, or more than a tile has; widths that fill no tile."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    counts = draw(st.lists(st.sampled_from([0, 0, 1, 5, 17, 70]), min_size=1, max_size=5))
    inputs, outputs = draw(st.sampled_from([4, 40, 200])), draw(st.sampled_from([8, 136]))
    whole = torch.randn(sum(counts), inputs + draw(st.sampled_from([0, 4])), generator=generator)
    weight = torch.randn(len(counts), 2 * outputs, inputs, generator=generator)[:, outputs * draw(st.booleans()) :][:, :outputs]
    return whole[:, :inputs], weight, torch.tensor(counts).cumsum(0, dtype=torch.int32)


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=25, deadline=None)
@given(products(), st.booleans())
def test_the_kernels_products_are_those_of_each_expert(device: str, made: tuple[Tensor, Tensor, Tensor], halved: bool) -> None:
    x, weight, end = made
    if halved:
        x, weight = x.to(torch.float16), weight.to(torch.float16)
    found = kernel(device, grouped_product)(x, weight, end)
    begins = [0, *end.tolist()]
    parts = [x[begins[e] : begins[e + 1]].double() @ weight[e].double().t() for e in range(len(end))]
    assert found.dtype == x.dtype
    bound = 2e-2 if halved else 1e-4
    torch.testing.assert_close(found.double(), torch.cat(parts), rtol=bound, atol=bound)


@pytest.mark.parametrize(
    ("card", "dtype", "there"),
    [((9, 0), "bfloat16", True), ((10, 0), "bfloat16", True), ((9, 0), "float16", False), ((8, 0), "bfloat16", False),
     ((12, 0), "bfloat16", False)],
)  # fmt: skip
def test_torch_has_the_product_for_some_cards(
    card: tuple[int, int], dtype: str, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: card)
    assert in_torch(torch.zeros(1, dtype=getattr(torch, dtype))) is there


def test_the_plain_product_is_torchs() -> None:
    x, weight = torch.randn(5, 8), torch.randn(3, 4, 8)
    found = grouped_product(x, weight, torch.tensor([2, 2, 5], dtype=torch.int32))
    torch.testing.assert_close(found, torch.cat((x[:2] @ weight[0].t(), x[2:] @ weight[2].t())))


@st.composite
def sums(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Rows that lie apart or not, with something beside them or not."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    tokens, chosen = draw(st.sampled_from([0, 1, 5])), draw(st.sampled_from([1, 3, 8]))
    channels, dtype = draw(st.sampled_from([1, 96, 1025])), draw(st.sampled_from(list(BOUND)))
    made = torch.randn(tokens * chosen, channels + draw(st.sampled_from([0, 3])), generator=generator)[:, :channels]
    place = torch.randperm(tokens * chosen, generator=generator).view(tokens, chosen)
    weights = torch.rand(tokens, chosen, generator=generator)
    beside = torch.randn(tokens, channels, generator=generator).to(dtype) if draw(st.booleans()) else None
    return made.to(dtype), place, weights, beside


def definition(made: Tensor, place: Tensor, weights: Tensor, beside: Tensor | None) -> Tensor:
    mixed = torch.einsum("nk,nkc->nc", weights.double(), made.double()[place])
    return mixed if beside is None else mixed + beside.double()


@given(sums())
def test_the_plain_sum_is_the_definition(given_: tuple[Tensor, Tensor, Tensor, Tensor | None]) -> None:
    found, bound = weighted_sum(*given_), 3 * BOUND[given_[0].dtype]
    assert found.dtype == given_[0].dtype
    torch.testing.assert_close(found.double(), definition(*given_), rtol=bound, atol=bound)


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=40, deadline=None)
@given(sums())
def test_the_kernels_sum_is_the_plain_one(device: str, given_: tuple[Tensor, Tensor, Tensor, Tensor | None]) -> None:
    """And bit by bit a sum in fp32 of one expert after the other, each product rounded."""
    given_ = tuple(x.to(HALF[device]) if x is not None and x.dtype == torch.bfloat16 else x for x in given_)  # type: ignore[assignment]
    found, bound = kernel(device, weighted_sum)(*given_), 3 * BOUND[given_[0].dtype]
    assert found.dtype == given_[0].dtype
    torch.testing.assert_close(found.double(), definition(*given_), rtol=bound, atol=bound)
    made, place, weights, beside = given_
    mixed = torch.zeros(found.shape)
    for k in range(place.shape[1]):
        mixed += made[place[:, k]].float() * weights[:, k, None]
    assert torch.equal(found, mixed.to(found.dtype) if beside is None else mixed.to(found.dtype) + beside)
