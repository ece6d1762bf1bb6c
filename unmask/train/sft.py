"""Fine-tune a model on its own chosen answers: R2-dLLM's redundancy-aware SFT, and plain SFT for comparison.

    unmask train collect --config configs/collect-tiny.yaml
    unmask train sft --config configs/r2-tiny.yaml
    unmask train merge --config configs/r2-tiny.yaml

The prompt stays visible; the answer is padded with EOS to whole blocks. Objective "block" is the paper's, "masked" the
usual one of masked diffusion (train/noise.py). A block-causal model trains on all blocks of an answer at once
(train/layout.py).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

import torch
from accelerate import Accelerator, DistributedType

from unmask.decode.settings import from_mapping, whole
from unmask.engine.generate import encode
from unmask.errors import ConfigError, unknown
from unmask.files import writing
from unmask.models import loading
from unmask.models.denoiser import Denoiser
from unmask.models.network import Network
from unmask.train import checkpoint
from unmask.train.batches import BatchConfig, questions
from unmask.train.rows import Encoded, Examples
from unmask.train.selection import Example, Select, Spatial, examples
from unmask.train.trainer import Report, Schedule, fit, start

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """Adapter sizes; the published ones of R2-dLLM by default."""

    rank: int = 32
    alpha: int = 32
    dropout: float = 0.0


@dataclass(frozen=True, kw_only=True)
class SFTConfig(BatchConfig):
    """The settings of a fine-tuning; defaults are R2-dLLM's if the paper gives them (arXiv 2604.18995, section 6.1).

    The objective's: train/objective.py; those of batches: train/batches.py.

    Attributes:
        model, dtype: the base model and the type of its frozen weights; without LoRA all weights are float32.
        data: a file of `unmask train collect`.
        select: which right answer per prompt: that of lowest or highest redundancy, or a random one.
        spatial, per_token: how redundancy is counted; see selection.score.
        lora: adapter sizes; null trains all weights.
        length: tokens of prompt and answer together, padded or cut.
    """

    model: str
    data: str
    dtype: str = "auto"
    select: Select = "lowest"
    spatial: Spatial = "windows"
    per_token: bool = True
    lora: LoRA | None = LoRA()
    length: int = 768
    gradient_checkpointing: bool = False
    learning_rate: float = 2e-5
    schedule: Schedule = "constant"
    warmup: float = 0.0
    free: ClassVar[tuple[str, ...]] = (*BatchConfig.free, "gradient_checkpointing")

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> Self:
        """Raises ConfigError on a name that is no field, or where one is missing."""
        lora = settings.get("lora")
        if isinstance(lora, Mapping):
            settings = settings | {"lora": from_mapping(LoRA, lora, "lora")}
        return super().from_dict(settings)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (("select", Select), ("spatial", Spatial)):
            if getattr(self, name) not in get_args(known):
                raise unknown(name, str(getattr(self, name)), get_args(known))
        whole("length", self.length, 1, required=True)
        if self.dtype not in DTYPES:
            raise unknown("dtype", str(self.dtype), DTYPES)


def sft(config: SFTConfig, report: Report | None = None) -> Path:
    """Run or resume one fine-tuning; returns the folder with the adapter or the whole model.

    Raises ConfigError for bad data, or if the folder holds a run with other settings or is being written by another process.
    """
    chosen = examples(Path(config.data), config.select, spatial=config.spatial, per_token=config.per_token, seed=config.seed)
    accelerator, folder = start(config), Path(config.output)
    with checkpoint.writing(accelerator, folder):
        _sft(accelerator, config, chosen, folder, report)
    return folder


def _sft(accelerator: Accelerator, config: SFTConfig, chosen: list[Example], folder: Path, report: Report | None) -> None:
    base = loading.locate(config.model)
    settings = loading.read_json(base / "config.json")
    dtype = config.dtype if config.lora else "float32"
    # FSDP moves each layer's slice to the device; the whole model may not fit there.
    device = "cpu" if accelerator.distributed_type == DistributedType.FSDP else str(accelerator.device)
    model = loading.load(config.model, device=device, dtype=dtype)
    if config.length > model.spec.max_length:
        raise ConfigError(f"length {config.length} exceeds the model's {model.spec.max_length}")
    network, adapter = model.network.train(), None
    network.checkpointing = config.gradient_checkpointing
    if config.lora:
        from unmask.train import adapter as lora

        sizes = config.lora
        named = settings | {"_name_or_path": config.model}
        adapter = lora.add(network, named, rank=sizes.rank, alpha=sizes.alpha, dropout=sizes.dropout, seed=config.seed)
    else:
        network.requires_grad_(True)
    laid = Examples(
        examples=_encode(model, chosen),
        length=config.length,
        block_length=config.block(model.spec),
        eos_id=model.spec.eos_ids[0],
        on_grid=model.spec.block is not None,
        fill="length",
    )
    tuner = torch.optim.AdamW(
        [parameter for parameter in network.parameters() if parameter.requires_grad],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
    )
    steps = config.steps(len(chosen))
    weights = fit(
        accelerator,
        network,
        [tuner],
        lambda step, process, processes: questions(
            laid.rows(config, step), config, model.spec, step, process, processes, step / steps
        ),
        config,
        steps,
        report,
        {"examples": hashlib.sha256(repr(chosen).encode()).hexdigest()[:16], "base": loading.fingerprint(base)},
        _teacher(config, accelerator),
    )
    if accelerator.is_main_process:
        if adapter is not None:
            lora.save(adapter, weights, folder)
        else:
            checkpoint.export(network.published(weights), settings | {"torch_dtype": "float32"}, folder)
            checkpoint.copy_tokenizer(base, folder)
        checkpoint.plot(folder)
        which = "a random right one" if config.select == "random" else f"the right one of {config.select} redundancy"
        about = (
            f"`{config.model}` tuned with `unmask train sft` on {len(chosen)} of its own answers: for each prompt {which} "
            "of several (arXiv 2604.18995)."
        )
        checkpoint.card(folder, folder.name, about, {field.name: getattr(config, field.name) for field in fields(config)})


def _teacher(config: SFTConfig, accelerator: Accelerator) -> Network | None:
    """The frozen base model, where distant tokens are learnt from its predictions."""
    if config.near is None:
        return None
    teacher = loading.load(config.model, device=str(accelerator.device), dtype=config.dtype).network
    return teacher.eval().requires_grad_(False)


def _encode(model: Denoiser, chosen: Sequence[Example]) -> list[Encoded]:
    return [Encoded.of(encode(model, example.prompt), example.answer, example.steps) for example in chosen]


def merge(config: SFTConfig) -> Path:
    """Merge the adapter of a finished fine-tuning into its base model; returns the whole model's folder, `output`/merged."""
    from unmask.train import adapter as lora

    folder = Path(config.output)
    if config.lora is None:
        raise ConfigError(f"{folder} was trained without LoRA: it is a whole model already")
    if not (folder / "adapter_model.safetensors").exists():
        raise ConfigError(f"{folder} holds no adapter_model.safetensors: run `unmask train sft` first")
    base = loading.locate(config.model)
    settings = loading.read_json(base / "config.json")
    model = loading.load(config.model, device="cpu", dtype=config.dtype)
    whole = folder / "merged"
    with writing(folder):
        checkpoint.export(lora.merged(model.network, settings, folder), settings, whole)
        checkpoint.copy_tokenizer(base, whole)
        about = f"`{config.model}` with the adapter beside it merged in (`unmask train merge`)."
        checkpoint.card(whole, f"{folder.name}, merged", about, asdict(config))
    return whole
