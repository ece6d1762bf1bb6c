"""`unmask generate`: answer one prompt."""

import dataclasses
import functools
import json
from typing import Annotated

import typer

from unmask.cli.choose import Device, Dtype, Json, Model, NewTokens, Settings, read_method


def generate(
    prompt: Annotated[str, typer.Argument(help="What to ask.")],
    model: Model = "unmask-tiny",
    method: Annotated[str, typer.Option(help="A preset (unmask compare lists them) or a settings file.")] = "r2-dllm",
    settings: Settings = None,
    max_new_tokens: NewTokens = None,
    temperature: Annotated[float | None, typer.Option(help="0 takes the most probable token.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Sample from the most probable tokens of this mass.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Sample from this many most probable tokens.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same sample.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="End the answer at this string; repeatable.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Draw the decode, coloured by the rule that committed.")] = False,
    as_json: Json = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Answer PROMPT with one method."""
    chosen = read_method(method, settings)

    import unmask

    denoiser = unmask.load(model, device=device, dtype=dtype)
    answer = functools.partial(
        unmask.generate,
        denoiser,
        [prompt],
        method=chosen,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        stop=stop or [],
    )
    if watch:
        from unmask.engine.generate import DEFAULT_NEW_TOKENS
        from unmask.view.terminal import watching

        with watching(denoiser, max_new_tokens or chosen.max_new_tokens or DEFAULT_NEW_TOKENS) as observer:
            completion = answer(observer=observer)[0]
    else:
        completion = answer()[0]
    if not as_json:
        if not watch:
            print(completion.text)
        print(
            f"[{chosen.name or method}] {completion.tokens} tokens, {completion.forwards} forwards, "
            f"{completion.tokens_per_forward:.2f} tokens per forward, {completion.seconds:.2f} s"
        )
        return
    document = {
        "text": completion.text,
        "token_ids": completion.token_ids,
        "forwards": completion.forwards,
        "tokens_per_forward": completion.tokens_per_forward,
        "seconds": completion.seconds,
        "finish_reason": completion.finish_reason,
        "method": chosen.name or method,
        "model": model,
        "tokens": completion.tokens,
        "query_tokens": completion.query_tokens,
        "settings": dataclasses.replace(chosen, name="").to_dict(),
    }
    print(json.dumps(document))
