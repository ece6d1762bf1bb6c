"""Weights in fewer bits: their products, what they leave as it is, the memory that loading them takes, and what is refused."""

import copy
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import unmask
from unmask.context.plan import assemble, entire
from unmask.models import quantised
from unmask.models.denoiser import Denoiser
from unmask.models.layers import init_weights
from unmask.models.loading import network_class
from unmask.models.packed import on_x86
from unmask.models.quantise import WEIGHTS, dequantise, kind, parts_of, quantise
from unmask.models.quantised import Dequantised, ExpertByExpert, Int4, Int8, product
from unmask.models.toy import CONFIGS

pytestmark = pytest.mark.skipif(not on_x86(torch.device("cpu")), reason="no kernels for this processor")
PROMPTS = [[1, 2, 3], [4] * 11, [7, 8] * 9]
TOLERANCE = {"int8": 0.02, "int4": 0.02, "fp8": 1e-5}  # of a product, against the dequantised weights


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def distance(made: Tensor, right: Tensor) -> float:
    return float((made - right).norm() / right.norm())


def checkpoint(folder: Path, family: str = "llada", **changes: object) -> Path:
    """A folder with a toy's random weights; its sizes are whole groups of int4."""
    whole = {
        "intermediate_size": 64,
        "mlp_hidden_size": 64,
        "dense_intermediate_size": 64,
        "moe_intermediate_size": 32,
        "head_dim": 16,
    }
    config = {key: whole.get(key, value) for key, value in CONFIGS[family].items()}
    config |= {"expert_intermediate_size": 32} if family == "llada_moe" else {}
    config |= changes
    network = network_class(config["architectures"][0])(config)
    init_weights(network, std=0.35, generator=torch.Generator().manual_seed(0))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(
        {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}, folder / "model.safetensors"
    )
    return folder


def logits(model: Denoiser) -> Tensor:
    packed_N, plan = assemble([entire([1, 5, 9, 23, 23, 23, 23, 23], 4, 8, block=model.spec.block)], device=model.device)
    with torch.inference_mode():
        return model.forward(packed_N, plan, None)


def test_the_private_operators_are_those_that_we_call() -> None:
    def schemas(name: str) -> list[str]:
        return [str(schema).partition(" ->")[0] for schema in torch._C._jit_get_schemas_for_operator(name)]

    assert schemas("onednn::qlinear_prepack") == ["onednn::qlinear_prepack(Tensor weight, int[]? x_shape)"]
    assert schemas("onednn::qlinear_pointwise")[0] == (
        "onednn::qlinear_pointwise(Tensor qx, float x_scale, int x_zero_point, Tensor qw, Tensor w_scale, Tensor w_zero_point, "
        "Tensor? bias, float output_scale, int output_zero_point, ScalarType? output_dtype, str post_op_name, "
        "Scalar?[] post_op_args, str post_op_algorithm)"
    )
    assert schemas("aten::_convert_weight_to_int4pack_for_cpu") == [
        "aten::_convert_weight_to_int4pack_for_cpu(Tensor self, int innerKTiles)"
    ]
    assert schemas("aten::_weight_int4pack_mm_for_cpu") == [
        "aten::_weight_int4pack_mm_for_cpu(Tensor self, Tensor mat2, int qGroupSize, Tensor qScaleAndZeros)"
    ]


@pytest.mark.parametrize("weights", WEIGHTS)
@settings(max_examples=15, deadline=None)
@given(rows=st.integers(1, 70), groups=st.integers(1, 4), outputs=st.integers(1, 70), bias=st.booleans())
def test_a_product_is_that_of_the_dequantised_weights(weights: str, rows: int, groups: int, outputs: int, bias: bool) -> None:
    plain, x = drawn(outputs, 32 * groups), drawn(1, rows, 32 * groups, seed=1)
    held, biases = quantise(plain, weights), [drawn(outputs, seed=3)] if bias else []
    made = product([held], biases)(x)
    right = nn.functional.linear(x, dequantise(held, torch.float32), biases[0] if bias else None)
    assert made.shape == right.shape
    assert made.dtype == x.dtype
    assert distance(made, right) < TOLERANCE[weights]


