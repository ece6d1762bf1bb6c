"""Merged products: the same function, and the checkpoint's tensors stay what they were."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import unmask
from unmask.models.denoiser import Denoiser
from unmask.models.experts import MergedExperts
from unmask.models.layers import Fused, MergedSwiGLU, Mixture
from unmask.models.merged import Merge, Merged
from unmask.models.running import Running
from unmask.models.toy import toy

PROMPTS = [[1, 2, 3], [4] * 11]


def answers(model: Denoiser) -> list[tuple[list[int], int]]:
    made = unmask.generate(model, PROMPTS, method=unmask.method("fast-dllm"), max_new_tokens=16)
    return [(one.token_ids, one.forwards) for one in made]


@pytest.mark.parametrize("family", ["llada", "dream", "sdar", "llada2", "llada2_2", "llada_moe"])
def test_a_merged_network_decodes_the_same_and_keeps_its_tensors(family: str) -> None:
    """Biases (Dream), norms of heads (SDAR), a matrix that is fused already and a shared expert (LLaDA2)."""
    plain, merged = toy(family, sharpness=3), replace(toy(family, sharpness=3), steps=(Merge(),))
    assert answers(merged) == answers(plain)
    running = merged.network.running
    assert isinstance(running, Running)
    assert isinstance(running.layers[0].qkv, Fused)
    assert isinstance(running.layers[0].feed_forward, MergedSwiGLU)
    if isinstance(mixture := running.layers[1].feed_forward, Mixture):
        assert isinstance(mixture.experts, MergedExperts)
    for name, tensor in plain.network.state_dict().items():
        assert torch.equal(merged.network.state_dict()[name], tensor)


def test_weights_are_views_of_the_merged_ones() -> None:
    one, other = nn.Linear(3, 2), nn.Linear(3, 5)
    x = torch.randn(4, 3)
    expected = torch.cat((one(x), other(x)), dim=-1)
    merged = Merged((one, other))
    assert torch.equal(merged(x), expected)
    assert other.weight.data_ptr() == merged.weight[2:].data_ptr()
    assert other.bias.data_ptr() == merged.bias[2:].data_ptr()
    with pytest.raises(ValueError, match="of which none has one"):
        Merged((one, nn.Linear(3, 5, bias=False)))


def test_a_layer_whose_matrices_are_more_than_a_product_stays() -> None:
    network = toy("llada").network
    layer = network.blocks()[0]
    layer.q_proj = nn.Sequential(layer.q_proj)
    parts = layer.parts()
    assert Merge().layer(parts).qkv is parts.qkv
