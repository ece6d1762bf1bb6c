"""The gate of a feed-forward part: its kernel against its plain form."""

import math

import pytest
import torch
from devices import DEVICES, HALF, kernel

from unmask.kernels.gated import silu_times


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("halved", [False, True])
@pytest.mark.parametrize("channels", [1, 100, 1024, 2368])
def test_the_kernel_is_the_definition(device: str, halved: bool, channels: int) -> None:
    """Of halves of one tensor, as a merged product leaves them."""
    dtype, bound = (HALF[device], 8e-3) if halved else (torch.float32, 1e-6)
    made = (torch.randn(3, 2 * channels, generator=torch.Generator().manual_seed(channels)) * 4).to(dtype)
    gate, up = made.chunk(2, dim=-1)
    expected = gate.double() * gate.double().sigmoid() * up.double()
    for found in (silu_times(gate, up), kernel(device, silu_times)(gate, up)):
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), expected, rtol=2 * bound, atol=bound)


@pytest.mark.parametrize("device", DEVICES)
def test_far_gates_are_closed_or_open_and_never_nan(device: str) -> None:
    gate = torch.tensor([[[-math.inf, -200.0, -90.0, 0.0, 90.0, 200.0]]])
    found = kernel(device, silu_times)(gate, torch.ones_like(gate))
    assert found.shape == gate.shape
    assert found[0, 0, 1:].tolist() == pytest.approx([0.0, 0.0, 0.0, 90.0, 200.0])


@pytest.mark.parametrize("device", DEVICES)
def test_no_rows(device: str) -> None:
    assert kernel(device, silu_times)(torch.zeros(0, 8), torch.zeros(0, 8)).shape == (0, 8)
