"""Bytes and operations against a count by hand."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from unmask.bench import counting
from unmask.bench.counting import Cost
from unmask.bench.replays import least, query, replay, requests
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


def test_a_refresh_by_hand() -> None:
    row = row_of()
    tokens = 10 + 64
    keys = 2 * 2 * 32 * (tokens + tokens)  # keys and values, layers, heads x size; seen and left
    expected = Cost(
        bytes=4 * (2 * LAYER + HEAD + 32 * tokens + keys + 32 * 24),
        flops=2 * 2 * LAYER * tokens + 2 * 4 * tokens * tokens * 32 + 2 * HEAD * 32,
    )
    assert counting.forward(row.model.network.shape, [query(row, 0)], 4) == expected


def test_two_block_forwards_read_the_weights_once() -> None:
    row = row_of()
    one, two = (counting.forward(row.model.network.shape, [query(row, 1)] * count, 2) for count in (1, 2))
    seen, queried = 10 + 64, 32
    weights = 2 * (2 * LAYER + HEAD)
    assert one.bytes == weights + 2 * (32 * queried + 2 * 2 * 32 * (seen + queried) + 32 * 24)
    assert two.bytes - weights == 2 * (one.bytes - weights)
    assert two.flops == 2 * one.flops
    assert one.flops == 2 * 2 * LAYER * queried + 2 * 4 * queried * seen * 32 + 2 * HEAD * 32


def test_grouped_heads_move_fewer_keys() -> None:
    llada, dream = (counting.matrices(toy(family).network.shape) for family in ("llada", "dream"))
    assert llada == LAYER
    assert llada - dream == 2 * 32 * 16  # half of the keys and values


def test_weights_counted_are_the_networks_matrices() -> None:
    for family in ("llada", "dream"):
        network = toy(family).network
        counted = network.shape.layers * counting.matrices(network.shape) + 2 * HEAD
        assert counted == sum(weight.numel() for weight in network.parameters() if weight.dim() > 1)


@pytest.mark.parametrize("cache", ["dual", "none"])
def test_a_replay_costs_the_sum_of_its_forwards(cache: str) -> None:
    row = row_of(cache=cache)
    shape = row.model.network.shape
    expected = counting.decision(3, 32, 24, 4) * 7
    for number, later in ((0, 3), (1, 2)):  # 7 forwards: a refresh and 3 more, a refresh and 2 more
        row.block_number = number
        expected += counting.forward(shape, [query(row, 0)] * 3, 4) + counting.forward(shape, [query(row, 1)] * 3, 4) * later
    assert least(row.model, replay(7, cache=cache), batch=3, prompt=10, answer=64) == expected


def test_operations_equal_what_torch_counts() -> None:
    row = row_of()
    pool = row.model.pool(5)
    for age in (0, 1):
        asked = query(row, age)
        tokens, plan = assemble([asked], device=torch.device("cpu"))
        # torch counts attention only where it is two matrix products.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
            row.model.forward(tokens, plan, pool)
        assert counting.forward(row.model.network.shape, [asked], 4).flops == counter.get_total_flops()
