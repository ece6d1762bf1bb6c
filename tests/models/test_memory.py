"""What a model takes: counted of its shape, compared with networks, pools and processes as they are."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import unmask
from unmask.context.pool import PAGE
from unmask.models import memory, quantise
from unmask.models.layers import QWEN, init_weights
from unmask.models.loading import network_class
from unmask.models.network import Network
from unmask.models.shape import MoE, Shape
from unmask.models.toy import CONFIGS, toy

ROOT = Path(__file__).parents[2]
SHAPE = Shape(width=8, layers=3, heads=4, kv_heads=2, head_size=6, rotary=6, mlp=20, vocab=30, theta=1e4, eps=1e-6)


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    layers, flag = draw(st.integers(1, 3)), st.booleans()
    moe = MoE(
        layers=tuple(draw(flag) for _ in range(layers)),
        experts=draw(st.integers(2, 4)),
        chosen=1,
        mlp=draw(st.integers(1, 5)),
        shared=draw(st.integers(0, 5)),
        biased=draw(flag),
    )
    return replace(
        SHAPE,
        layers=layers,
        width=draw(st.integers(1, 9)),
        mlp=draw(st.integers(1, 9)),
        vocab=draw(st.integers(1, 9)),
        qkv_bias=draw(flag),
        bias=draw(flag),
        tied=draw(flag),
        qk_norm=draw(flag),
        moe=moe if draw(flag) else None,
    )


@given(shapes())
@settings(max_examples=60)
def test_the_count_is_that_of_the_network(shape: Shape) -> None:
    class Any(Network):
        names = QWEN._replace(shared=("mlp.shared.gate", "mlp.shared.up", "mlp.shared.down"))

        @staticmethod
        def read_config(config: object) -> tuple[Shape, unmask.ModelSpec]:
            return shape, unmask.ModelSpec(mask_id=0, eos_ids=(0,), vocab_size=shape.vocab, max_length=8)

    with torch.device("meta"):
        network = Any({})
    found = memory.parameters(shape)
    assert found.total == sum(tensor.numel() for tensor in network.parameters())
    assert found.embedding == network.embedding().weight.numel()
    assert memory.weights(shape, "fp32") == 2 * memory.weights(shape, "bf16") == 4 * found.total


@pytest.mark.parametrize("family", CONFIGS)
def test_keys_and_values_are_those_of_the_pool(family: str) -> None:
    model = toy(family)
    pool = model.pool(pages=3)
    held = sum(tensor.numel() * tensor.element_size() for tensor in (*pool.keys, *pool.values))
    assert memory.keys_values(model.network.shape, 3 * PAGE - 5, kind="fp32") == held == 4 * model.page_bytes


def test_smaller_types_are_smaller_and_leave_the_rest_alone() -> None:
    big = replace(SHAPE, width=256, mlp=1024)
    sizes = [memory.weights(big, kind) for kind in ("fp32", "bf16", "int8", "int4")]
    assert sizes == sorted(sizes, reverse=True)
    rest = memory.parameters(big).total - memory.parameters(big).matrices
    assert sizes[2] > memory.parameters(big).matrices + 2 * rest
    assert memory.weights(big, "int8", rest="fp32") - memory.weights(big, "int8") >= 2 * rest
    with pytest.raises(unmask.ConfigError, match="unknown type of weights 'int3': did you mean 'int8'"):
        memory.weights(big, "int3")


def test_what_is_needed_grows_with_rows_and_tokens() -> None:
    one = memory.need(SHAPE, tokens=64)
    more = memory.need(SHAPE, tokens=64, rows=3)
    assert more.weights == one.weights
    assert more.keys_values == 3 * one.keys_values - 2 * memory.keys_values(SHAPE, 0)
    assert more.activations == 3 * one.activations
    assert one.keys_values < memory.need(SHAPE, tokens=128).keys_values
    assert one.total == one.weights + max(one.loading, one.keys_values + one.activations)


def test_a_packed_tied_matrix_is_held_twice() -> None:
    tied = replace(SHAPE, tied=True)
    plain, packed = memory.need(tied), memory.need(tied, packed=True)
    assert packed.weights - plain.weights == 2 * SHAPE.vocab * SHAPE.width
    assert memory.need(SHAPE).weights == memory.need(SHAPE, packed=True).weights


def test_groups_of_int4_are_those_that_are_made() -> None:
    assert memory.GROUP == quantise.GROUP
    assert set(memory.QUANTISED) == set(quantise.WEIGHTS)


# --- measured

# Width, layers, hidden channels, vocabulary.
SIZES = {"50M": (640, 8, 1792, 8192), "300M": (1024, 20, 2816, 20480)}


@pytest.fixture(scope="module")
def random(tmp_path_factory: pytest.TempPathFactory) -> "Random":
    return Random(tmp_path_factory.mktemp("random"))


class Random:
    """Checkpoints of random numbers in float32, made when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self, family: str, size: str) -> Path:
        place = self.folder / f"{family}-{size}"
        if place.exists():
            return place
        width, layers, mlp, vocab = SIZES[size]
        if family == "llada":
            sizes = {"d_model": width, "n_layers": layers, "n_heads": width // 64, "mlp_hidden_size": mlp, "vocab_size": vocab}
        else:
            heads = {"num_attention_heads": width // 64, "num_key_value_heads": width // 64, "head_dim": 64}
            sizes = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": mlp, "vocab_size": vocab, **heads}
        config = {**CONFIGS[family], **sizes}
        network = network_class(config["architectures"][0])(config)
        init_weights(network, std=0.02, generator=torch.Generator().manual_seed(0))
        place.mkdir()
        (place / "config.json").write_text(json.dumps(config))
        save_file(network.state_dict(), place / "model.safetensors")
        return place


def measured(name: str, dtype: str, weights: str) -> tuple[int, int, int]:
    command = [sys.executable, "-m", "tests.models.resident", name, dtype, weights, "256"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    before, most, need = json.loads(done.stdout.splitlines()[-1])
    return before, most, need


def agrees(name: str, dtype: str, weights: str) -> None:
    """Within 15 % of all that is resident; and of what the model adds, but for kernels and freed pieces that are kept."""
    before, most, need = measured(name, dtype, weights)
    assert before + need == pytest.approx(most, rel=0.15)
    assert need == pytest.approx(most - before, rel=0.15, abs=35e6)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="resident memory is read from Linux's /proc")
class TestResident:
    @pytest.mark.parametrize(("name", "weights"), [("unmask-tiny", "none"), ("unmask-tiny-block", "int8")])
    def test_embedded_models(self, name: str, weights: str) -> None:
        agrees(name, "float32", weights)

    @pytest.mark.parametrize(("family", "dtype", "weights"), [("llada", "float32", "none"), ("sdar", "bfloat16", "int4")])
    def test_fifty_million(self, random: Random, family: str, dtype: str, weights: str) -> None:
        agrees(str(random.make(family, "50M")), dtype, weights)

    @pytest.mark.slow
    @pytest.mark.parametrize("weights", ["none", "int8", "int4", "fp8"])
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("family", ["llada", "sdar"])
    def test_every_type(self, random: Random, family: str, size: str, dtype: str, weights: str) -> None:
        agrees(str(random.make(family, size)), dtype, weights)
