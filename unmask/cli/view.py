"""`unmask view`: a decode, or two side by side, as a page to open or in the terminal."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unmask.cli.choose import (
    Adapter,
    AddBos,
    Device,
    Dtype,
    Model,
    NewTokens,
    Template,
    Weights,
    read_methods,
)
from unmask.errors import ConfigError
from unmask.files import write_atomically

if TYPE_CHECKING:
    from unmask.methods.method import Method
    from unmask.models.denoiser import Denoiser
    from unmask.view.trace import Trace

METHODS = "r2-dllm,fast-dllm"


def command(
    subjects: Annotated[list[str], typer.Argument(metavar="PROMPT|TRACE.json", help="A prompt, or one or two trace files.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="FILE.html for a page, FILE.json for a trace. Default: play in the terminal."),
    ] = None,
    methods: Annotated[str, typer.Option(help="One or two presets or settings files, separated by a comma.")] = METHODS,
    model: Model = "unmask-tiny",
    max_new_tokens: NewTokens = None,
    chat_template: Template = True,
    add_bos: AddBos = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    weights: Weights = None,
    adapter: Adapter = None,
) -> None:
    """Show forward by forward how PROMPT is decoded, or replay a saved trace."""
    check_output(output)
    if all(_is_file(subject) for subject in subjects):
        from unmask.view.trace import read

        traces = [trace for subject in subjects for trace in read(Path(subject))]
    elif len(subjects) == 1:
        import unmask

        def load() -> "Denoiser":
            return unmask.load(
                model,
                device=device,
                dtype=dtype,
                weights=weights,
                adapter=adapter,
                chat_template=chat_template,
                add_bos=add_bos,
            )

        traces = _decode(subjects[0], read_methods(methods), load, max_new_tokens)
    else:
        raise ConfigError("give one prompt in quotes, or trace files alone")
    if output is not None:
        save(output, traces)
        print(output)
        return
    from unmask.cli.console import console
    from unmask.view.terminal import play

    for trace in traces:
        play(trace, console())


def check_output(path: Path | None) -> None:
    """Raises ConfigError, before anything is decoded, for a path that `save` cannot write."""
    if path is None:
        return
    if path.suffix not in (".html", ".json"):
        raise ConfigError(f"{path}: name it FILE.html for a page or FILE.json for a trace")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: the folder {path.parent} does not exist")


def save(path: Path, traces: Sequence["Trace"]) -> None:
    """Write a page (.html) or a trace (.json)."""
    from unmask.view.page import render
    from unmask.view.trace import write

    if path.suffix == ".json":
        write(path, traces)
    else:
        page = render(traces)
        write_atomically(path, lambda place: place.write_text(page, encoding="utf-8"))


def _is_file(subject: str) -> bool:
    return os.path.isfile(subject) or (subject.endswith(".json") and len(subject.split()) == 1)


def _decode(
    prompt: str, chosen: "Mapping[str, Method]", load: "Callable[[], Denoiser]", max_new_tokens: int | None
) -> list["Trace"]:
    if len(chosen) > 2:
        raise ConfigError(f"--methods names {len(chosen)} methods: two are shown side by side at most")

    import unmask
    from unmask.engine.own import completed, default_new_tokens
    from unmask.view.trace import Recorder

    denoiser, traces = load(), []
    for name, method in chosen.items():
        length = max_new_tokens or completed(denoiser, method).max_new_tokens or default_new_tokens(denoiser)
        recorder = Recorder(denoiser, length)
        done = unmask.generate(denoiser, [prompt], method=method, max_new_tokens=max_new_tokens, observer=recorder)[0]
        traces.append(recorder.trace(prompt=prompt, method=name, settings=method.to_dict(), completion=done))
    return traces
