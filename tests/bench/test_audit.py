"""What the steps of real shapes would launch on a GPU, on meta tensors."""

import pytest
import torch

from unmask.bench import audit as auditing
from unmask.bench.audit import Audit, Case, audit, by_the_host, counted
from unmask.kernels.gated import silu_times
from unmask.kernels.norm import add_rms_norm
from unmask.models import layers

MEGABYTE = 10**6


def quiet(found: Audit) -> bool:
    """Whether a step is work of the device alone: the host waits for nothing, ships nothing and is told once."""
    return not found.waits and found.shipped == 0 and found.told == 1


@pytest.mark.parametrize(("shape", "most"), [("LLaDA-8B", 450), ("Dream-7B", 412)])
def test_a_block_step_is_few_launches(shape: str, most: int) -> None:
    found = audit(Case(shape=shape))
    assert quiet(found)
    assert found.launches <= most
    # Four products, two norms, two of attention, one rotary and one gate per layer; a norm and a product at the end; places.
    layers = {"LLaDA-8B": 32, "Dream-7B": 28}[shape]
    assert found.products == 4 * layers + 1
    kernels = sum("." in op.name for op in found.ops)
    assert kernels == 6 * layers + 4


def test_an_expert_layer_is_twelve_launches_beside_its_attention() -> None:
    """LLaDA2-mini, whose first layer is dense: 963 launches before, of which 41 per layer of experts."""
    found = audit(Case(shape="LLaDA2-mini", method="fast-dllm"))
    assert quiet(found)
    assert found.launches <= 435
    names = [op.name for op in found.ops]
    first = names.index("routing.choose")
    layer = ["mm", "choose", "linear", "gate", "linear", "group", "index", "grouped_mm", "gate", "grouped_mm", "mix", "norm"]
    assert [name.rpartition(".")[2].strip("_") for name in names[first - 1 :][: len(layer)]] == layer
    assert names.count("routing.choose") == names.count("grouping.group") == names.count("grouping.mix") == 19
    assert found.small_bytes < 0.13e9


@pytest.mark.parametrize(
    ("case", "most"),
    [(Case(shape="LLaDA-8B"), 39.5e9 / 3), (Case(shape="LLaDA2-mini", method="fast-dllm"), 8.2e9 / 2)],
)
def test_the_small_kernels_of_a_refresh_move_a_fraction_of_what_they_did(case: Case, most: float) -> None:
    """39.5 GB and 8.2 GB before they were fused."""
    found = audit(case, refresh=True)
    assert not found.waits
    assert found.small_bytes < most


@pytest.mark.parametrize(("shape", "method", "most"), [("LLaDA-30M", "r2-dllm", 40), ("SDAR-30M", "fast-dllm", 20)])
def test_a_refresh_is_a_handful_of_launches_of_the_host(shape: str, method: str, most: int) -> None:
    """Its network, what it says of the window and its decision are a graph each; the rest puts down what is new of the row."""
    case = Case(shape=shape, method=method)
    found = by_the_host(case)
    assert not found.waits
    assert found.told == 1
    assert [op.name for op in found.ops].count("graph") == 3
    assert found.launches <= most < audit(case, refresh=True).launches


def test_one_op_more_in_a_layer_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(shape="LLaDA-30M")
    before = audit(case)
    monkeypatch.setattr(layers, "silu_times", lambda gate, up: silu_times(gate, up) + 1)
    after = audit(case)
    assert after.launches == before.launches + 4
    assert after.small_bytes > before.small_bytes


def test_what_makes_the_host_wait_is_noticed() -> None:
    x = torch.zeros(4, device="meta")
    with counted() as found, pytest.raises(RuntimeError):
        x.sum().item()
    assert found.waits == ["_local_scalar_dense"]
    with counted() as found:
        torch.ones(3).to("meta")
    assert (found.shipped, found.launches) == (1, 0)


def test_views_are_no_launches_and_kernels_are() -> None:
    x = torch.zeros(4, 8, device="meta", dtype=torch.bfloat16)
    with torch.no_grad(), counted() as found:
        add_rms_norm(x.view(8, 4).t().t().reshape(4, 8), x, x[0], 1e-6)
    assert [op.name for op in found.ops] == ["norm.norm"]
    assert found.ops[0].bytes == (4 * 4 * 8 + 8) * 2  # two read, two written, a weight


def test_the_command_says_launches_and_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    auditing.show([Case(shape="LLaDA-30M")])
    lines = capsys.readouterr().out.splitlines()
    assert "launches" in lines[0]
    assert len(lines) == 4


def test_a_sampled_decision_makes_nothing_of_the_vocabularys_size() -> None:
    """64 rows: the logits are there once, in the network's type; before, every pass made 2 GB."""
    found = audit(Case(shape="LLaDA-8B", rows=64, temperature=0.7, top_p=0.9, top_k=50))
    assert quiet(found)
    assert found.largest.made < 64 * MEGABYTE
    assert [op.name for op in found.ops].count("sampling.draw") == 1
