"""`unmask compare`: one prompt, several methods, one table; answers that differ stand below it, their changes marked."""

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from unmask.cli.choose import (
    METHODS,
    Adapter,
    AddBos,
    Device,
    Dtype,
    Json,
    Model,
    NewTokens,
    Template,
    Weights,
    read_methods,
)

if TYPE_CHECKING:
    from unmask.engine.request import Completion


def command(
    prompt: Annotated[str, typer.Argument(help="The prompt.")],
    methods: Annotated[
        str, typer.Option(help="Presets or settings files, separated by commas; the first is the baseline.")
    ] = METHODS,
    model: Model = "unmask-tiny",
    max_new_tokens: NewTokens = None,
    chat_template: Template = True,
    add_bos: AddBos = False,
    as_json: Json = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    weights: Weights = None,
    adapter: Adapter = None,
) -> None:
    """Answer PROMPT with several methods and show the cost of each."""
    chosen = read_methods(methods)

    import unmask

    denoiser = unmask.load(
        model, device=device, dtype=dtype, weights=weights, adapter=adapter, chat_template=chat_template, add_bos=add_bos
    )
    for method in chosen.values():  # warm-up: the first forwards of a process are slower than later ones
        unmask.generate(denoiser, [prompt], method=method, max_new_tokens=max_new_tokens)
    done = {
        name: unmask.generate(denoiser, [prompt], method=method, max_new_tokens=max_new_tokens)[0]
        for name, method in chosen.items()
    }
    if as_json:
        rows = [
            {
                "method": name,
                "text": row.text,
                "forwards": row.forwards,
                "tokens": row.tokens,
                "tokens_per_forward": row.tokens_per_forward,
                "query_tokens": row.query_tokens,
                "seconds": row.seconds,
            }
            for name, row in done.items()
        ]
        print(json.dumps({"prompt": prompt, "model": model, "rows": rows}))
        return
    _show(denoiser.name, prompt, done)


def _show(model: str, prompt: str, done: "Mapping[str, Completion]") -> None:
    """The first answer, the table, and what the other answers have otherwise."""
    from rich.text import Text

    from unmask.cli.console import Column, console, numbers, print_table

    out, first = console(), next(iter(done.values()))
    out.print(f"\n{model}: {prompt}\n\n  {first.text}\n")
    columns = (Column("method"), *numbers("forwards", "saved", "tokens/forward", "seconds"), Column("answer"))
    rows, others = [], dict[str, list[str]]()
    for name, row in done.items():
        if row.text != first.text:
            others.setdefault(row.text, []).append(name)
        saved = f"{100 * (1 - row.forwards / first.forwards):.0f} %" if row is not first else ""
        answer = "as above" if row is first else "the same" if row.text == first.text else "see below"
        rows.append((name, str(row.forwards), saved, f"{row.tokens_per_forward:.2f}", f"{row.seconds:.3f}", answer))
    print_table(columns, rows)
    for text, names in others.items():
        body = Text.assemble(*((words, STYLES[kind]) for kind, words in marked(first.text, text)))
        out.print(Text(f"\n{', '.join(names)}, [-gone-] and {{+new+}}:\n\n  ").append(body))
    if others:
        print()


STYLES = {"same": "", "gone": "red", "new": "green"}


def marked(first: str, other: str) -> Iterator[tuple[str, str]]:
    """The other text in parts, of which each is the same, gone from the first text or new, marked as `git diff` marks words.

    >>> "".join(words for _, words in marked("Mia buys 8, so 31.", "Mia buys 88, so 31."))
    'Mia buys [-8,-] {+88,+} so 31.'
    """
    before, after = first.split(), other.split()
    parts = list[tuple[str, str]]()
    for kind, start, end, begin, until in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        gone, new = " ".join(before[start:end]), " ".join(after[begin:until])
        if kind == "equal":
            parts.append(("same", new))
        else:
            parts += [("gone", f"[-{gone}-]")] if gone else []
            parts += [("new", f"{{+{new}+}}")] if new else []
    for place, (change, words) in enumerate(parts):
        yield change, f" {words}" if place else words
