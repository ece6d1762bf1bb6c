"""The form that decodes, made by toy steps: the same function, and the checkpoint's tensors or a clear refusal."""

import copy
import random
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor, nn

import unmask
from unmask.models.denoiser import Denoiser
from unmask.models.hf import wrap
from unmask.models.layers import Part, Parts, Separate, SwiGLU
from unmask.models.running import Running, Step, release
from unmask.models.toy import CONFIGS, toy

FAMILIES = ["llada", "dream"]  # those that the engine decodes
PROMPTS = [[1, 2, 3], [4] * 11]


class Joined:
    """One product for several matrices, whose own weights and biases become views of the joined ones."""

    def __init__(self, *matrices: nn.Linear) -> None:
        self.sizes = [matrix.out_features for matrix in matrices]
        self.weight = torch.cat([matrix.weight for matrix in matrices]).detach()
        biases = [matrix.bias for matrix in matrices]
        self.bias = None if biases[0] is None else torch.cat(biases).detach()
        for matrix, part in zip(matrices, self.weight.split(self.sizes), strict=True):
            matrix.weight = nn.Parameter(part, requires_grad=False)
        for matrix, part in zip(
            matrices, () if self.bias is None else self.bias.split(self.sizes), strict=self.bias is not None
        ):
            matrix.bias = nn.Parameter(part, requires_grad=False)

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        return nn.functional.linear(x, self.weight, self.bias).split(self.sizes, dim=-1)


@dataclass
class Merge:
    """q, k and v in one product."""

    name: str = "merge"
    made: int = 0

    def layer(self, parts: Parts) -> Parts:
        self.made += 1
        return parts._replace(qkv=Joined(*parts.qkv))

    def head(self, head: Part) -> Part:
        return head

    def rows(self, count: int) -> int:
        return count


class Packed:
    """A product whose weight lies in memory as the kernel wants it (here: transposed), and nowhere else."""

    def __init__(self, matrix: nn.Linear) -> None:
        self.weight = matrix.weight.t().contiguous()
        self.bias = None if matrix.bias is None else matrix.bias.clone()
        release(matrix)

    def __call__(self, x: Tensor) -> Tensor:
        return (
            x @ self.weight
            if self.bias is None
            else torch.addmm(self.bias, x.flatten(0, -2), self.weight).view(*x.shape[:-1], -1)
        )


@dataclass
class Pack:
    """The feed-forward part and the head, packed."""

    network: nn.Module
    name: str = "pack"
    plain: list[int] = field(default_factory=list)  # matrices that were still there when a layer's turn came

    def layer(self, parts: Parts) -> Parts:
        self.plain.append(sum(tensor.dim() == 2 and not tensor.is_meta for tensor in self.network.parameters()))
        assert isinstance(parts.feed_forward, SwiGLU)
        return parts._replace(feed_forward=SwiGLU(*(Packed(matrix) for matrix in parts.feed_forward)))

    def head(self, head: Part) -> Part:
        return Packed(head)

    def rows(self, count: int) -> int:
        return count + 3


def fresh(family: str, *steps: Step, dtype: torch.dtype = torch.float64) -> Denoiser:
    return replace(toy(family, sharpness=3, dtype=dtype), steps=steps)


def answers(model: Denoiser) -> list[tuple[list[int], int]]:
    made = unmask.generate(model, PROMPTS, method="r2-dllm", max_new_tokens=64)
    return [(one.token_ids, one.forwards) for one in made]


def packed(family: str) -> Denoiser:
    model = fresh(family)
    return replace(model, steps=(Merge(), Pack(model.network)))


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_matrices_decode_the_same_and_the_checkpoint_form_stays(family: str) -> None:
    plain, merge = fresh(family), Merge()
    merged = fresh(family, merge)
    assert answers(merged) == answers(plain)
    assert answers(replace(merged, name="again")) == answers(plain)
    assert merge.made == 2  # once for each layer, whatever shares the network
    for (name, one), (other_name, other) in zip(
        merged.network.state_dict().items(), plain.network.state_dict().items(), strict=True
    ):
        assert name == other_name
        assert torch.equal(one, other)
    qkv = merged.running.layers[0].qkv
    with torch.no_grad():  # views, not copies: what changes the checkpoint form changes what decodes
        next(iter(merged.network.blocks()[0].parts().qkv)).weight.zero_()
    assert not qkv.weight[: qkv.sizes[0]].any()


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_matrices_decode_the_same_and_everything_else_refuses(family: str) -> None:
    plain, model = fresh(family), packed(family)
    model.network.state_dict()  # still the checkpoint form
    assert answers(model) == answers(plain)
    refused = [
        model.network.state_dict,
        lambda: model.network(torch.arange(4)[None]),
        lambda: wrap(model.network, CONFIGS[family]),
        model.network.float,
    ]
    for use in refused:
        with pytest.raises(unmask.ModelError, match="plain weights were given up") as caught:
            use()
        assert "\n" not in str(caught.value)


def test_memory_is_free_layer_by_layer() -> None:
    """When a layer is packed, those before it hold their packed weights alone."""
    model = packed("llada")
    assert model.running
    whole = sum(tensor.dim() == 2 for tensor in model.network.parameters())
    assert model.steps[1].plain == [whole, whole - 3]
    assert sum(tensor.dim() == 2 and not tensor.is_meta for tensor in model.network.parameters()) == whole - 2 * 3 - 1


def test_a_network_that_is_converted_or_copied_is_made_anew() -> None:
    merge = Merge()
    model = fresh("llada", merge)
    assert model.running is model.running
    copied = replace(model, network=copy.deepcopy(model.network).float())
    assert copied.running.layers[0].qkv.weight.dtype == torch.float32
    assert model.running.layers[0].qkv.weight.dtype == torch.float64
    assert merge.made == 4


def test_another_block_length_decodes_with_the_same_form() -> None:
    model = replace(toy("sdar"), steps=(Merge(),))
    with pytest.warns(UserWarning, match="runs with 8"):
        assert model.with_block(8).running is model.running


def test_steps_have_one_order() -> None:
    model = fresh("llada")
    for steps in ((Pack(model.network), Merge()), (Merge(), Merge())):
        with pytest.raises(ValueError, match="adapter, slice, merge, quantise, pack"):
            Running(model.network, steps)


def test_logits_are_the_projection_of_states() -> None:
    from unmask.context.plan import assemble, entire

    for family in FAMILIES:
        model = fresh(family)
        tokens = [random.Random(0).randrange(22) for _ in range(12)]
        packed_N, plan = assemble([entire(tokens, 4, 9)], device=model.device)
        with torch.inference_mode():
            states = model.states(packed_N, plan, None)
            whole = model.network(torch.tensor([tokens]))[0, 4 - model.spec.lookbehind : 9 - model.spec.lookbehind]
        assert states.shape == (5, model.network.shape.width)
        torch.testing.assert_close(model.project(states), whole)
        assert torch.equal(model.forward(packed_N, plan, None), model.project(states))


def test_a_models_own_settings_are_its_blocks_and_their_exact_cache() -> None:
    grid = {"cache": "block", "suffix": None, "refresh": None}
    for family in CONFIGS:
        block = toy(family).spec.block
        assert toy(family).defaults == ({} if block is None else {"block_length": block, **grid})
    assert isinstance(toy().network.blocks()[0].parts().qkv, Separate)
