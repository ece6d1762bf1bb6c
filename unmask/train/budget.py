"""The needs of a fine-tuning, from its settings alone: memory, steps, floating-point operations. Needs no weights.

Memory is estimated per device under data parallelism, where every device holds the whole model.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unmask.errors import ConfigError
from unmask.models import loading
from unmask.models.names import on_shelf, resolve
from unmask.models.network import Network
from unmask.models.shape import Shape
from unmask.train import adapter
from unmask.train.dataset import count
from unmask.train.sft import SFTConfig

H100 = 989e12  # dense bf16 operations per second, its data sheet's peak
SHARE = 0.4  # of the peak: what a training of this size may be expected to reach
_BYTES = {"auto": 2, "bfloat16": 2, "float16": 2, "float32": 4}  # auto: what 7-8B checkpoints are stored in


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Counts, bytes and operations of one run; see `estimate`.

    Attributes:
        active: parameters that a token goes through: without the experts that it does not choose.
        hours: on one H100 at a share `peak_share` of its peak.
    """

    parameters: int
    active: int
    trained: int
    examples: int
    steps: int
    rows_per_step: int
    tokens: int
    flops: float
    weights_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    peak_share: float = SHARE

    @property
    def hours(self) -> float:
        return self.flops / (self.peak_share * H100) / 3600

    @property
    def memory_bytes(self) -> int:
        """The sum of the three, on each device."""
        return self.weights_bytes + self.optimizer_bytes + self.activation_bytes

    def to_dict(self) -> dict[str, Any]:
        """The `--json` document."""
        return asdict(self) | {"memory_bytes": self.memory_bytes, "hours": self.hours}


def estimate(config: SFTConfig, shape: Mapping[str, Any] | None, examples: int | None) -> Budget:
    """The needs of one run.

    Args:
        config: the run's settings.
        shape: the model's config.json if the model itself is not on disk; None reads it from the model's folder.
        examples: their number; None counts the prompts of the data file that have a right answer.

    Weights: as stored, without LoRA in fp32 and with gradients of the same size; a teacher's beside them. Optimiser: two
    moments, and for LoRA the fp32 adapters and their gradients. Activations: what the backward pass keeps of `micro_batch`
    rows, with 2 bytes per number (with gradient checkpointing the input of every layer and one whole layer), and the fp32
    logits of the asked tokens, three times, with certainty or a teacher five times.

    Operations per parameter and token: 2 for the forward pass, 2 for the gradient of the activations, 2 for that of the
    weights if all are trained, 2 for the second forward pass under checkpointing, 2 for the forward that fills masks in the
    share of rows `on_policy` and for each of `decode_forwards`, and 2 for a teacher's. Attention is added; the output matrix
    counts for asked tokens alone, and of an answer asked at once, whose length is not known, they are taken to be the whole
    row.
    """
    network = _network(config, shape)
    form, parameters = network.shape, sum(parameter.numel() for parameter in network.parameters())
    trained, idle = _trained(config, network, parameters), _idle(form)
    found = count(config) if examples is None else examples
    steps, views = config.steps(found), 2 if config.objective == "block" and config.complementary else 1
    rows, copies = steps * config.batch_size * views, 1 if network.spec.block is None else 2  # the clean row beside
    decoding = config.decode_forwards if config.pattern == "decode" else 0
    again = 2 * (config.on_policy + (config.near is not None) + decoding)
    passes = 2 + 2 + (0 if config.lora else 2) + (2 if config.gradient_checkpointing else 0) + again
    matrix = form.vocab * form.width
    inside = parameters - matrix * (1 if form.tied else 2) - idle
    # Scores and values of a token against all tokens, without the factor 2.
    attention = 2 * form.layers * copies * config.length * form.attended
    asked = _asked(config, network)
    # Two views together ask everything, one view a share.
    share = 0.5 if views == 2 or config.objective == "masked" else sum(config.rates) / len(config.rates)
    flops = passes * rows * (float(config.length) * copies * (inside + attention) + asked * share * matrix)
    weights = parameters * (_BYTES[config.dtype] if config.lora else 8)
    return Budget(
        parameters=parameters,
        active=parameters - idle,
        trained=trained,
        examples=found,
        steps=steps,
        rows_per_step=config.batch_size * views,
        tokens=rows * config.length,
        flops=flops,
        weights_bytes=weights + (parameters * _BYTES[config.dtype] if config.near is not None else 0),
        optimizer_bytes=trained * (16 if config.lora else 8),
        activation_bytes=_activations(config, form, copies, asked),
    )


def _trained(config: SFTConfig, network: Network, parameters: int) -> int:
    if config.lora is None:
        return parameters
    matrices = adapter.matrices(network, config.lora.target_modules).values()
    return sum(config.lora.rank * (part.in_features + part.out_features) for part in matrices)


def _idle(form: Shape) -> int:
    """Parameters of the experts that a token does not choose."""
    if form.moe is None:
        return 0
    return 3 * form.width * form.moe.mlp * (form.moe.experts - form.moe.chosen) * sum(form.moe.layers)


def _asked(config: SFTConfig, network: Network) -> int:
    """The most tokens per row that the views of a row ask together."""
    block = config.block(network.spec)
    if config.objective == "masked" or network.spec.block is not None or config.window == "answer":
        return config.length
    return min(config.length, block * (config.group if config.window == "group" else 1))


def _activations(config: SFTConfig, shape: Shape, copies: int, asked: int) -> int:
    # Kept per layer: its input, two norms (fp32 inside), q, k, v, the attention's output, gate, up, their product.
    mlp = shape.mlp
    if shape.moe is not None:  # a token's experts and the shared part, in place of the dense one
        mlp = max(mlp, shape.moe.chosen * shape.moe.mlp + shape.moe.shared)
    numbers = 7 * shape.width + 2 * shape.attended + 2 * shape.remembered + 3 * mlp
    length = copies * config.length
    layer = 2 * numbers * length
    kept = 2 * shape.width * length * shape.layers + layer if config.gradient_checkpointing else layer * shape.layers
    # A micro-batch may consist of the fuller of the two views, or of rows that are wholly masked.
    rate = max(*config.rates, *(1 - rate for rate in config.rates)) if config.complementary else max(config.rates)
    rate = 1.0 if config.objective == "masked" or config.window == "group" else rate
    times = 5 if config.certainty or config.near is not None else 3
    logits = times * 4 * rate * asked * shape.vocab
    return round(config.micro_batch * (kept + logits))


def _network(config: SFTConfig, shape: Mapping[str, Any] | None) -> Network:
    if shape is not None:
        return loading.build(shape, Path("shape"))
    place = resolve(config.model)
    if isinstance(place, Path):
        return loading.build(loading.read_json(place / "config.json"), place)
    told = on_shelf(config.model)
    if told is None or "config" not in told.facts:
        raise ConfigError(f"no folder '{config.model}' here: a dry run needs it, or the config.json as `shape` in the settings")
    return loading.build(told.value("config"), Path(told.hub_id))
