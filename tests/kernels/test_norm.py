"""The norm: its plain form against the definition in fp64, its kernel against the same."""

import pytest
import torch
from devices import DEVICES, HALF, kernel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unmask.kernels.norm import add_rms_norm, rms_norm

BOUND = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}  # relative; two roundings each


@st.composite
def rows(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """States, what is added, and a weight; rows that lie apart, one of zeros, one large."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    channels = draw(st.sampled_from([1, 3, 64, 96, 448, 513, 2000]))
    dtype = draw(st.sampled_from(list(BOUND)))
    count = draw(st.sampled_from([0, 1, 5]))
    x = torch.randn(count, channels + draw(st.sampled_from([0, 5])), generator=generator)[:, :channels]
    more, weight = torch.randn(count, channels, generator=generator), torch.randn(channels, generator=generator)
    if count > 1:
        x[0], more[0] = 0, 0
        x[1] *= 200
    return x.to(dtype), more.to(dtype), weight.to(dtype)


def definition(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    x = x.double()
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()


def assert_close(found: Tensor, expected: Tensor) -> None:
    bound = BOUND[found.dtype]
    torch.testing.assert_close(found.double(), expected, rtol=bound, atol=bound)


@given(rows())
def test_the_plain_form_is_the_definition(made: tuple[Tensor, Tensor, Tensor]) -> None:
    x, more, weight = made
    states, normed = add_rms_norm(x, more, weight, 1e-5)
    assert torch.equal(states, x + more)
    assert_close(normed, definition(states, weight, 1e-5))


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=25)
@given(rows())
def test_the_kernel_is_the_definition(device: str, made: tuple[Tensor, Tensor, Tensor]) -> None:
    x, more, weight = (part.to(HALF[device]) if part.dtype == torch.bfloat16 else part for part in made)
    assert_close(kernel(device, rms_norm)(x, weight, 1e-5), definition(x, weight, 1e-5))
    states, normed = kernel(device, add_rms_norm)(x, more, weight, 1e-5)
    assert torch.equal(states, x + more)
    assert normed.dtype == x.dtype
    assert_close(normed, definition(states, weight, 1e-5))


@pytest.mark.parametrize("device", DEVICES)
def test_leading_dimensions_stay(device: str) -> None:
    x = torch.randn(2, 3, 8)
    assert kernel(device, rms_norm)(x, torch.ones(8), 0.0).shape == x.shape
