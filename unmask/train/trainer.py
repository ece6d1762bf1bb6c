"""The training loop, on accelerate: one CPU, one GPU, or many through `accelerate launch` (DDP, FSDP2).

It takes a network, optimisers, and micro-batches (`Question`) that are a function of the step number. Because only weights
and optimiser states depend on earlier steps, a killed run resumes from its last checkpoint on exactly the same curve.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from accelerate import Accelerator, DistributedType
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from unmask.decode.settings import from_mapping, whole
from unmask.errors import ConfigError, unknown
from unmask.models.network import Network
from unmask.train import checkpoint, sharding
from unmask.train.loss import Evidence, Own, Question, decoded, distance, entropy, part_of

Schedule = Literal["constant", "cosine", "linear"]
Precision = Literal["auto", "bf16", "fp32"]
Report = Callable[[int, dict[str, float]], None]
# This process's micro-batches of a step: (step, process, processes) -> questions.
Questions = Callable[[int, int, int], Sequence[Question]]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The settings that every kind of training shares.

    Attributes:
        output: the folder of checkpoints, log.csv, loss.png and the finished model.
        schedule: of the learning rate after the warm-up: constant, cosine or linear, the latter two to zero.
        warmup: steps (or, below 1, a share of all steps) of linear warm-up.
        clip: largest norm of the gradient.
        ema: decay of an exponential moving average of the weights, which is exported instead of them; None: no average.
        precision: auto is bf16 autocast if the device has instructions for it, else fp32.
        checkpoint_every: steps between checkpoints.
        threads: of the CPU; None: PyTorch's choice.
    """

    output: str
    learning_rate: float
    schedule: Schedule = "cosine"
    warmup: float = 0.05
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float | None = None
    precision: Precision = "auto"
    seed: int = 0
    checkpoint_every: int = 250
    threads: int | None = None
    # The settings that may change when a run is resumed.
    free: ClassVar[tuple[str, ...]] = ("output", "checkpoint_every", "threads")

    def __post_init__(self) -> None:
        if self.schedule not in get_args(Schedule):
            raise unknown("schedule", str(self.schedule), get_args(Schedule))
        if self.precision not in get_args(Precision):
            raise unknown("precision", str(self.precision), get_args(Precision))
        if self.ema is not None and not 0 < self.ema < 1:
            raise ConfigError(f"ema must be between 0 and 1, got {self.ema}")
        check_number("learning_rate", self.learning_rate, 0.0)
        for name in ("warmup", "weight_decay"):
            check_number(name, getattr(self, name), 0.0)
        whole("checkpoint_every", self.checkpoint_every, 1, required=True)

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> Self:
        """Raises ConfigError for an unknown or missing name."""
        return from_mapping(cls, settings, "training")

    def rate(self, step: int, steps: int) -> float:
        """Fraction of the peak learning rate at a step.

        >>> config = TrainingConfig(output="", learning_rate=1.0, schedule="linear", warmup=2)
        >>> [config.rate(step, 6) for step in range(6)]
        [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
        """
        warmup = round(self.warmup * steps) if self.warmup < 1 else int(self.warmup)
        if step < warmup:
            return (step + 1) / warmup
        left = (steps - step) / max(1, steps - warmup)
        if self.schedule == "constant":
            return 1.0
        return left if self.schedule == "linear" else 0.5 - 0.5 * float(torch.cos(torch.tensor(torch.pi * left)))


def check_number(name: str, value: object, least: float) -> None:
    """Raises ConfigError unless `value` is a number of at least `least`; YAML reads 2e-5 as text, not as a number."""
    if isinstance(value, bool) or not isinstance(value, float | int) or value < least:
        raise ConfigError(f"{name} must be a number of at least {least:g}, got {value!r} (in YAML write 2.0e-5, not 2e-5)")


