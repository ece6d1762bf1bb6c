"""From the body of an HTTP request to the engine's requests. What cannot be answered raises before anything runs."""

import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from unmask.engine.generate import ask, chat
from unmask.engine.request import Request
from unmask.errors import ConfigError, EmptyPrompt, RequestError
from unmask.methods import from_client, load
from unmask.methods.method import Method
from unmask.methods.options import layered
from unmask.models.denoiser import Denoiser
from unmask.serve.options import Options
from unmask.serve.protocol import Body, ChatRequest, CompletionRequest, Diffusion


def choose(asked: Diffusion, options: Options) -> Method:
    """The method of a request. Raises ConfigError that names an unknown method or option.

    Nothing that the client names is imported; the operator's own method may come from outside the package.

    >>> choose(Diffusion(cache="prefix"), Options(settings={"threshold": 0.8})).commit
    Threshold(threshold=0.8)
    """
    if asked.method is None:
        return load(options.method, **layered(options.settings, asked.settings))
    if isinstance(asked.method, dict) and asked.settings:
        raise ConfigError(f"diffusion.{next(iter(asked.settings))}: put it into diffusion.method, which is a mapping")
    return from_client(asked.method, **asked.settings)


def requests(body: Body, model: Denoiser, options: Options) -> list[Request]:
    """One request a choice: every prompt `n` times, choice i of a prompt with the i-th seed from `seed` on.

    Decoding goes block by block, and the answer is cut at `max_tokens`. Without a seed each request gets one of its own.
    Raises ConfigError or RequestError.
    """
    method = choose(body.diffusion, options)
    wanted = body.max_tokens or method.max_new_tokens or options.max_new_tokens
    block = method.block_length or wanted
    seed = secrets.randbits(62) if body.seed is None else body.seed
    made = [
        ask(
            model,
            prompt,
            method=method,
            max_new_tokens=-(-wanted // block) * block,
            limit=wanted,
            temperature=body.temperature,
            top_p=body.top_p,
            seed=seed,
            stop=body.stops,
        )
        for prompt in _prompts(body, model)
    ]
    return [replace(request, seed=seed + place) for request in made for place in range(body.n or 1)]


def _prompts(body: Body, model: Denoiser) -> list[Sequence[int]]:
    if isinstance(body, ChatRequest):
        turns = [(message.role.replace("developer", "system"), message.text) for message in body.messages]
        return [chat(model, [{"role": role, "content": text} for role, text in turns])]
    assert isinstance(body, CompletionRequest)
    return [plain(prompt, model) if isinstance(prompt, str) else prompt for prompt in body.prompts]


def plain(prompt: str, model: Denoiser) -> list[int]:
    """Token ids of a text without a template. Raises RequestError where there is nothing to encode or nobody who can."""
    tokenizer: Any = model.tokenizer
    if tokenizer is None:
        raise RequestError(f"{model.name} has no tokenizer: give prompts as lists of token ids")
    if not prompt.strip():
        raise EmptyPrompt("the prompt is empty: give at least one word")
    ids: list[int] = tokenizer.encode(prompt, verbose=False)
    return ids
