"""The form that decodes on a CPU: packed matrices give the plain ones' numbers, and the plain ones can be had again."""

import copy
import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import linear, silu

import unmask
from unmask.context.plan import assemble, entire
from unmask.models.denoiser import Denoiser
from unmask.models.layers import Fused, SwiGLU, Tied, init_weights
from unmask.models.packed import Pack, Packed, PackedSwiGLU, packable
from unmask.models.sdar import SDAR
from unmask.models.steps import steps
from unmask.models.toy import CONFIGS, toy

pytestmark = pytest.mark.skipif(not packable(torch.device("cpu"), torch.float32), reason="nothing is packed on this processor")
PROMPTS = [[1, 2, 3], [4] * 11, [7, 8] * 9]
METHODS = ["vanilla", "fast-dllm", "r2-dllm", "freedave"]


def packed(family: str) -> Denoiser:
    plain = toy(family, sharpness=3)
    return replace(plain, steps=steps(plain.network))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_private_operators_are_those_that_we_call() -> None:
    found = {
        str(schema).split(") ->")[0] + ")"
        for name in ("_reorder_linear_weight", "_linear_pointwise")
        for schema in torch._C._jit_get_schemas_for_operator(f"mkldnn::{name}")
    }
    assert found == {
        "mkldnn::_reorder_linear_weight(Tensor self, int? batch_size=None)",
        "mkldnn::_linear_pointwise(Tensor X, Tensor W, Tensor? B, str attr, Scalar?[] scalars, str? algorithm)",
        "mkldnn::_linear_pointwise.binary(Tensor X, Tensor other, Tensor W, Tensor? B, str attr)",
    }


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 70), inputs=st.integers(1, 65), outputs=st.integers(1, 65), bias=st.booleans())
def test_a_packed_matrix_is_the_plain_one(rows: int, inputs: int, outputs: int, bias: bool) -> None:
    weight, x, others = drawn(outputs, inputs), drawn(1, rows, inputs, seed=1), drawn(1, rows, outputs, seed=2)
    biases = [drawn(outputs, seed=3)] if bias else []
    made, plain = Packed([weight], biases), linear(x, weight, biases[0] if bias else None)
    for one, other in (
        (made(x), plain),
        (made.activated(x), silu(plain)),
        (made.times(others, x), others * plain),
        (made.onto(others, x), others + plain),
    ):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_a_row_does_not_depend_on_the_others() -> None:
    for inputs, outputs in ((160, 512), (512, 160), (33, 70)):
        made, x = Packed([drawn(outputs, inputs)], []), drawn(64 * 32, inputs)
        whole = made(x)
        for rows in (1, 2, 7, 32, 33, 64, 500, 1024):
            assert torch.equal(made(x[:rows].contiguous()), whole[:rows])


@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_predicts_the_same(family: str) -> None:
    """Logits of a whole row in the packed form and in the checkpoint's; dense parts, biases, experts and fused matrices."""
    plain, model = toy(family, sharpness=3), packed(family)
    tokens = [1, 5, 9, 23, 23, 23, 23, 23]
    packed_N, plan = assemble([entire(tokens, 4, 8, block=model.spec.block)], device=model.device)
    with torch.inference_mode():
        torch.testing.assert_close(
            model.forward(packed_N, plan, None), plain.forward(packed_N, plan, None), atol=1e-4, rtol=1e-4
        )
    layer = model.running.layers[0]
    assert isinstance(layer.qkv, Fused)
    assert isinstance(layer.o, Packed)
    assert isinstance(layer.feed_forward, PackedSwiGLU) or model.network.shape.moe is not None


@pytest.mark.parametrize("method", METHODS)
def test_answers_are_those_of_the_plain_form_together_and_alone(method: str) -> None:
    plain, model = toy(sharpness=3), packed("llada")
    asked = {"method": unmask.method(method, block_length=8), "max_new_tokens": 32}
    together = [(row.token_ids, row.forwards) for row in unmask.generate(model, PROMPTS, **asked)]
    assert together == [(row.token_ids, row.forwards) for row in unmask.generate(plain, PROMPTS, **asked)]
    for prompt, row in zip(PROMPTS, together, strict=True):
        (alone,) = unmask.generate(model, [prompt], **asked)
        assert (alone.token_ids, alone.forwards) == row


