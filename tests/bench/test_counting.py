"""Bytes and operations against a count by hand."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from unmask.bench import counting
from unmask.bench.counting import Cost
from unmask.bench.replays import least, queries, replay, requests
from unmask.context.plan import assemble
from unmask.engine.state import RequestState
from unmask.models.toy import toy

# The toy LLaDA: width 32, 2 layers, 4 heads of 8, MLP 48, 24 tokens; Dream with 2 key/value heads.
LAYER = 4 * 32 * 32 + 3 * 32 * 48
HEAD = 32 * 24


def row_of(family: str = "llada", cache: str = "dual") -> RequestState:
    model = toy(family)
    row = RequestState.start(requests(model, replay(8, cache=cache), batch=1, prompt=10, answer=64)[0], model)
    row.pages = tuple(range(5)) if cache != "none" else ()
    return row


BEHIND = 32 * 32 + 3 * 32 * 48  # output projection and feed-forward part


def test_a_refresh_by_hand() -> None:
    row = row_of()
    tokens = 10 + 64
    keys = 2 * 2 * 32 * (tokens + tokens)  # keys and values, layers, heads x size; seen and left
    expected = Cost(
        bytes=4 * (2 * LAYER + HEAD + 32 * tokens + keys + 32 * 24),
        # Behind the last attention, the 32 tokens that are predicted alone.
        flops=2 * 2 * LAYER * tokens - 2 * BEHIND * (tokens - 32) + 2 * 4 * tokens * tokens * 32 + 2 * HEAD * 32,
    )
    assert counting.forward(row.model.network.shape, queries(row, 0), 4) == expected


def test_two_block_forwards_read_the_weights_once() -> None:
    row = row_of()
    one, two = (counting.forward(row.model.network.shape, queries(row, 1) * count, 2) for count in (1, 2))
    seen, queried = 10 + 64, 32
    weights = 2 * (2 * LAYER + HEAD)
    assert one.bytes == weights + 2 * (32 * queried + 2 * 2 * 32 * (seen + queried) + 32 * 24)
    assert two.bytes - weights == 2 * (one.bytes - weights)
    assert two.flops == 2 * one.flops
    assert one.flops == 2 * 2 * LAYER * queried + 2 * 4 * queried * seen * 32 + 2 * HEAD * 32


def test_grouped_heads_move_fewer_keys() -> None:
    llada, dream = (counting.matrices(toy(family).network.shape) for family in ("llada", "dream"))
    assert llada == 2 * LAYER
    assert llada - dream == 2 * 2 * 32 * 16  # half of the keys and values


def test_weights_counted_are_the_networks_matrices() -> None:
    for family in ("llada", "dream", "sdar", "sdar_moe", "llada2"):
        network = toy(family).network
        moe = network.shape.moe
        counted = counting.matrices(network.shape, 0 if moe is None else moe.experts) + 2 * HEAD
        assert counted == sum(weight.numel() for weight in network.parameters() if weight.dim() > 1)


@pytest.mark.parametrize("cache", ["dual", "none"])
def test_a_replay_costs_the_sum_of_its_forwards(cache: str) -> None:
    row = row_of(cache=cache)
    shape = row.model.network.shape
    expected = counting.decision(3, 32, 24, 4) * 7
    for number, later in ((0, 3), (1, 2)):  # 7 forwards: a refresh and 3 more, a refresh and 2 more
        row.block_number = number
        expected += counting.forward(shape, queries(row, 0) * 3, 4) + counting.forward(shape, queries(row, 1) * 3, 4) * later
    assert least(row.model, replay(7, cache=cache), batch=3, prompt=10, answer=64) == expected


def test_operations_equal_what_torch_counts() -> None:
    row = row_of()
    pool = row.model.pool(5)
    for age in (0, 1):
        asked = queries(row, age)
        tokens, plan = assemble(asked, device=torch.device("cpu"))
        # torch counts attention only where it is two matrix products.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
            row.model.forward(tokens, plan, pool)
        assert counting.forward(row.model.network.shape, asked, 4).flops == counter.get_total_flops()


def test_a_mixture_reads_the_chosen_experts_and_computes_theirs() -> None:
    model = toy("llada2")
    row = RequestState.start(requests(model, replay(16), batch=1, prompt=8, answer=64)[0], model)
    row.pages, row.block_number = tuple(range(5)), 2
    shape = model.network.shape
    assert shape.moe is not None
    (asked,) = queries(row, 1)
    cost = counting.forward(shape, [asked], 1)
    keys = 2 * shape.layers * shape.remembered * (len(asked.plan.positions) + asked.length)
    read = counting.touched(shape.moe, asked.length)
    assert shape.moe.chosen < read < shape.moe.experts
    ends = 32 * asked.length + 24 * asked.length + HEAD
    assert cost.bytes == round(counting.matrices(shape, read) + ends + keys)
    one = 2 * counting.matrices(shape, shape.moe.chosen) + 4 * shape.layers * shape.attended * len(asked.plan.positions)
    assert cost.flops == asked.length * (one + 2 * HEAD)


def test_the_block_before_goes_along_with_a_blocks_first_forward() -> None:
    model = toy("sdar")
    row = RequestState.start(requests(model, replay(16), batch=1, prompt=8, answer=64)[0], model)
    length = row.recipe.length
    row.block_number = 2
    assert [query.plan.query for query in queries(row, 0)] == [
        slice(8 + length, 8 + 2 * length),
        slice(8 + 2 * length, 8 + 3 * length),
    ]
    assert [query.plan.query for query in queries(row, 1)] == [slice(8 + 2 * length, 8 + 3 * length)]
