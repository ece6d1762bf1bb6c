"""Fine-tune a model: on its own chosen answers, which is R2-dLLM's redundancy-aware SFT, or on anybody's conversations.

    unmask train collect --config configs/collect-tiny.yaml
    unmask train sft --config configs/r2-tiny.yaml
    unmask train sft --config configs/chat-tiny.yaml --show-example 1
    unmask train merge --config configs/r2-tiny.yaml

The prompt stays visible; the answer is padded with EOS to whole blocks. Objective "block" is the paper's, "masked" the
usual one of masked diffusion (train/noise.py). A block-causal model trains on all blocks of an answer at once
(train/layout.py).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from accelerate import Accelerator, DistributedType

from unmask.data.layout import training
from unmask.decode.settings import from_mapping
from unmask.errors import ConfigError, unknown
from unmask.files import write_atomically, writing
from unmask.models import loading
from unmask.models.denoiser import Denoiser
from unmask.models.network import Network
from unmask.train import checkpoint
from unmask.train.batches import BatchConfig, questions
from unmask.train.dataset import DataConfig, LeftOut, fill, samples
from unmask.train.rows import Encoded, Examples
from unmask.train.trainer import Report, Schedule, fit, start

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """Adapter sizes, the published ones of R2-dLLM by default, and what gets adapters.

    Attributes:
        target_modules: names of matrices, as in adapter.matrices; None: all of every layer.
    """

    rank: int = 32
    alpha: int = 32
    dropout: float = 0.0
    target_modules: Sequence[str] | None = None

    def __post_init__(self) -> None:
        names = self.target_modules
        if names is not None and (isinstance(names, str) or not names or not all(isinstance(name, str) for name in names)):
            raise ConfigError(f"lora target_modules must be a list of names such as [q_proj, v_proj], got {names!r}")


@dataclass(frozen=True, kw_only=True)
class SFTConfig(BatchConfig, DataConfig):
    """The settings of a fine-tuning; defaults are R2-dLLM's if the paper gives them (arXiv 2604.18995, section 6.1).

    The objective's: train/objective.py; those of batches: train/batches.py; those of the data: train/dataset.py.

    Attributes:
        model, dtype: the base model and the type of its frozen weights; without LoRA all weights are float32.
        lora: adapters; null trains all weights.
    """

    model: str
    dtype: str = "auto"
    lora: LoRA | None = LoRA()
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
        BatchConfig.__post_init__(self)
        DataConfig.__post_init__(self)
        if self.dtype not in DTYPES:
            raise unknown("dtype", str(self.dtype), DTYPES)


def sft(config: SFTConfig, report: Report | None = None, left_out: Callable[[LeftOut], None] | None = None) -> Path:
    """Run or resume one fine-tuning; returns the folder with the adapter or the whole model.

    `left_out` is called with every example that cannot be used; they stand in the folder's left_out.txt too.
    Raises ConfigError if no example can be used, or if the folder holds a run with other settings or is being written by
    another process.
    """
    training(config.data)  # before the model is loaded
    accelerator, folder = start(config), Path(config.output)
    with checkpoint.writing(accelerator, folder):
        _sft(accelerator, config, folder, report, left_out)
    return folder


def _examples(config: SFTConfig, model: Denoiser, folder: Path | None, tell: Callable[[LeftOut], None] | None) -> Examples:
    """The examples that can be used; the others are told, and written to the folder if it is this process's."""
    usable, odd, block = list[Encoded](), list[LeftOut](), config.block(model.spec)
    for sample in samples(config, model, block_length=block, seed=config.seed):
        if isinstance(sample, LeftOut):
            odd.append(sample)
        else:
            usable.append(sample.encoded)
    if not usable:
        raise ConfigError(f"none of {len(odd)} examples can be used; {odd[0] if odd else 'the data is empty'}")
    if folder is not None and odd:
        write_atomically(folder / "left_out.txt", lambda path: path.write_text("".join(f"{one}\n" for one in odd)))
        if tell is not None:
            for one in odd:
                tell(one)
    return Examples(
        examples=usable,
        length=config.length,
        block_length=block,
        eos_id=model.spec.eos_ids[0],
        on_grid=model.spec.block is not None,
        fill=fill(config),
    )


def _sft(
    accelerator: Accelerator,
    config: SFTConfig,
    folder: Path,
    report: Report | None,
    left_out: Callable[[LeftOut], None] | None,
) -> None:
    base = loading.locate(config.model)
    settings = loading.read_json(base / "config.json")
    dtype = config.dtype if config.lora else "float32"
    # FSDP moves each layer's slice to the device; the whole model may not fit there.
    device = "cpu" if accelerator.distributed_type == DistributedType.FSDP else str(accelerator.device)
    model = loading.load(config.model, device=device, dtype=dtype)
    if config.length > model.spec.max_length:
        raise ConfigError(f"length {config.length} exceeds the model's {model.spec.max_length}")
    laid = _examples(config, model, folder if accelerator.is_main_process else None, left_out)
    network, adapter = model.network.train(), None
    network.checkpointing = config.gradient_checkpointing
    if config.lora:
        from unmask.train import adapter as lora

        # Where peft finds the base; it does not know the names of embedded models.
        place = str(base) if config.model in loading.EMBEDDED else config.model
        adapter = lora.add(network, settings | {"_name_or_path": place}, seed=config.seed, **vars(config.lora))
    else:
        network.requires_grad_(True)
    tuner = torch.optim.AdamW(
        [parameter for parameter in network.parameters() if parameter.requires_grad],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
    )
    steps = config.steps(len(laid.examples))
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
        {"examples": laid.digest, "base": loading.fingerprint(base)},
        _teacher(config, accelerator),
    )
    if accelerator.is_main_process:
        if adapter is not None:
            lora.save(adapter, weights, folder)
        else:
            checkpoint.export(network.published(weights), settings, folder)
            checkpoint.copy_tokenizer(base, folder)
        checkpoint.plot(folder)
        about = f"`{config.model}` tuned with `unmask train sft` on {len(laid.examples)} examples."
        checkpoint.card(folder, folder.name, about, {field.name: getattr(config, field.name) for field in fields(config)})


def _teacher(config: SFTConfig, accelerator: Accelerator) -> Network | None:
    """The frozen base model, where distant tokens are learnt from its predictions."""
    if config.near is None:
        return None
    teacher = loading.load(config.model, device=str(accelerator.device), dtype=config.dtype).network
    return teacher.eval().requires_grad_(False)


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
