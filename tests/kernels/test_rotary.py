"""Rotary and the memory of keys: the plain form against the definition in fp64, the kernel against the plain form."""

from typing import NamedTuple

import pytest
import torch
from devices import DEVICES, overwriting
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unmask.kernels.rotary import HeadNorms, frequencies, rotate_and_write, tables


class Call(NamedTuple):
    q_NHD: Tensor
    k_NGD: Tensor
    v_NGD: Tensor
    cos_NR: Tensor
    sin_NR: Tensor
    keys_SGD: Tensor | None
    values_SGD: Tensor | None
    slots_M: Tensor


@st.composite
def calls(draw: st.DrawFn) -> tuple[Call, HeadNorms | None]:
    """Heads of any size, parts of one product or apart; all, some or none of the tokens remembered."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    tokens, groups, shared = draw(st.sampled_from([1, 5])), draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 7, 8]))
    size, dtype = draw(st.sampled_from([2, 8, 40, 80, 128])), draw(st.sampled_from([torch.float32, torch.float16]))
    rotated = draw(st.sampled_from([size, size // 2 // 2 * 2 or size]))
    heads = groups * shared
    merged = torch.randn(tokens, heads + 2 * groups, size, generator=generator).to(dtype)
    q, k, v = (part if draw(st.booleans()) else part.clone() for part in merged.split([heads, groups, groups], dim=1))
    positions = torch.randint(0, 5000, (1, tokens), generator=generator)
    cos, sin = (table[0] for table in tables(positions, frequencies(rotated, 1e4, torch.float32, torch.device("cpu"))))
    remembered = draw(st.sampled_from([0, tokens - 1, tokens]))
    slots = torch.randperm(8, generator=generator)[:remembered]
    pool = torch.randn(2, 8, groups, size, generator=generator).to(dtype) if remembered or draw(st.booleans()) else (None, None)
    norms = None
    if draw(st.booleans()):
        norms = HeadNorms(*(torch.randn(size, generator=generator).to(dtype) for _ in range(2)), 1e-6)
    return Call(q, k, v, cos, sin, *pool, slots), norms


def definition(x: Tensor, call: Call, weight: Tensor | None, eps: float = 0.0) -> Tensor:
    """Pairs of channels as complex numbers, turned by an angle."""
    x = x.double()
    if weight is not None:
        x = x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()
    half = call.cos_NR.shape[1] // 2
    pairs = torch.complex(x[..., :half], x[..., half : 2 * half])
    pairs = pairs * torch.complex(call.cos_NR[:, :half].double(), call.sin_NR[:, :half].double())[:, None]
    return torch.cat((pairs.real, pairs.imag, x[..., 2 * half :]), dim=-1)


def check(
    found: tuple[Tensor, Tensor], memory: tuple[Tensor | None, Tensor | None], call: Call, norms: HeadNorms | None
) -> None:
    """That queries and keys are turned, that the memory holds them, and that its other slots are as they were."""
    bound = 2e-5 if call.q_NHD.dtype == torch.float32 else 8e-3
    weights = (None, None, 0.0) if norms is None else norms
    expected = [definition(x, call, weight, weights[2]) for x, weight in zip((call.q_NHD, call.k_NGD), weights, strict=False)]
    for mine, its in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.double(), its, rtol=bound, atol=bound)
    count = len(call.slots_M)
    if call.keys_SGD is not None and call.values_SGD is not None:
        assert torch.equal(memory[0], call.keys_SGD.index_copy(0, call.slots_M, found[1][:count]))
        assert torch.equal(memory[1], call.values_SGD.index_copy(0, call.slots_M, call.v_NGD[:count]))


@given(calls())
def test_the_plain_form_is_the_definition(made: tuple[Call, HeadNorms | None]) -> None:
    call, norms = made
    memory = tuple(None if part is None else part.clone() for part in (call.keys_SGD, call.values_SGD))
    found = rotate_and_write(*call[:5], *memory, call.slots_M, norms=norms)
    check(found, memory, call, norms)


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=40)
@given(calls())
def test_the_kernel_is_the_definition(device: str, made: tuple[Call, HeadNorms | None]) -> None:
    call, norms = made
    found, given = overwriting(device, rotate_and_write)(*call, norms=norms)
    check(found, (given[5], given[6]), call, norms)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_keys_and_values_are_kept_in_8_bits(device: str, dtype: torch.dtype) -> None:
    """Every number that there is in 8 bits, and those beyond; keys after a quarter turn.

    Triton's interpreter rounds numbers in between otherwise than cards do.
    """
    codes = torch.arange(256).to(torch.uint8)
    x = codes.view(torch.float8_e4m3fn).to(dtype)
    x[127], x[255] = 1000.0, -1000.0  # in the place of NaN
    k = x.view(8, 4, 8)
    cos, sin = torch.zeros(8, 8), torch.ones(8, 8)
    memory = torch.zeros(2, 9, 4, 8, dtype=torch.uint8).view(torch.float8_e4m3fn)
    call = Call(k.clone(), k.clone(), k.flip(0).clone(), cos, sin, memory[0], memory[1], torch.randperm(9)[:8])
    expected = [part.clone() for part in call]
    rotate_and_write(*expected)
    _, given = overwriting(device, rotate_and_write)(*call)
    for place in (5, 6):
        assert torch.equal(given[place].float(), expected[place].float())
    assert expected[6].float().abs().max() == 448


@pytest.mark.parametrize("device", [device for device in DEVICES if device != "interpreter"])
def test_numbers_are_rounded_to_8_bits(device: str) -> None:
    v = torch.randn(8, 4, 32, generator=torch.Generator().manual_seed(0)) * 10
    memory = torch.zeros(2, 8, 4, 32).to(torch.float8_e4m3fn)
    call = Call(v.clone(), v.clone(), v, torch.ones(8, 32), torch.zeros(8, 32), memory[0], memory[1], torch.arange(8))
    _, given = overwriting(device, rotate_and_write)(*call)
    assert torch.equal(given[6].view(torch.uint8), v.to(torch.float8_e4m3fn).view(torch.uint8))