def test_an_answer_is_the_same_alone_and_among_any_number_of_rows() -> None:
    # Forwards of other sizes run other kernels of oneDNN, whose sums may differ in their last digits.
    model = unmask.load("unmask-tiny")
    prompts = [
        f"Ann has {number} hats. On Monday Ann buys {number % 7 + 1}. How many hats does Ann have?" for number in range(20, 84)
    ]
    answers = unmask.generate(model, prompts, max_new_tokens=64)
    for rows in (1, 3, 6, 16, 27):
        some = unmask.generate(model, prompts[:rows], max_new_tokens=64)
        assert [(row.token_ids, row.forwards) for row in some] == [(row.token_ids, row.forwards) for row in answers[:rows]]


@pytest.mark.parametrize("family", CONFIGS)
def test_the_plain_weights_can_be_had_again(family: str) -> None:
    """Bit by bit, after a decode; the next one packs them anew."""
    before = {name: tensor.clone() for name, tensor in toy(family).network.state_dict().items()}
    model = packed(family)
    assert model.running
    assert any(tensor.is_meta for tensor in model.network.parameters())
    for network in (copy.deepcopy(model.network), pickle.loads(pickle.dumps(model.network)), model.network):
        after = network.state_dict()
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
        assert after.keys() == before.keys()
    assert model.network.running is None
    assert model.running


def test_training_goes_on_from_the_plain_weights() -> None:
    model = packed("llada")
    assert model.running
    logits = model.network.requires_grad_(True)(torch.tensor([[1, 2, 23]]))
    logits.sum().backward()
    assert not any(tensor.is_meta or tensor.grad is None for tensor in model.network.parameters())


def test_a_tied_head_is_a_copy_and_the_embedding_stays() -> None:
    embedding = nn.Embedding(24, 8)
    head = Pack().head(Tied(embedding))
    assert isinstance(head, Packed)
    assert not embedding.weight.is_meta
    x = drawn(1, 3, 8)
    torch.testing.assert_close(head(x), linear(x, embedding.weight))


def test_what_is_more_than_a_product_stays_as_it_is() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    plain = toy().network.blocks()[0].parts()
    assert isinstance(plain.feed_forward, SwiGLU)
    odd = plain._replace(o=Doubled(32, 32), feed_forward=plain.feed_forward._replace(down=Doubled(48, 32)))
    made = Pack().layer(odd)
    assert made.o is odd.o
    assert isinstance(made.feed_forward, SwiGLU)
    assert isinstance(made.feed_forward.gate, Packed)
    assert isinstance(made.feed_forward.down, Doubled)


def test_a_type_that_the_processor_does_not_multiply_stays_plain() -> None:
    assert steps(toy(dtype=torch.float64).network) == ()
    assert not packable(torch.device("cuda"), torch.float32)


PEAK = """
import sys, torch
import unmask
from unmask.context.plan import assemble, entire
torch.set_num_threads(1)
def most():  # of this process alone; getrusage also knows what it was forked from
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024
warm = unmask.load("unmask-tiny", device="cpu")
with torch.inference_mode():
    warm.forward(*assemble([entire([1, 2, 3], 1, 3)], device=warm.device), None)
before = most()
model = unmask.load(sys.argv[1], device="cpu")
with torch.inference_mode():
    model.forward(*assemble([entire([1, 2, 3], 1, 3)], device=model.device), None)
print(most() - before)
"""


@pytest.fixture
def large(tmp_path: Path) -> tuple[Path, int]:
    """A folder of 100 MB with a tied head, and the bytes of its weights."""
    sizes = {"hidden_size": 512, "num_hidden_layers": 6, "intermediate_size": 1536, "vocab_size": 16384, "mask_token_id": 23}
    config = {**CONFIGS["sdar"], **sizes, "head_dim": 64, "num_attention_heads": 8, "tie_word_embeddings": True}
    network = SDAR(config)
    init_weights(network, std=0.02, generator=torch.Generator().manual_seed(0))
    state = {name: tensor.detach() for name, tensor in network.state_dict().items()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(state, tmp_path / "model.safetensors")
    return tmp_path, sum(tensor.nbytes for tensor in state.values())


def test_packing_holds_no_second_copy_of_the_weights(large: tuple[Path, int]) -> None:
    folder, weights = large
    made = subprocess.run([sys.executable, "-c", PEAK, str(folder)], capture_output=True, text=True, check=True)
    assert 0.8 * weights <= int(made.stdout) <= 1.2 * weights + 16384 * 512 * 4  # a tied head is laid out beside the embedding
