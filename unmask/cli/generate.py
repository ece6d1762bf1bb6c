"""`unmask generate`: answer one prompt."""

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from unmask.cli.choose import (
    AddBos,
    Device,
    Dtype,
    Json,
    KvDtype,
    MethodName,
    Model,
    NewTokens,
    Seed,
    Settings,
    Stop,
    Temperature,
    Template,
    TensorParallel,
    TopK,
    TopP,
    fields,
    loaded,
    own_method,
    own_values,
    read_method,
    spent,
)
from unmask.cli.view import check_output, save
from unmask.errors import ConfigError


def read_schema(path: Path) -> str:
    """The text of a schema's file. Raises ConfigError where it cannot be read or is no JSON."""
    try:
        text = path.read_text(encoding="utf-8")
        json.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ConfigError(f"{path}: is no JSON ({error})") from None
    return text


def command(
    prompt: Annotated[str, typer.Argument(help="The prompt.")],
    model: Model = "unmask-tiny",
    method: MethodName = None,
    settings: Settings = None,
    max_new_tokens: NewTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    seed: Seed = 0,
    stop: Stop = None,
    chat_template: Template = True,
    add_bos: AddBos = False,
    regex: Annotated[
        str | None, typer.Option(metavar="R", help="The answer matches this pattern, from beginning to end.")
    ] = None,
    json_schema: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The answer is JSON that the schema in this file validates.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Draw the decode, each token in the colour of its rule.")] = False,
    trace: Annotated[
        Path | None, typer.Option(help="Save the decode: FILE.json for `unmask view`, or FILE.html as a page.")
    ] = None,
    as_json: Json = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    kv_dtype: KvDtype = None,
    tensor_parallel: TensorParallel = False,
) -> None:
    """Answer PROMPT with one method."""
    check_output(trace)
    chosen = read_method(method or own_method(model), settings)
    schema = None if json_schema is None else read_schema(json_schema)

    import unmask
    from unmask.cli.console import console
    from unmask.engine.own import completed, default_new_tokens
    from unmask.view.terminal import watching
    from unmask.view.trace import Recorder

    whole = loaded(
        model,
        device=device,
        dtype=dtype,
        tensor_parallel=tensor_parallel,
        kv_dtype=kv_dtype,
        chat_template=chat_template,
        add_bos=add_bos,
    )
    with whole as denoiser:
        used = completed(denoiser, chosen)
        length = max_new_tokens or used.max_new_tokens or default_new_tokens(denoiser)
        watched = watching(denoiser, length, console()) if watch else contextlib.nullcontext(Recorder(denoiser, length))
        with watched as recorder:
            completion = unmask.generate(
                denoiser,
                [prompt],
                method=chosen,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                seed=seed,
                stop=stop or [],
                regex=regex,
                json_schema=schema,
                observer=recorder if watch or trace else None,
            )[0]
    name, kept = chosen.name or method or "", dataclasses.replace(used, name="").to_dict()
    if trace:
        save(trace, [recorder.trace(prompt=prompt, method=name, settings=kept, completion=completion)])
    if not as_json:
        if not watch:
            print(completion.text)
        print(f"[{name}{own_values(chosen, used)}] {spent(completion)}")
        return
    about = {"method": name, "model": model, "query_tokens": completion.query_tokens, "settings": kept}
    print(json.dumps(fields(completion) | about))
