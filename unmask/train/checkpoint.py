"""The files of a training: checkpoints, a log, and the finished model.

Everything is written to a temporary name and then renamed, so a full disk, a kill or Ctrl-C leaves the last good file.

    output/checkpoint-000500/   trained weights, optimisers, average; progress.json: step and settings
    output/log.csv, loss.png
    output/config.json, model.safetensors, tokenizer files      (a whole model) or
    output/adapter_config.json, adapter_model.safetensors       (LoRA)
    output/README.md                                            the model card
"""

import csv
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor, nn

from unmask import files
from unmask.errors import ConfigError
from unmask.files import sync, write_atomically

_PREFIX = "checkpoint-"


@contextmanager
def writing(accelerator: Accelerator, folder: Path) -> Iterator[None]:
    """Lock the output folder for one run; the main process does so for all processes of the launcher.

    Raises ConfigError, on the main process, while another run writes the folder.
    """
    with files.writing(folder) if accelerator.is_main_process else nullcontext():
        yield


# --- checkpoints -------------------------------------------------------------------------------------------------------


def keep_only_trained(student: Any, names: set[str]) -> None:
    """Limit checkpoints to the trained weights: those of a LoRA of an 8B model are megabytes, not gigabytes."""

    def frozen(key: str) -> bool:
        return key.rpartition("network.")[2] not in names

    def save(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: object) -> None:
        for key in [key for key in state if frozen(key)]:
            del state[key]

    def load(module: nn.Module, odd: Any) -> None:
        odd.missing_keys[:] = [key for key in odd.missing_keys if not frozen(key)]

    student.register_state_dict_post_hook(save)
    student.register_load_state_dict_post_hook(load)


def write(accelerator: Accelerator, folder: Path, step: int, settings: Mapping[str, Any]) -> None:
    """Add the checkpoint of a step and remove the older ones."""
    place = folder / f"{_PREFIX}{step:06d}"
    partial = folder / f"{place.name}.partial"
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    accelerator.wait_for_everyone()
    try:
        accelerator.save_state(str(partial))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            (partial / "progress.json").write_text(json.dumps({"step": step, "settings": settings}, indent=1))
            for path in (*partial.rglob("*"), partial):
                sync(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)  # what a full disk has cut short
        raise
    if accelerator.is_main_process:
        shutil.rmtree(place, ignore_errors=True)
        os.replace(partial, place)
        sync(folder)
        for other in found(folder):
            if other != place:
                shutil.rmtree(other, ignore_errors=True)
    accelerator.wait_for_everyone()


def found(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, the newest last."""
    return sorted(
        path for path in folder.glob(f"{_PREFIX}*") if path.suffix != ".partial" and (path / "progress.json").exists()
    )


def resume(accelerator: Accelerator, folder: Path, settings: Mapping[str, Any]) -> int:
    """Load the newest checkpoint, if there is one; returns the number of steps done.

    Raises ConfigError if it was made with other settings: the result would not be one run's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    newest = found(folder)[-1:]
    if not newest:
        return 0
    progress = json.loads((newest[0] / "progress.json").read_text())
    settings = json.loads(json.dumps(settings))
    if progress["settings"] != settings:
        odd = next(
            name for name in {**progress["settings"], **settings} if progress["settings"].get(name) != settings.get(name)
        )
        raise ConfigError(f"{newest[0]} was made with other settings ({odd}): use another `output` or delete it")
    accelerator.load_state(str(newest[0]))
    return int(progress["step"])


class Log:
    """log.csv: one line per step. A resumed run first drops the lines of the steps that it will do again."""

    def __init__(self, path: Path, done: int) -> None:
        self.path = path
        if path.exists():
            kept = [row for row in read_log(path) if row["step"] <= done]
            write_atomically(path, lambda place: self._rewrite(place, kept))

    def write(self, step: int, measured: Mapping[str, float]) -> None:
        row: dict[str, float] = {"step": step, **{name: round(value, 6) for name, value in measured.items()}}
        new = not self.path.exists() or not self.path.stat().st_size
        with self.path.open("a", newline="") as file:
            self._lines(file, [row], header=new)

    def _rewrite(self, place: Path, rows: list[dict[str, float]]) -> None:
        with place.open("w", newline="") as file:
            self._lines(file, rows, header=bool(rows))

    @staticmethod
    def _lines(file: Any, rows: list[dict[str, float]], *, header: bool) -> None:
        if rows:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            if header:
                writer.writeheader()
            writer.writerows(rows)


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of a log.csv, as numbers; a last line that a kill has cut short is left out."""
    lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [
        {name: int(value) if name == "step" else float(value) for name, value in row.items()} for row in csv.DictReader(lines)
    ]


def plot(folder: Path) -> None:
    """Draw loss.png from log.csv: the loss of every step and its running mean."""
    from matplotlib.figure import Figure

    rows = read_log(folder / "log.csv")
    if not rows:
        return
    steps, losses = [row["step"] for row in rows], [row["loss"] for row in rows]
    means, mean = [], losses[0]
    for loss in losses:
        mean += 0.02 * (loss - mean)
        means.append(mean)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses, color="#9db4d3", linewidth=0.5, label="per step")
    axes.plot(steps, means, color="#1f4e8c", linewidth=1.5, label="running mean")
    axes.set(xlabel="step", ylabel="loss (nats)", yscale="log")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    write_atomically(folder / "loss.png", lambda path: figure.savefig(path, dpi=120, format="png"))


# --- the finished model -----------------------------------------------------------------------------------------------


def export(weights: Mapping[str, Tensor], settings: Mapping[str, Any], folder: Path) -> None:
    """Write a whole model in the Hugging Face layout: model.safetensors and config.json, which says the weights' own type.

    The type stands there once: transformers writes "dtype" today, wrote "torch_dtype" before, and reads both.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in settings.items() if name not in ("dtype", "torch_dtype")}
    settings = kept | {"torch_dtype": str(next(iter(weights.values())).dtype).removeprefix("torch.")}
    tensors = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
    write_atomically(folder / "model.safetensors", lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    write_atomically(folder / "config.json", lambda path: path.write_text(json.dumps(settings, indent=1) + "\n"))


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy the files besides weights and config: tokenizer, chat template, generation settings."""
    for path in source.iterdir():
        if path.suffix in (".json", ".txt", ".model", ".jinja") and path.name not in (
            "config.json",
            "model.safetensors.index.json",
            "adapter_config.json",
        ):
            write_atomically(folder / path.name, lambda place, path=path: shutil.copyfile(path, place))  # type: ignore[misc]


def card(folder: Path, title: str, data: str, settings: Mapping[str, Any]) -> None:
    """Write README.md: the model's origin, its training data, its settings and the end of its log."""
    log = folder / "log.csv"
    rows = read_log(log) if log.exists() else []
    last = rows[-200:]
    lines = [f"# {title}", "", data, ""]
    if last:
        loss = sum(row["loss"] for row in last) / len(last)
        lines += [f"Loss over the last {len(last)} of {rows[-1]['step']} steps: {loss:.4f} nats.", "", "![loss](loss.png)", ""]
    lines += ["| setting | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in settings.items()), ""]
    write_atomically(folder / "README.md", lambda path: path.write_text("\n".join(lines)))
