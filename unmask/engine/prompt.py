"""How a prompt becomes token ids: the one place that knows chat template and BOS token (`Denoiser.prompting`)."""

from collections.abc import Mapping, Sequence
from typing import Any

from unmask.engine.check import check_size
from unmask.engine.template import render
from unmask.errors import ConfigError, EmptyPrompt, RequestError
from unmask.models.denoiser import Denoiser


def encode(model: Denoiser, prompt: str | Sequence[int]) -> tuple[int, ...]:
    """Token ids of a prompt; a string becomes the user's turn of a chat where the model is asked through its template."""
    if isinstance(prompt, str):
        _check_prompt(model, prompt)
        return chat(model, [{"role": "user", "content": prompt}]) if model.has_template else plain(model, prompt)
    if not all(isinstance(token, int) for token in prompt):
        raise ConfigError("a prompt is a string or a list of token ids")
    return tuple(prompt)


def plain(model: Denoiser, text: str) -> tuple[int, ...]:
    """Token ids of a text as it is, with what the tokenizer begins every text with, or BOS where that is asked for.

    Raises EmptyPrompt, RequestError for half a letter or a text that is too long, ConfigError where there is no tokenizer.
    """
    _check_prompt(model, text)
    if model.tokenizer is None:
        raise ConfigError(f"{model.name} has no tokenizer: give prompts as lists of token ids")
    # verbose=False: a prompt that is too long is our error to report, with the numbers that matter.
    return begun(model, model.tokenizer.encode(text, verbose=False))


def chat(
    model: Denoiser, turns: Sequence[Mapping[str, str]], *, tools: Sequence[Mapping[str, Any]] | None = None
) -> tuple[int, ...]:
    """Token ids of a chat, turns of `role` and `content`, up to where the assistant's turn begins.

    `tools` go to the template as transformers has them; one that knows no tools leaves them out.

    Raises RequestError where the model has no chat template or runs without it, or where the template cannot take the turns.

    >>> import unmask
    >>> model = unmask.load("unmask-tiny")
    >>> model.tokenizer.decode(chat(model, [{"role": "user", "content": "Hi"}]))
    '<|user|> Hi<|assistant|>'
    """
    if not model.has_template:
        why = "has no chat template" if model.prompting.chat_template else "runs without its chat template here"
        raise RequestError(f"{model.name} {why}: give a plain prompt or token ids")
    for turn in turns:
        check_text(turn["content"])
    check_size("".join(turn["content"] for turn in turns), model)
    if not any(turn["content"].strip() for turn in turns):
        raise EmptyPrompt("the chat holds no text: give at least one word")
    text = render(model.tokenizer, turns, tools=tools)
    return begun(model, model.tokenizer.encode(text, add_special_tokens=False, verbose=False))


def begun(model: Denoiser, ids: Sequence[int]) -> tuple[int, ...]:
    """The ids behind the BOS token where the model is asked so; it never stands there twice."""
    if model.prompting.add_bos and (not ids or ids[0] != model.tokenizer.bos_token_id):
        return (model.tokenizer.bos_token_id, *ids)
    return tuple(ids)


def beginning(model: Denoiser) -> tuple[int, ...]:
    """What stands before every text: BOS where the tokenizer writes it by itself, or the model is asked so; else nothing."""
    if model.tokenizer is None:
        return ()
    start = model.tokenizer.encode("", verbose=False)[:1]
    own = start if start and start[0] == getattr(model.tokenizer, "bos_token_id", None) else ()
    return begun(model, own)


def _check_prompt(model: Denoiser, text: str) -> None:
    check_text(text)
    check_size(text, model)
    if not text.strip():
        raise EmptyPrompt("the prompt is empty: give it at least one word")


def check_text(text: str) -> None:
    """Raises RequestError for half of a surrogate pair, which JSON's escapes can spell and no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"the text has half a letter, {text[error.start]!r}, at place {error.start}") from None
