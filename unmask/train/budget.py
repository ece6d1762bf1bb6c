"""The needs of a fine-tuning, from its settings alone: memory, steps, floating-point operations. Needs no weights.

Memory is estimated per device under data parallelism, where every device holds the whole model.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from unmask.errors import ConfigError
from unmask.files import read_journal
from unmask.models import loading
from unmask.models.network import Network
from unmask.models.shape import Shape
from unmask.train.sft import SFTConfig

_BYTES = {"auto": 2, "bfloat16": 2, "float16": 2, "float32": 4}  # auto: what 7-8B checkpoints are stored in


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Counts, bytes and operations of one run; see `estimate`."""

    parameters: int
    trained: int
    examples: int
    steps: int
    rows_per_step: int
    tokens: int
    flops: float
    weights_bytes: int
    optimizer_bytes: int
    activation_bytes: int

    @property
    def memory_bytes(self) -> int:
        """The sum of the three, on each device."""
        return self.weights_bytes + self.optimizer_bytes + self.activation_bytes

    def to_dict(self) -> dict[str, Any]:
        """The `--json` document."""
        return asdict(self) | {"memory_bytes": self.memory_bytes}


def estimate(config: SFTConfig, shape: Mapping[str, Any] | None, examples: int | None) -> Budget:
    """The needs of one run.

    Args:
        config: the run's settings.
        shape: the model's config.json if the model itself is not on disk; None reads it from the model's folder.
        examples: their number; None counts the prompts of the data file that have a right answer.

    Weights: as stored, without LoRA in fp32 and with gradients of the same size. Optimiser: two moments, and for LoRA the
    fp32 adapters and their gradients. Activations: what the backward pass keeps of `micro_batch` rows, with 2 bytes per number
    (with gradient checkpointing the input of every layer and one whole layer), and the fp32 logits of the supervised
    tokens, three times. Operations per parameter and token: 2 for the forward pass, 2 for the gradient of the activations,
    2 for that of the weights if all are trained, and 2 for the second forward pass under checkpointing; attention is added,
    and the output matrix counts for supervised tokens alone.
    """
    network = _network(config, shape)
    form, parameters = network.shape, sum(parameter.numel() for parameter in network.parameters())
    matrices = [part for block in network.blocks() for part in block.modules() if isinstance(part, torch.nn.Linear)]
    trained = parameters
    if config.lora:
        trained = sum(config.lora.rank * (part.in_features + part.out_features) for part in matrices)
    count = _count(config) if examples is None else examples
    steps = config.steps(count)
    views = 2 if config.objective == "block" and config.complementary else 1
    copies = 1 if network.spec.block is None else 2  # the clean row beside the noisy one
    tokens = steps * config.batch_size * views * config.length
    passes = (2 + 2 + (0 if config.lora else 2)) + (2 if config.gradient_checkpointing else 0)
    matrix = form.vocab * form.width
    inside = parameters - matrix * (1 if form.tied else 2)
    # Scores and values of a token against all tokens, without the factor 2.
    attention = 2 * form.layers * copies * config.length * form.width
    # The output matrix meets supervised tokens only: half of an answer, or a block's share.
    share = 1.0 if views == 2 else config.mask_rate  # two views together supervise the whole block
    block = config.block(network.spec)
    answer = block if network.spec.block is None else config.length  # tokens per row that the block objective supervises
    asked = tokens / 2 if config.objective == "masked" else steps * config.batch_size * answer * share
    flops = passes * (float(tokens) * copies * (inside + attention) + asked * matrix)
    return Budget(
        parameters=parameters,
        trained=trained,
        examples=count,
        steps=steps,
        rows_per_step=config.batch_size * views,
        tokens=tokens,
        flops=flops,
        weights_bytes=parameters * (_BYTES[config.dtype] if config.lora else 8),
        optimizer_bytes=trained * (16 if config.lora else 8),
        activation_bytes=_activations(config, form, copies, answer),
    )


def _activations(config: SFTConfig, shape: Shape, copies: int, answer: int) -> int:
    # Kept per layer: its input, two norms (fp32 inside), q, k, v, the attention's output, gate, up, their product.
    numbers = 7 * shape.width + 2 * shape.attended + 2 * shape.remembered + 3 * shape.mlp
    length = copies * config.length
    layer = 2 * numbers * length
    kept = 2 * shape.width * length * shape.layers + layer if config.gradient_checkpointing else layer * shape.layers
    # A micro-batch may consist of the fuller of the two views, or of rows that are wholly masked.
    rate = max(config.mask_rate, 1 - config.mask_rate) if config.complementary else config.mask_rate
    asked = rate * answer if config.objective == "block" else config.length
    return round(config.micro_batch * (kept + 3 * 4 * asked * shape.vocab))


def _network(config: SFTConfig, shape: Mapping[str, Any] | None) -> Network:
    if shape is not None:
        return loading.build(shape, Path("shape"))
    folder = Path(config.model).expanduser() if config.model not in loading.EMBEDDED else loading.locate(config.model)
    if not folder.is_dir():
        raise ConfigError(f"no folder '{config.model}' here: a dry run needs it, or the config.json as `shape` in the settings")
    return loading.build(loading.read_json(folder / "config.json"), folder)


def _count(config: SFTConfig) -> int:
    lines = read_journal(Path(config.data), "unmask train collect")[1]
    return sum(any(candidate["right"] for candidate in line["candidates"]) for line in lines)
