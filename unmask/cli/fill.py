"""`unmask fill`: fill the holes of a file."""

import contextlib
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unmask.cli.choose import (
    Adapter,
    Device,
    Dtype,
    Json,
    MethodName,
    Model,
    Seed,
    Settings,
    Stop,
    Temperature,
    TensorParallel,
    TopK,
    TopP,
    Weights,
    fields,
    loaded,
    own_method,
    own_values,
    read_method,
    spent,
)
from unmask.cli.view import check_output, save
from unmask.errors import ConfigError

if TYPE_CHECKING:
    from unmask.engine.holes import Hole

MARKER = "<hole:N>"


def command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A text with holes in it, marked as <hole:32>; - is the input.")],
    hole_marker: Annotated[str, typer.Option(help="What marks a hole, N being its number of tokens.")] = MARKER,
    early: Annotated[
        bool, typer.Option("--early", help="A hole may end before its last token, where the model ends its text.")
    ] = False,
    blind: Annotated[
        bool, typer.Option("--blind", help="Fill holes of a block-causal model too, which cannot see what follows them.")
    ] = False,
    question: Annotated[str | None, typer.Option("--chat", help="The file answers this question of a chat.")] = None,
    model: Model = "unmask-tiny",
    method: MethodName = None,
    settings: Settings = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    seed: Seed = 0,
    stop: Stop = None,
    watch: Annotated[bool, typer.Option("--watch", help="Draw the decode on stderr, fixed text dim.")] = False,
    trace: Annotated[
        Path | None, typer.Option(help="Save the decode: FILE.json for `unmask view`, or FILE.html as a page.")
    ] = None,
    as_json: Json = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    weights: Weights = None,
    adapter: Adapter = None,
    tensor_parallel: TensorParallel = False,
) -> None:
    """Print FILE with its holes filled; what it cost is said on stderr."""
    check_output(trace)
    parts = split(_text(file), hole_marker, str(file), early=early)
    chosen = read_method(method or own_method(model), settings)

    from rich.console import Console

    import unmask
    from unmask.engine.generate import answer, make_request
    from unmask.engine.own import completed
    from unmask.view.terminal import watching
    from unmask.view.trace import Recorder

    canvas = unmask.canvas(*parts, chat=question, blind=blind)
    with loaded(
        model, device=device, dtype=dtype, weights=weights, adapter=adapter, tensor_parallel=tensor_parallel
    ) as denoiser:
        request = make_request(
            denoiser, canvas, method=chosen, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed, stop=stop or []
        )
        length, fixed, screen = request.length, request.fixed, Console(stderr=True)
        recorded = Recorder(denoiser, length, fixed=fixed)
        with watching(denoiser, length, screen, fixed=fixed) if watch else contextlib.nullcontext(recorded) as recorder:
            completion = answer(denoiser, [request], recorder if watch or trace else None)[0]
    used = completed(denoiser, chosen)
    if trace and recorder.seen:  # where there was a hole
        kept = used.to_dict()
        save(trace, [recorder.trace(prompt=question or "", method=chosen.name, settings=kept, completion=completion)])
    if as_json:
        about = {"holes": completion.holes, "method": chosen.name or method or "", "model": model, "weights": denoiser.weights}
        print(json.dumps(fields(completion) | about))
        return
    sys.stdout.write(completion.text)
    sys.stdout.flush()
    count = len(completion.holes)
    print(
        f"[{chosen.name or method}{own_values(chosen, used)}] {count} hole{'s' * (count != 1)}, {spent(completion)}",
        file=sys.stderr,
    )


def _text(file: Path) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_bytes().decode()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8 at byte {error.start}") from None


def split(text: str, marker: str, name: str, *, early: bool = False) -> "list[str | Hole]":
    """The text and the holes of a file. Raises ConfigError where the marker says no number, or the file has no such marker.

    >>> split("a = <hole:3>;", "<hole:N>", "file")
    ['a = ', Hole(tokens=3, end='filled'), ';']
    """
    from unmask.engine.holes import hole

    signs = re.split(r"(?<![A-Za-z])N(?![A-Za-z])", marker)
    if len(signs) != 2 or not signs[0].strip():
        raise ConfigError(f"--hole-marker {marker}: write it with one N where its number of tokens stands, as {MARKER}")
    before, after = signs
    parts = re.split(f"{re.escape(before)}([0-9]+){re.escape(after)}", text)
    example = marker.replace("N", "32") if marker.count("N") == 1 else f"{before}32{after}"
    for part in parts[::2]:
        if before in part:
            line = text[: text.index(part) + part.index(before)].count("\n") + 1
            found = part[part.index(before) :].splitlines()[0][:40]
            raise ConfigError(f"{name}:{line}: {found!r} is no marker such as {example}")
    if len(parts) == 1:
        raise ConfigError(f"{name}: holds no marker such as {example}; --hole-marker says how yours look")
    end = "early" if early else "filled"
    return [hole(int(part), end=end) if place % 2 else part for place, part in enumerate(parts)]  # type: ignore[arg-type]