class Student(nn.Module):
    """A network as a module to train, which DDP or FSDP wrap: micro-batches in, evidence on supervised tokens out."""

    def __init__(self, network: Network, teacher: Network | None = None) -> None:
        super().__init__()
        self.network = network
        self.teacher: tuple[Network, ...] = (
            () if teacher is None else (teacher,)
        )  # in a tuple it is no part of the module, and never sharded
        self._no_split_modules = sorted({type(block).__name__ for block in network.blocks()})  # FSDP's units

    def forward(
        self,
        input_BQ: Tensor,
        row_N: Tensor,
        place_N: Tensor,
        target_N: Tensor,
        positions_Q: Tensor | None = None,
        mask_QQ: Tensor | None = None,
        own: Own | None = None,
        certain: bool = False,
        distant_M: Tensor | None = None,
    ) -> Evidence:
        """One forward, and before it others without gradient where masks are filled by the network itself (`own`).

        The loss of tokens `distant_M` is their distance from the teacher's prediction on the same input.

        Some models predict token i in row i - 1 (Dream): the network's `predicting` gives the row.
        """
        copies, asked = (positions_Q, mask_QQ), None
        if own is not None:
            input_BQ, open_M = _fill(self.network, input_BQ, own, *copies)
            if own.forwards_R is not None:
                asked = open_M.nonzero()[:, 0]
                row_N, place_N, target_N = row_N[asked], place_N[asked], target_N[asked]
        logits = _logits(self.network, input_BQ, row_N, place_N, *copies)
        precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss_N = cross_entropy(precise, target_N, reduction="none")
        if distant_M is not None:
            with torch.no_grad():
                told = _logits(self.teacher[0], input_BQ, row_N[distant_M], place_N[distant_M], *copies)
            loss_N = loss_N.index_put((distant_M,), distance(precise[distant_M], told.to(precise.dtype)))
        return Evidence(loss_N, logits.argmax(-1) == target_N, entropy(precise) if certain else None, asked)


