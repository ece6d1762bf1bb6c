"""Mixtures of experts: both forms of the product, the choice, and how they are stored."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import unmask
from unmask.kernels.routing import eligible
from unmask.models.experts import Experts, MergedExperts, Router, dense, groupable, grouped
from unmask.models.shape import MoE
from unmask.models.toy import CONFIGS, toy

FAMILIES = ["sdar_moe", "llada2", "llada_moe"]


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 99), st.sampled_from([torch.float32, torch.bfloat16]))
def test_the_grouped_product_is_the_plain_one(tokens: int, experts: int, seed: int, dtype: torch.dtype) -> None:
    """Also where an expert has no token, or all of them."""
    chosen = 1 + seed % min(experts, 3)
    x = draw(tokens, 16, seed=seed, dtype=dtype)
    gate, up, down = (draw(experts, *sizes, seed=seed + 1, dtype=dtype) for sizes in ((8, 16), (8, 16), (16, 8)))
    ranks = draw(tokens, experts, seed=seed + 2) + 9.0 * (seed % 2) * torch.arange(experts)
    index, weights = ranks.topk(chosen).indices, draw(tokens, chosen, seed=seed + 3)
    assert groupable(x, gate)
    one, other = (form(x, (gate, up), down, index, weights) for form in (grouped, dense))
    assert one.dtype == other.dtype == dtype
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 0.1, "atol": 1.0}
    torch.testing.assert_close(one, other, **tolerance)


def test_gradients_of_both_forms_are_equal() -> None:
    found = []
    for form in (grouped, dense):
        inputs = [draw(*sizes).requires_grad_() for sizes in ((12, 16), (4, 8, 16), (4, 8, 16), (4, 16, 8))]
        weights = draw(12, 2).requires_grad_()
        index = draw(12, 4, seed=1).topk(2).indices
        x, *inner, down = inputs
        (form(x, inner, down, index, weights) * draw(12, 16, seed=2)).sum().backward()
        found.append([tensor.grad for tensor in (*inputs, weights)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("dtype", "width"), [(torch.float64, 16), (torch.float32, 6)])
def test_what_the_grouped_product_does_not_take_goes_the_plain_way(dtype: torch.dtype, width: int) -> None:
    moe = MoE(layers=(True,), experts=4, chosen=2, mlp=width)
    experts = Experts(width, moe).to(dtype).requires_grad_(False)
    for weight in experts.parameters():
        weight.copy_(draw(*weight.shape))
    x, index, weights = draw(5, width, dtype=dtype), draw(5, 4).topk(2).indices, draw(5, 2, dtype=dtype)
    assert not groupable(x, experts.gate_proj)
    *inner, down = experts.parameters()
    assert torch.equal(experts(x, index, weights), dense(x, inner, down, index, weights))


@pytest.mark.parametrize("width", [8, 6])
def test_merged_experts_are_the_same_and_their_tensors_views(width: int) -> None:
    """Of the grouped product and of the plain one, with something beside them."""
    experts = Experts(width, MoE(layers=(True,), experts=4, chosen=2, mlp=12)).requires_grad_(False)
    for number, weight in enumerate(experts.parameters()):
        weight.copy_(draw(*weight.shape, seed=number))
    x, index, weights, beside = draw(5, width), draw(5, 4).topk(2).indices, draw(5, 2), draw(5, width, seed=7)
    before = {name: tensor.clone() for name, tensor in experts.named_parameters()}
    expected = experts(x, index, weights) + beside
    merged = MergedExperts(experts)
    assert groupable(x, merged.gate_up) == (width == 8)
    torch.testing.assert_close(merged(x, index, weights, beside), expected)
    torch.testing.assert_close(experts(x, index, weights, beside), expected)
    for name, tensor in experts.named_parameters():
        assert torch.equal(tensor, before[name])
    whole = merged.gate_up.untyped_storage().data_ptr()
    assert {experts.gate_proj.untyped_storage().data_ptr(), experts.up_proj.untyped_storage().data_ptr()} == {whole}


@given(st.integers(1, 30), st.integers(1, 8), st.integers(1, 6), st.integers(0, 50))
def test_a_block_shares_its_experts_and_nothing_with_its_neighbours(length: int, block: int, capacity: int, seed: int) -> None:
    moe = MoE(layers=(True,), experts=6, chosen=1, mlp=1, capacity=capacity, block=block)
    scores = draw(2, length, 6, seed=seed)
    allowed = eligible(scores, moe).isfinite()
    for begin in range(0, length, block):
        mine = allowed[:, begin : begin + block]
        assert (mine == mine[:, :1]).all()
        assert (mine.sum(-1) == capacity).all()
        alone = eligible(scores[1:, begin : begin + block], moe).isfinite()
        assert torch.equal(alone, mine[1:])


def test_a_router_stays_precise_in_half_precision() -> None:
    """Scores that differ by less than bfloat16 can tell are still told apart by a bias in fp32."""
    moe = MoE(layers=(True,), experts=2, chosen=1, mlp=1, score="sigmoid", biased=True)
    router = Router(4, moe).to(torch.bfloat16).requires_grad_(False)
    router.weight.zero_()
    router.expert_bias = torch.nn.Parameter(torch.tensor([1.0, 1.0001]), requires_grad=False)
    experts, weights = router(torch.zeros(1, 3, 4, dtype=torch.bfloat16))
    assert experts.tolist() == [[1]] * 3
    assert weights.dtype == torch.float32


def store(family: str, folder: Path, layout: int) -> unmask.Denoiser:
    """A toy on disk, with its experts as in one of their layouts."""
    model, state = toy(family), {}
    for name, tensor in model.network.named_parameters():
        owner, _, leaf = name.rpartition(".")
        module = model.network.get_submodule(owner)
        if not isinstance(module, Experts) or layout == 1:
            state[name] = tensor
        elif layout == 2 and leaf == "gate_proj":
            state[owner.replace("experts", "w1")] = torch.cat((module.gate_proj, module.up_proj), 1)
            state[owner.replace("experts", "w2")] = module.down_proj
        elif layout == 0:
            state |= {f"{owner}.{expert}.{leaf}.weight": tensor[expert].clone() for expert in range(len(tensor))}
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIGS[family]))
    return model


@pytest.mark.parametrize("layout", [0, 1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_experts_are_read_from_every_layout_and_saved_apart(family: str, layout: int, tmp_path: Path) -> None:
    model = store(family, tmp_path / "model", layout)
    found = unmask.load(tmp_path / "model")
    for (name, one), (other_name, other) in zip(
        model.network.named_parameters(), found.network.named_parameters(), strict=True
    ):
        assert name == other_name
        assert torch.equal(one, other)
    state = found.network.state_dict()
    assert any(".experts.3.down_proj.weight" in name for name in state)
    assert not any(name.endswith(".experts.down_proj") for name in state)
    fresh = toy(family, seed=9).network
    fresh.load_state_dict(state)
    assert all(torch.equal(one, other) for one, other in zip(fresh.parameters(), found.network.parameters(), strict=True))


def test_missing_experts_are_named(tmp_path: Path) -> None:
    store("sdar_moe", tmp_path / "model", 0)
    from safetensors.torch import load_file

    weights = load_file(tmp_path / "model" / "model.safetensors")
    gone = [name for name in weights if ".experts.2." in name]
    save_file({name: tensor for name, tensor in weights.items() if name not in gone}, tmp_path / "model" / "model.safetensors")
    with pytest.raises(unmask.ModelError, match=rf"{min(gone)} and {len(gone) - 1} more is missing"):
        unmask.load(tmp_path / "model")


def test_a_bias_stays_in_fp32_beside_half_precision_weights(tmp_path: Path) -> None:
    store("llada2", tmp_path / "model", 0)
    model = unmask.load(tmp_path / "model", dtype="bfloat16")
    kinds = {name.rpartition(".")[2]: tensor.dtype for name, tensor in model.network.named_parameters()}
    assert kinds.pop("expert_bias") == torch.float32
    assert set(kinds.values()) == {torch.bfloat16}
    with torch.inference_mode():
        assert model.network(torch.arange(8)[None]).isfinite().all()