@pytest.mark.parametrize(("weights", "most"), [("int8", 0.012), ("int4", 0.09), ("fp8", 0.03)])
def test_quantised_weights_are_near_the_plain_ones_and_as_small_as_they_say(weights: str, most: float) -> None:
    plain = drawn(96, 320)
    held = quantise(plain, weights)
    assert distance(dequantise(held, torch.float32), plain) < most
    bits = 8 * sum(part.nbytes for part in parts_of(held).values()) / plain.numel()
    assert bits <= {"int8": 8.2, "int4": 5.0, "fp8": 8.2}[weights]


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_does_not_depend_on_the_others(weights: str, dtype: torch.dtype) -> None:
    for inputs, outputs in ((160, 512), (512, 160)):
        made, x = product([quantise(drawn(outputs, inputs), weights)], []), drawn(300, inputs).to(dtype)
        whole = made(x)
        for rows in (1, 2, 7, 32, 33, 64, 299):
            assert torch.equal(made(x[:rows].contiguous()), whole[:rows])


def test_large_matrices_are_quantised_and_laid_out_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, x = drawn(1200, 64), drawn(5, 64, seed=1)
    for weights in WEIGHTS:
        whole = quantise(plain, weights)
        monkeypatch.setattr("unmask.models.quantised.ELEMENTS", 64 * 100)
        assert distance(Dequantised(whole, None)(x), x @ dequantise(whole, torch.float32).T) < 1e-5
        monkeypatch.setattr("unmask.models.quantise.ELEMENTS", 64 * 100)
        parts = quantise(plain, weights)
        monkeypatch.undo()
        assert all(torch.equal(parts_of(parts)[name], part) for name, part in parts_of(whole).items())
    at_once = Int4.__new__(Int4)
    held = quantise(plain, "int4")
    at_once.__dict__ |= {"weight": Int4._laid_out(parts_of(held)["qdata"]), "scale": Int4(held, None).scale, "bias": None}
    assert torch.equal(at_once(x), Int4(held, None)(x))


def test_a_processor_without_vnni_gets_smaller_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its products of 8 bits are added in pairs of 16 bits, which 255 * 128 * 2 would overflow."""
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    plain, x = drawn(64, 128), drawn(3, 128, seed=1)
    made = Int8(quantise(plain, "int8"), None)
    assert (made.most + 128) * 128 * 2 > 2**15 > made.most * 2 * 128 * 2
    assert distance(made(x), x @ plain.T) < 0.03


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_decodes_with_every_kind(family: str, weights: str, tmp_path: Path) -> None:
    """Dense parts, fused matrices and experts; the logits are those of the plain network with the dequantised weights."""
    folder = checkpoint(tmp_path, family)
    model, plain = unmask.load(folder, weights=weights), unmask.load(folder)
    assert model.weights == weights
    assert plain.weights is None
    with torch.no_grad():
        for name, tensor in model.network.named_parameters():
            if kind(tensor) is not None:
                plain.network.get_parameter(name).copy_(dequantise(tensor, torch.float32))
    near = {"int8": 0.1, "int4": 0.1, "fp8": 1e-4}[weights] * (
        1 if model.network.shape.moe is None else 4
    )  # of experts, others
    assert distance(logits(model), logits(plain)) < near
    (answer,) = unmask.generate(model, [PROMPTS[0]], method="fast-dllm", max_new_tokens=16)
    assert len(answer.token_ids) == 16


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("family", ["llada", "sdar", "llada_moe"])
def test_answers_together_are_those_alone(family: str, weights: str, tmp_path: Path) -> None:
    model = unmask.load(checkpoint(tmp_path, family), weights=weights)
    for method in ("fast-dllm", "r2-dllm"):
        together = unmask.generate(model, PROMPTS, method=method, max_new_tokens=32)
        for prompt, row in zip(PROMPTS, together, strict=True):
            (alone,) = unmask.generate(model, [prompt], method=method, max_new_tokens=32)
            assert (alone.token_ids, alone.forwards) == (row.token_ids, row.forwards)


def test_only_the_matrices_of_the_layers_are_quantised(tmp_path: Path) -> None:
    for family in ("sdar", "llada2"):
        model = unmask.load(checkpoint(tmp_path / family, family), weights="int8")
        plain = {name.removeprefix("model.") for name, tensor in model.network.named_parameters() if kind(tensor) is None}
        assert all(any(word in name for word in ("norm", "embed", "lm_head", "mlp.gate.")) for name in plain), plain
        assert any("lm_head" in name for name in plain)


def test_the_forms_that_decode_are_the_fast_ones(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "dense")
    for weights, form in {"int8": Int8, "int4": Int4, "fp8": Dequantised}.items():
        model = unmask.load(folder, weights=weights)
        layer = model.running.layers[0]  # type: ignore[attr-defined]
        assert isinstance(layer.qkv.qkv, form)
        assert isinstance(layer.feed_forward.gate_up, form)
        assert all(kind(tensor) is None for tensor in model.network.parameters()), "the stored form is given up"
    mixed = unmask.load(checkpoint(tmp_path / "mixed", "llada_moe"), weights="int8")
    assert isinstance(mixed.running.layers[1].feed_forward.experts, ExpertByExpert)  # type: ignore[attr-defined]


def test_elsewhere_weights_are_dequantised_for_every_product(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU or on another processor."""
    folder = checkpoint(tmp_path, "llada2")
    here = {weights: logits(unmask.load(folder, weights=weights)) for weights in WEIGHTS}
    for module in ("quantised", "packed"):
        monkeypatch.setattr(f"unmask.models.{module}.on_x86", lambda device: False)
    for weights, made in here.items():
        model = unmask.load(folder, weights=weights)
        assert distance(logits(model), made) < 0.1
        assert isinstance(model.running.layers[1].feed_forward.experts, quantised.DequantisedExperts)  # type: ignore[attr-defined]


