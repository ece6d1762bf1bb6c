"""Attention over pages: its plain form against a loop, its kernel against its plain form."""

import math
from typing import NamedTuple

import pytest
import torch
from devices import DEVICES, HALF, kernel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unmask.kernels.paged import paged_attention


class Call(NamedTuple):
    q_BLHD: Tensor
    keys_SGD: Tensor
    values_SGD: Tensor
    pages_BP: Tensor
    seen_B: Tensor
    begin_B: Tensor
    end_B: Tensor
    shift_B: Tensor

    def to(self, dtype: torch.dtype) -> "Call":
        """The same in this precision."""
        return Call(*(x.to(dtype) for x in self[:3]), *self[3:])


def call(
    seen: list[int],
    queried: list[tuple[int, int]],
    shifts: list[int],
    *,
    length: int = 3,
    heads: int = 2,
    shared: int = 1,
    size: int = 8,
    page: int = 4,
    seed: int = 0,
) -> Call:
    """Rows on pages in any order, with keys and values in the slots that they see and NaN everywhere else."""
    generator = torch.Generator().manual_seed(seed)
    pages = max(-(-(many + shift) // page) for many, shift in zip(seen, shifts, strict=True)) + 1
    pages_BP = torch.randperm(len(seen) * pages + 1, generator=generator)[: len(seen) * pages].view(len(seen), pages)
    keys_SGD = torch.full(((len(seen) * pages + 1) * page, heads, size), math.nan)
    values_SGD = keys_SGD.clone()
    for row, (many, (begin, end), shift) in enumerate(zip(seen, queried, shifts, strict=True)):
        for slot in range(many):
            own = slot + shift * (begin <= slot < end)
            at = pages_BP[row, own // page] * page + own % page
            keys_SGD[at] = torch.randn(heads, size, generator=generator)
            values_SGD[at] = torch.randn(heads, size, generator=generator)
    q_LBHD = torch.randn(length, len(seen), heads * shared, size, generator=generator)
    numbers = (torch.tensor(seen), *torch.tensor(queried).T.contiguous(), torch.tensor(shifts))
    return Call(q_LBHD.transpose(0, 1), keys_SGD, values_SGD, pages_BP, *numbers)


@st.composite
def calls(draw: st.DrawFn, longest: int) -> tuple[Call, int]:
    """Blocks of any length and grouping over rows that see nothing, a little or several cuts, drafts among them."""
    page = draw(st.sampled_from([4, 16]))
    seen, queried, shifts = [], [], []
    for _ in range(draw(st.integers(1, 2))):
        many = draw(st.one_of(st.integers(0, 20), st.integers(0, longest)))
        begin = draw(st.integers(0, many))
        end = draw(st.integers(begin, many))
        seen.append(many)
        queried.append((begin, end))
        shifts.append(draw(st.sampled_from([0, many - begin, many - begin + 7])))  # behind the row: nothing is overwritten
    made = call(
        seen,
        queried,
        shifts,
        length=draw(st.sampled_from([1, 3, 17])),
        heads=draw(st.integers(1, 2)),
        shared=draw(st.sampled_from([1, 2, 7])),
        size=draw(st.sampled_from([8, 16, 32, 64])),
        page=page,
        seed=draw(st.integers(0, 2**32)),
    )
    return made, page


def assert_close(found: Tensor, expected: Tensor) -> None:
    """fp32 to its rounding; half precision to its own two roundings, of the weights and of the result."""
    bound = 2e-5 if found.dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found.double(), expected.double(), rtol=bound, atol=bound)


@given(calls(longest=60), st.sampled_from([torch.float32, torch.bfloat16]))
def test_the_plain_form_is_the_definition(made: tuple[Call, int], dtype: torch.dtype) -> None:
    given, page = made[0].to(dtype), made[1]
    found = paged_attention(*given, page=page)
    assert found.dtype == given.q_BLHD.dtype
    shared = given.q_BLHD.shape[2] // given.keys_SGD.shape[1]
    for row, (seen, begin, end, shift) in enumerate(torch.stack(given[4:]).T.tolist()):
        own = [slot + shift * (begin <= slot < end) for slot in range(seen)]
        at = [int(given.pages_BP[row, slot // page]) * page + slot % page for slot in own]
        for head in range(given.q_BLHD.shape[2]):
            q, k, v = (
                x.double()
                for x in (given.q_BLHD[row, :, head], given.keys_SGD[at, head // shared], given.values_SGD[at, head // shared])
            )
            expected = (q @ k.T / math.sqrt(q.shape[1])).softmax(1) @ v if seen else torch.zeros_like(q)
            assert_close(found[row, :, head], expected)


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=15)
@given(calls(longest=300), st.booleans())
def test_the_kernel_is_the_plain_form(device: str, made: tuple[Call, int], halved: bool) -> None:
    given, page = made[0].to(HALF[device] if halved else torch.float32), made[1]
    found = kernel(device, paged_attention)(*given, page=page)
    assert found.dtype == given.q_BLHD.dtype
    assert_close(found, paged_attention(*given, page=page))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("heads", "shared", "length"), [(2, 1, 32), (1, 7, 33)])
def test_heads_of_real_models(device: str, heads: int, shared: int, length: int) -> None:
    """LLaDA's and Dream's: 128 numbers per head, 1 or 7 query heads per key head, several tiles of queries and of keys."""
    made = call(
        [300, 0, 17], [(100, 132), (0, 0), (0, 17)], [220, 0, 32], length=length, heads=heads, shared=shared, size=128, page=16
    )
    assert_close(kernel(device, paged_attention)(*made, page=16), paged_attention(*made, page=16))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seen", [[0, 5], [700, 300]])
def test_a_long_query_is_not_cut(device: str, seen: list[int]) -> None:
    """96 tiles of one row: programs enough without parts."""
    made = call(seen, [(0, 3), (1, 5)], [0, seen[1]], length=64 * 12, heads=8, size=8, page=16)
    assert_close(kernel(device, paged_attention)(*made, page=16), paged_attention(*made, page=16))


@pytest.mark.parametrize("device", DEVICES)
def test_long_contexts_have_longer_parts(device: str) -> None:
    """32 parts of several tiles of keys each, the last not whole."""
    made = call([40 * 256 - 3, 16 * 256 + 1, 0], [(0, 0)] * 3, [0] * 3, length=1, heads=1, size=8, page=16)
    assert_close(kernel(device, paged_attention)(*made, page=16), paged_attention(*made, page=16))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("seen", "begin"), [(300, 250), (700, 0), (20, 13)])
def test_states_of_a_block_share_what_they_have_in_common(device: str, seen: int, begin: int) -> None:
    """Three states of seven tokens: the copies of the second and third lie behind one another, some in a part of their own."""
    length, states = 7, 3
    made = call([seen + (states - 1) * length + 9], [(0, 0)], [0], length=states * length, heads=2, shared=2, page=16)
    number = torch.tensor
    made = made._replace(
        seen_B=number([seen]), begin_B=number([begin]), end_B=number([begin + length]), shift_B=number([seen + 2 - begin])
    )
    expected = paged_attention(*made, page=16, states=states)
    for state in range(states):
        shift = made.shift_B + (state - 1) * length if state else made.shift_B * 0
        alone = made._replace(q_BLHD=made.q_BLHD[:, state * length : (state + 1) * length], shift_B=shift)
        assert_close(expected[:, state * length : (state + 1) * length], paged_attention(*alone, page=16))
    assert_close(kernel(device, paged_attention)(*made, page=16, states=states), expected)


@pytest.mark.parametrize("device", DEVICES)
def test_a_row_does_not_depend_on_its_batch(device: str) -> None:
    """Alone, with fewer pages, a row's output is the same to the last bit."""
    made = call([270, 700], [(0, 0), (10, 40)], [0, 700], page=16)
    run = kernel(device, paged_attention)
    alone = Call(made.q_BLHD[:1], *made[1:3], made.pages_BP[:1, :17], *(x_B[:1] for x_B in made[4:]))
    assert torch.equal(run(*alone, page=16), run(*made, page=16)[:1])


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=10)
@given(calls(longest=300), st.booleans())
def test_keys_and_values_are_read_from_8_bits(device: str, made: tuple[Call, int], halved: bool) -> None:
    given, page = made[0].to(HALF[device] if halved else torch.float32), made[1]
    given = given._replace(keys_SGD=given.keys_SGD.to(torch.float8_e4m3fn), values_SGD=given.values_SGD.to(torch.float8_e4m3fn))
    found = kernel(device, paged_attention)(*given, page=page)
    assert found.dtype == given.q_BLHD.dtype
    assert_close(found, paged_attention(*given, page=page))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("groups", "shared", "length"), [(4, 1, 32), (2, 7, 33)])
def test_many_rows_are_as_one(device: str, groups: int, shared: int, length: int) -> None:
    """Alone a row's parts are joined by a second kernel, among many by the program that made them: to the same last bit."""
    rows = 26
    seen = [(137 * row) % 700 for row in range(rows)]
    made = call(seen, [(0, 0)] * rows, [0] * rows, length=length, heads=groups, shared=shared, size=16, page=16)
    run = kernel(device, paged_attention)
    together = run(*made, page=16)
    assert_close(together, paged_attention(*made, page=16))
    for row in (0, 3, 25):
        only = slice(row, row + 1)
        alone = Call(made.q_BLHD[only], *made[1:3], *(x[only] for x in made[3:]))
        assert torch.equal(run(*alone, page=16), together[only])


@pytest.mark.parametrize("device", DEVICES)
def test_as_many_rows_as_a_prompt_has_blocks(device: str) -> None:
    """More programs than the second dimension of a launch may have: prompts of block-causal models in one forward."""
    rows = 2**16 // 2 + 1 if device == "cuda" else 3
    made = call([3], [(0, 0)], [0], length=1, heads=2, size=16, page=16)
    many = Call(
        made.q_BLHD.expand(rows, -1, -1, -1),
        *made[1:3],
        made.pages_BP.expand(rows, -1),
        *(x.expand(rows).clone() for x in made[4:]),
    )
    found = kernel(device, paged_attention)(*many, page=16)
    assert_close(found[-1:], paged_attention(*made, page=16))