@torch.no_grad()
def _fill(
    network: Network, input_BQ: Tensor, own: Own, positions_Q: Tensor | None, mask_QQ: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The input with the network's own tokens in its masks, and the masks [M] that are left."""
    open_M = torch.ones_like(own.row_M, dtype=torch.bool)
    for number in range(own.most):
        logits = _logits(network, input_BQ[own.rows_R], own.row_M, own.place_M, positions_Q, mask_QQ)
        write_M = open_M
        if own.forwards_R is not None and own.sure_R is not None:
            write_M = decoded(logits, own.row_M, open_M, own.sure_R) & (own.forwards_R[own.row_M] > number)
        where = (own.rows_R[own.row_M], own.seen_M)
        input_BQ = input_BQ.index_put(where, torch.where(write_M, logits.argmax(-1), input_BQ[where]))
        open_M = open_M & ~write_M
    return input_BQ, open_M


def _logits(
    network: Network,
    input_BQ: Tensor,
    row_N: Tensor,
    place_N: Tensor,
    positions_Q: Tensor | None,
    mask_QQ: Tensor | None,
) -> Tensor:
    """Some tokens' logits, [N, V]."""
    states = network.hidden(input_BQ, positions_Q=positions_Q, mask_QQ=mask_QQ)
    return network.project(states[row_N, network.predicting(place_N)])


class Average:
    """An exponential moving average of trained weights, kept in fp32 and saved with every checkpoint."""

    def __init__(self, parameters: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.shadow = {name: parameter.detach().float().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, Tensor], step: int) -> None:
        """Move towards the weights, faster in the first steps, so that the initial weights soon count for little."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in parameters.items():
            self.shadow[name].lerp_(parameter.float(), 1 - decay)

    def state_dict(self) -> dict[str, Tensor]:
        return {name: sharding.gathered(value).cpu() for name, value in self.shadow.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, value in state.items():
            self.shadow[name].copy_(sharding.sliced(value, self.shadow[name]))


def precision(choice: Precision) -> str:
    """Accelerate's name of a precision. auto: bf16 on a GPU that has it and on a CPU with bf16 matrix instructions."""
    if choice == "auto":
        cpu = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        fast = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else cpu
        choice = "bf16" if fast else "fp32"
    return "bf16" if choice == "bf16" else "no"


def start(config: TrainingConfig) -> Accelerator:
    """The accelerator of this process, one of several under `accelerate launch`."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    AcceleratorState._reset_state()  # otherwise a second training in one process would keep the first one's precision
    chosen = precision(config.precision)
    plugin, cpu = sharding.plugin(chosen), not torch.cuda.is_available()
    if plugin is not None and cpu:
        sharding.also_on_cpus()
    accelerator = Accelerator(mixed_precision=chosen, cpu=cpu, fsdp_plugin=plugin)
    known = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.FSDP)
    if accelerator.distributed_type not in known:
        raise ConfigError(f"{accelerator.distributed_type.value} is not supported, only one device, DDP and FSDP 2")
    return accelerator


def fit(
    accelerator: Accelerator,
    network: Network,
    optimizers: Sequence[torch.optim.Optimizer],
    questions: Questions,
    config: TrainingConfig,
    steps: int,
    report: Report | None = None,
    facts: Mapping[str, str] | None = None,
    teacher: Network | None = None,
) -> dict[str, Tensor]:
    """Train, or resume training, up to step `steps`; returns the trained weights by the network's own names, on the CPU.

    The main process gets the weights, the others an empty mapping. Frozen weights are neither returned nor in the checkpoints.
    The main process calls `report(step, measured)` after every step. `facts` (fingerprints of data and base) must be the same
    when a run is resumed, as must the settings.
    A `teacher` is frozen, whole and on the device. An interrupted run loses the steps since its last checkpoint.

    Raises:
        ConfigError: the checkpoint in `config.output` was made with other settings.
        OSError: the disk is full; the last checkpoint stays complete.
    """
    folder = Path(config.output)
    student, *tuners = accelerator.prepare(Student(network, teacher), *optimizers)
    sharded = accelerator.distributed_type == DistributedType.FSDP
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    average = None if config.ema is None else Average(trained, config.ema)
    if average is not None:
        accelerator.register_for_checkpointing(average)
    checkpoint.keep_only_trained(accelerator.unwrap_model(student), set(trained))
    settings = {name: value for name, value in asdict(config).items() if name not in config.free} | {
        "steps": steps,
        **(facts or {}),
        **({"sharded": True} if sharded else {}),
    }
    groups = [group for tuner in tuners for group in tuner.param_groups]
    peaks = [group["lr"] for group in groups]
    first = checkpoint.resume(accelerator, folder, settings)
    groups = [group for tuner in tuners for group in tuner.param_groups]  # loading replaces them
    student.train()
    log = checkpoint.Log(folder / "log.csv", first) if accelerator.is_main_process else None

    processes, seen, began = accelerator.num_processes, 0, time.monotonic()
    for step in range(first, steps):
        parts = questions(step, accelerator.process_index, processes)
        here = torch.tensor(sum(part.total for part in parts), dtype=torch.float32, device=accelerator.device)
        total = float(accelerator.reduce(here, reduction="sum"))
        rounds = len(parts)
        if sharded:
            rounds = int(accelerator.gather(torch.tensor([rounds], device=accelerator.device)).max())
        loss = hits = asked = torch.zeros((), device=accelerator.device)
        for number, part in enumerate(parts):
            moved = part.to(accelerator.device)
            # Without synchronisation FSDP would keep a whole gradient on every device.
            with accelerator.no_sync(student) if number + 1 < len(parts) and not sharded else nullcontext():
                evidence = student(*moved.asked())
                share = part_of(evidence, moved, total)
                # DDP and FSDP average the processes' gradients; the loss needs their sum.
                accelerator.backward(share * processes)
            loss, hits, asked = loss + share.detach(), hits + evidence.right_N.sum(), asked + evidence.right_N.numel()
            seen += part.input_BQ.numel() * processes
        for _ in range(len(parts), rounds):
            # Gathering a layer takes all processes: those that are done add zeros until the last one is done.
            accelerator.backward(student(*moved.asked()).loss_N.sum() * 0.0)
        accelerator.clip_grad_norm_(student.parameters(), config.clip)
        for group, peak in zip(groups, peaks, strict=True):
            group["lr"] = peak * config.rate(step, steps)
        for tuner in tuners:
            tuner.step()
            tuner.zero_grad()
        if average is not None:
            average.update(trained, step)
        loss, hits, asked = accelerator.reduce(torch.stack([loss, hits, asked]), reduction="sum")
        measured = {
            "loss": loss.item(),
            "accuracy": (hits / asked).item(),
            "tokens_per_second": seen / (time.monotonic() - began),
        }
        if log is not None:
            log.write(step + 1, measured)
            if report is not None:
                report(step, measured)
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == steps:
            checkpoint.write(accelerator, folder, step + 1, settings)
    weights = {}
    for name, parameter in trained.items():
        value = sharding.gathered(parameter if average is None else average.shadow[name])
        if accelerator.is_main_process:
            weights[name] = value.detach().to("cpu", parameter.dtype)
    return weights
