"""Drawing tokens: the kernel against its plain form, which tests/decode/test_proposal.py checks against distributions."""

import math

import pytest
import torch
from devices import DEVICES, kernel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unmask.kernels.sampling import draw, gumbel, tempered

Options = dict[str, Tensor]


@st.composite
def calls(draw_: st.DrawFn) -> tuple[Tensor, tuple[int, ...], Options]:
    """Logits [B, L, V] with equals, forbidden tokens and sure ones; filters for all rows, some, or none."""
    generator = torch.Generator().manual_seed(draw_(st.integers(0, 2**32)))
    vocabulary = draw_(st.sampled_from([3, 40, 2047, 2048, 2049]))
    logits = torch.randn(2, 2, vocabulary, generator=generator) * draw_(st.sampled_from([0.0, 1.0, 6.0]))
    logits = logits.to(draw_(st.sampled_from([torch.float32, torch.float16])))
    logits[1, :, torch.randint(vocabulary, (vocabulary // 3,), generator=generator)] = -math.inf
    logits[0, 1, draw_(st.integers(0, vocabulary - 1))] += 9.0
    mask_id = draw_(st.integers(0, vocabulary - 1))
    excluded = (mask_id, *draw_(st.sampled_from([(), ((mask_id + 1) % vocabulary,)])))
    if draw_(st.booleans()):
        return logits, excluded, {}
    options = {
        "temperature_B1": torch.tensor(draw_(st.sampled_from([[[0.7], [0.0]], [[1.3], [1.0]]]))),
        "seed_B1": torch.randint(2**62, (2, 1), generator=generator),
        "positions_BL": torch.randint(-5, 3000, (2, 2), generator=generator),
    }
    if draw_(st.booleans()):
        options["top_k_B1"] = torch.tensor(draw_(st.sampled_from([[[1], [2]], [[5], [10**6]]])))
    if draw_(st.booleans()):
        options["top_p_B1"] = torch.tensor(draw_(st.sampled_from([[[0.0], [0.31]], [[0.87], [1.0]]])))
    return logits, excluded, options


def near(logits: Tensor, excluded: tuple[int, ...], options: Options) -> Tensor:
    """By how much the plain form prefers each position's token to the next best, [B, L]."""
    logits = logits.float()
    if not options:
        return torch.full(logits.shape[:2], math.inf)  # without noise equals are equal to the last bit
    filters = (options.get("top_p_B1"), options.get("top_k_B1"))
    noisy = tempered(logits, excluded, options["temperature_B1"], *filters)
    noisy = noisy + gumbel(options["seed_B1"], options["positions_BL"], logits.shape[-1])
    gap = noisy.topk(2).values.diff().neg()[..., 0].nan_to_num(nan=math.inf)
    return torch.where(options["temperature_B1"] > 0, gap, math.inf)


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=15)
@given(calls())
def test_the_kernel_is_the_plain_form(device: str, made: tuple[Tensor, tuple[int, ...], Options]) -> None:
    """The same token, unless two are within the rounding of a logarithm of each other; the same probability."""
    logits, excluded, options = made
    expected, sure = draw(logits, excluded, **options)
    found, confidence = kernel(device, draw)(logits, excluded, **options)
    offered = logits.float().index_fill(-1, torch.tensor(excluded), -math.inf)
    clear = (near(*made) > 1e-5) & (offered > -math.inf).any(dim=-1)
    assert torch.equal(found[clear], expected[clear])
    torch.testing.assert_close(confidence[clear], sure[clear], rtol=2e-5, atol=1e-7)
    if options and "top_p_B1" in options and len(excluded) < logits.shape[-1]:
        kept = tempered(
            logits.float(), excluded, options["temperature_B1"], options["top_p_B1"] + 1e-5, options.get("top_k_B1")
        )
        assert (kept.gather(-1, found[..., None])[..., 0][clear] > -math.inf).all()


@pytest.mark.parametrize("device", DEVICES)
def test_equals_at_the_end_of_top_p_stay_by_id(device: str) -> None:
    """Of five equal tokens a half keeps three: 0, 0.2 and 0.4 of the mass come before them."""
    seeds = torch.arange(60)[:, None]
    numbers = {"temperature_B1": torch.ones(60, 1), "seed_B1": seeds, "positions_BL": torch.zeros(60, 1, dtype=torch.int64)}
    found, sure = kernel(device, draw)(torch.zeros(60, 1, 6), (1,), top_p_B1=torch.full((60, 1), 0.5), **numbers)
    assert found.unique().tolist() == [0, 2, 3]
    assert sure.unique().tolist() == pytest.approx([1 / 6])


@pytest.mark.parametrize("device", DEVICES)
def test_rows_that_are_no_distribution(device: str) -> None:
    """NaN confidences, and a token of the vocabulary that may be drawn."""
    logits = torch.randn(1, 3, 3000)
    logits[0, 0], logits[0, 1, 2500], logits[0, 2, 7] = -math.inf, math.nan, math.inf
    numbers = {"temperature_B1": torch.ones(1, 1), "seed_B1": torch.ones(1, 1).long(), "positions_BL": torch.zeros(1, 3).long()}
    for options in ({}, numbers, numbers | {"top_p_B1": torch.full((1, 1), 0.9), "top_k_B1": torch.full((1, 1), 4)}):
        found, sure = kernel(device, draw)(logits, (0, 1), **options)
        assert sure.isnan().all()
        assert ((found > 1) & (found < 3000)).all()
