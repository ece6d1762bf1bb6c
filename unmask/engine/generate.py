"""`generate`: prompts in, completions out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from unmask.decode.settings import whole
from unmask.engine.check import check
from unmask.engine.engine import Engine, Limits
from unmask.engine.holes import Behind, CanvasPrompt, Hole, Laid, Piece, lay_out
from unmask.engine.own import completed, default_method, default_new_tokens
from unmask.engine.prompt import beginning, chat, check_text, encode
from unmask.engine.request import Completion, Observer, Request
from unmask.engine.text import decode
from unmask.errors import ConfigError, RequestError
from unmask.grammar import language as languages
from unmask.grammar.constraint import Grammar
from unmask.grammar.language import Language, grammar
from unmask.methods import load as load_method
from unmask.methods.method import Method
from unmask.methods.recipe import answer_ends, grid
from unmask.models.denoiser import Denoiser

Schema = Mapping[str, Any] | bool | str  # as an object, or its text


def generate(
    model: Denoiser,
    prompts: Sequence[str | Sequence[int] | CanvasPrompt],
    *,
    method: Method | str | Mapping[str, Any] | None = None,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    seed: int | Sequence[int] = 0,
    stop: Sequence[str] | None = None,
    regex: str | Sequence[str | None] | None = None,
    json_schema: Schema | Sequence[Schema | None] | None = None,
    chat_template: bool | None = None,
    add_bos: bool | None = None,
    observer: Observer | None = None,
) -> list[Completion]:
    """Answer prompts as one batch, each row as if it were alone.

    Args:
        model: from `unmask.load`.
        prompts: strings (through the chat template where the tokenizer has one), token ids or canvases (`unmask.canvas`), any
            mix of lengths.
        method: from `unmask.method`, the name of a preset, or settings as in a file; None: the model's own, or r2-dllm.
        max_new_tokens: length of every answer; None: the method's, the model's own, or 128. Blocks are decoded whole, and
            an answer that ends within one is cut there. A canvas has a length of its own and takes none.
        temperature, top_p, top_k: sampling; an argument that is given wins over the method's own number.
        seed: one for all rows, or one per row. Equal prompts with equal seeds get equal samples: give n seeds for n samples.
        stop: strings that end an answer, or of a canvas a hole that may end early.
        regex, json_schema: what every answer is to be, or a list with one for each prompt (None: free). Every answer then
            is: it matches the pattern from beginning to end, or is JSON that validates.
        chat_template, add_bos: how strings become prompts, as `unmask.load` takes them; None: as the model was loaded.
        observer: called with a StepRecord after each forward.

    Raises:
        ConfigError: a bad option or value.
        RequestError: an empty prompt, one that is too long or one that holds the mask id; a regex or schema that is broken,
            not supported, or needs more than `max_new_tokens`.

    >>> import unmask
    >>> model = unmask.load("unmask-tiny")
    >>> question = "Mia has 23 apples. On Monday Mia buys 8. How many apples does Mia have?"
    >>> unmask.generate(model, [question], method="r2-dllm", max_new_tokens=64)[0].text
    'Mia starts with 23 apples. On Monday Mia buys 8, so 23 + 8 = 31. So Mia has 31 apples. The answer is 31.'
    """
    if not isinstance(model, Denoiser):
        name = model if isinstance(model, str) else "unmask-tiny"
        raise ConfigError(f"the first argument is a model, got {model!r:.60}: unmask.generate(unmask.load({name!r}), prompts)")
    if isinstance(prompts, str):
        raise ConfigError("prompts must be a list: write [prompt]")
    if observer is not None and not callable(observer):
        raise ConfigError(f"observer must be a function of one StepRecord, got {observer!r:.60}")
    model = model.asked(chat_template=chat_template, add_bos=add_bos)
    seeds = [seed] * len(prompts) if isinstance(seed, int) else list(seed)
    if len(seeds) != len(prompts):
        raise ConfigError(f"{len(seeds)} seeds for {len(prompts)} prompts: give one for all, or one each")
    asked = _languages(regex, json_schema, len(prompts))
    requests = [
        make_request(
            model,
            prompt,
            method=method,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            seed=row_seed,
            stop=stop,
            language=language,
        )
        for prompt, row_seed, language in zip(prompts, seeds, asked, strict=True)
    ]
    return answer(model, requests, observer)


def answer(model: Denoiser, requests: Sequence[Request], observer: Observer | None = None) -> list[Completion]:
    """Answer requests as one batch, in an engine of just their size; completions in their order.

    Raises RequestError or ConfigError before the first forward.
    """
    return Engine(model, Limits.fitting(model, requests)).generate(requests, observer)


def make_request(
    model: Denoiser,
    prompt: str | Sequence[int] | CanvasPrompt,
    *,
    method: Method | str | Mapping[str, Any] | None = None,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    seed: int = 0,
    stop: Sequence[str] | None = None,
    limit: int | None = None,
    language: Language | None = None,
) -> Request:
    """The request that `generate` makes of one prompt, for an engine. Arguments and errors as there.

    `limit` ends the answer before `max_new_tokens`, at any token (`Request.limit`). `language` is what the answer is to be.

    >>> from unmask.models.toy import toy
    >>> made = make_request(toy(), [1, 2], method="vanilla", max_new_tokens=100)
    >>> made.max_new_tokens, made.limit  # four blocks of 32, of which 100 tokens are the answer
    (128, 100)
    """
    if method is None:
        method = default_method(model)
    if isinstance(method, str):
        method = load_method(method)
    elif isinstance(method, Mapping):
        method = Method.from_dict(method)
    elif not isinstance(method, Method):
        raise ConfigError(f"method must be a Method, the name of a preset or settings, got {method!r:.60}")
    given = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "top_k": top_k}
    method = method.change(**{name: value for name, value in given.items() if value is not None})
    method = completed(model, method)
    stop = () if stop is None else stop
    if stop and model.tokenizer is None:
        raise ConfigError(f"stop strings need a tokenizer, and {model.name} has none")
    listed = isinstance(stop, Sequence) and not isinstance(stop, str)
    if not listed or not all(isinstance(string, str) and string for string in stop):
        raise ConfigError("stop must be a list of strings that are not empty")
    if not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ConfigError(f"seed must be a whole number from 0 to 2**63 - 1, got {seed!r}")
    whole("limit", limit, 1)
    wanted = method.max_new_tokens or default_new_tokens(model)
    whole_blocks = canvas_length(model, method, wanted)
    if isinstance(prompt, CanvasPrompt) and (max_new_tokens is not None or limit is not None):
        raise ConfigError("a canvas says by its holes how many tokens are decoded: leave max_new_tokens out")
    if whole_blocks != wanted:
        limit = min(limit or wanted, wanted)
    if isinstance(prompt, CanvasPrompt) and language is not None:
        raise RequestError("a grammar does not hold over a canvas with fixed text: give one of the two")
    sampled = Request(
        prompt=(),
        method=method,
        max_new_tokens=whole_blocks,
        temperature=method.temperature or 0.0,
        top_p=method.top_p,
        top_k=method.top_k,
        seed=seed,
        stop=tuple(stop),
        limit=limit,
        constraint=None if language is None else _held(language, model, method, stop, min(limit or wanted, wanted)),
    )
    if not isinstance(prompt, CanvasPrompt):
        return replace(sampled, prompt=encode(model, prompt))
    return canvas_request(model, prompt, sampled)


def canvas_request(model: Denoiser, canvas: CanvasPrompt, sampled: Request) -> Request:
    """The request for a canvas, decoded as `sampled` is.

    Its blocks begin behind the prompt or lie on the model's grid as all blocks do; the last one is filled up with the end
    of text, fixed like the text around the holes.

    Raises ConfigError, or RequestError where the model cannot see what the canvas shows it.
    """
    laid, spec, method = _laid(model, canvas), model.spec, sampled.method
    gaps = laid.layout.gaps
    if sampled.stop and not any(gap.early for gap in gaps):
        raise ConfigError('a stop string ends a hole that may end early, and there is none: write hole(n, end="early")')
    if spec.block is not None and not canvas.blind and laid.fixed:
        raise RequestError(
            f"{model.name} is block-causal: a hole sees nothing behind its own block of {grid(method, spec.block)} tokens, and "
            "cannot see what follows; blind=True (diffusion.blind over HTTP) fills it all the same"
        )
    prompt, length = len(laid.prompt), max(1, laid.length)
    if spec.block is None:
        block, begin = method.block_length or length, prompt
    else:
        block, begin = grid(method, spec.block), 0
    answer = begin + -(-(prompt + length - begin) // block) * block - prompt
    check(laid.prompt, answer, spec, empty=spec.lookbehind == 0)
    filler = dict.fromkeys(range(laid.length, answer), answer_ends(method, spec)[0])
    return replace(
        sampled,
        prompt=laid.prompt,
        max_new_tokens=answer,
        limit=laid.length,
        fixed=laid.fixed | filler,
        layout=laid.layout,
    )


def _laid(model: Denoiser, canvas: CanvasPrompt) -> Laid:
    """The canvas in token ids, behind its chat or the token that the tokenizer begins every text with."""
    context: Sequence[int] = ()
    if canvas.chat is not None:
        turns = [{"role": "user", "content": canvas.chat}] if isinstance(canvas.chat, str) else canvas.chat
        context = chat(model, turns)
    else:
        context = beginning(model)
    pieces, before = list[Piece](), list[int]()
    for part in canvas.parts:
        pieces.append(Piece(hole=part) if isinstance(part, Hole) else _piece(model, part, before))
        before = [] if isinstance(part, Hole) else [*before, *pieces[-1].ids]
    first = next((piece for piece in pieces if piece.ids or piece.hole), Piece())
    if not context and first.hole is not None and model.spec.lookbehind:
        context = model.spec.eos_ids[:1]  # row i - 1 predicts token i: something must stand before the first one
    return lay_out(pieces, context=context)


def _piece(model: Denoiser, part: str | tuple[int, ...], before: Sequence[int]) -> Piece:
    """A part of fixed text; of ids the text is what the tokenizer writes for them."""
    tokenizer: Any = model.tokenizer
    if isinstance(part, str):
        check_text(part)
        if tokenizer is None:
            raise ConfigError(f"{model.name} has no tokenizer: give the text of a canvas as lists of token ids")
        return Piece(tuple(tokenizer.encode(part, add_special_tokens=False, verbose=False)), part)
    odd = next((token for token in part if not 0 <= token < model.spec.vocab_size), None)
    if odd is not None:
        raise RequestError(f"fixed text holds the id {odd}: ids run from 0 to {model.spec.vocab_size - 1}")
    return Piece(part, "" if tokenizer is None else decode(Behind(tokenizer, before), part))


def canvas_length(model: Denoiser, method: Method, wanted: int) -> int:
    """The tokens that are decoded for an answer of `wanted` tokens: whole blocks of them.

    Answers of a block-causal model end anywhere in a block.
    """
    block = 1 if model.spec.block is not None else method.block_length or wanted
    return -(-wanted // block) * block


def _held(language: Language, model: Denoiser, method: Method, stop: Sequence[str], limit: int) -> Grammar:
    """The grammar of an answer of `limit` tokens by this method. Raises RequestError where there is none."""
    if stop:
        raise RequestError("stop strings would cut what a grammar has made complete: leave them out")
    if model.tokenizer is None:
        raise RequestError(f"a {language.kind} needs a tokenizer, and {model.name} has none")
    spec = model.spec
    ends = answer_ends(method, spec)
    return grammar(language, model.tokenizer, ends=ends, mask_id=spec.mask_id, vocabulary=spec.vocab_size, limit=limit)


def _languages(
    regex: str | Sequence[str | None] | None, schema: Schema | Sequence[Schema | None] | None, count: int
) -> list[Language | None]:
    """What each of so many answers is to be. Raises ConfigError or GrammarError."""
    patterns = [regex] * count if regex is None or isinstance(regex, str) else list(regex)
    schemas = [schema] * count if schema is None or isinstance(schema, Mapping | bool | str) else list(schema)
    for name, given in (("regex", patterns), ("json_schema", schemas)):
        if len(given) != count:
            raise ConfigError(f"{len(given)} of {name} for {count} prompts: give one for all, or one each (None: free)")
    if any(one is not None and other is not None for one, other in zip(patterns, schemas, strict=True)):
        raise ConfigError("regex and json_schema for one prompt: give one of them")
    return [
        languages.regex(one) if one is not None else None if other is None else languages.json_schema(other)
        for one, other in zip(patterns, schemas, strict=True)
    ]