def test_quantised_weights_only_decode(tmp_path: Path) -> None:
    model = unmask.load(checkpoint(tmp_path), weights="int8")
    for use in (
        lambda: model.network.train(),
        lambda: model.network.state_dict(),
        lambda: model.network.double(),
        lambda: model.network(torch.tensor([[1, 2, 23]])),
    ):
        with pytest.raises(unmask.ModelError, match=r"the weights are int8, which only decode: load .* without weights"):
            use()
    assert model.running
    with pytest.raises(unmask.ModelError, match="load the model again"):
        copy.deepcopy(model.network)


def test_what_cannot_be_quantised_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoint(tmp_path, mlp_hidden_size=48)
    with pytest.raises(unmask.ConfigError, match="unknown kind of weights 'int7': did you mean 'int"):
        unmask.load(folder, weights="int7")
    with pytest.raises(unmask.ConfigError, match=r"groups of 32 inputs, and .*ff_out\.weight has 48: use int8 or fp8"):
        unmask.load(folder, weights="int4")
    monkeypatch.setattr("unmask.models.loading.share", lambda group: unmask.models.share.Share(0, 2, object()))  # type: ignore
    with pytest.raises(unmask.ConfigError, match="use one of them"):
        unmask.load(folder, weights="int8", tensor_parallel=True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(unmask.ConfigError, match=r"weights='int8' needs torchao: .*pip install -e '\.\[quant\]'"):
        unmask.load(folder, weights="int8")


PEAK = """
import sys, torch
import unmask
from unmask.context.plan import assemble, entire
torch.set_num_threads(1)
def most():  # of this process alone; getrusage also knows what it was forked from
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024
def decode(model):
    with torch.inference_mode():
        model.forward(*assemble([entire([1, 2, 3], 1, 3)], device=model.device), None)
for weights in (None, sys.argv[2]): decode(unmask.load("unmask-tiny", device="cpu", weights=weights))
before = most()
model = unmask.load(sys.argv[1], device="cpu", weights=sys.argv[2])
loaded = most()
decode(model)
print(loaded - before, most() - before)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bfloat16: 16 layers of 15 MB and, of the vocabulary, two matrices of 2 MB."""
    sizes = {"hidden_size": 1024, "intermediate_size": 1024, "num_attention_heads": 8, "num_key_value_heads": 8}
    folder = checkpoint(tmp_path_factory.mktemp("large"), "sdar", **sizes, head_dim=128, num_hidden_layers=16, vocab_size=1024)
    wide = load_file(folder / "model.safetensors")
    save_file({name: tensor.bfloat16() for name, tensor in wide.items()}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("weights", WEIGHTS)
def test_loading_and_the_first_decode_take_little_more_than_the_result(large: Path, weights: str) -> None:
    largest = 2 * 1024 * 1024
    layer = 7 * 1024 * 1024 * {"int8": 1, "int4": 0.625, "fp8": 1}[weights]
    result = 16 * layer + 2 * largest
    made = subprocess.run(
        [sys.executable, "-c", PEAK, str(large), weights],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(1 << 18)},  # as for real matrices
    )
    loaded, decoded = map(int, made.stdout.split())
    # glibc keeps blocks below 32 MB when they are freed, holes included; matrices of real checkpoints are larger, and those of
    # this network are given back at once as well. What is left is the process's own: oneDNN's kernels, Python's objects.
    own = 16 << 20
    assert 0.8 * result <= loaded <= 1.2 * result + largest + own
    assert decoded <= 1.2 * result + largest + layer + own  # while it is laid out
