"""Every error that unmask raises on purpose.

    UnmaskError
    ├── ConfigError          a bad option or value; also a ValueError
    ├── ModelError           a checkpoint that cannot be read; names the file and the tensor
    ├── LogitsError          a forward whose logits are no numbers; holds the answers of the other rows
    └── RequestError         a prompt that cannot be served; also a ValueError
        ├── EmptyPrompt
        ├── PromptTooLong
        ├── MaskInPrompt
        └── GrammarError     a regular expression or a schema that no answer can be held to

`except unmask.UnmaskError` catches all of them and nothing else.
"""

import difflib
import importlib.util
from collections.abc import Iterable, Sequence
from typing import Any


class UnmaskError(Exception):
    """Base of the tree: `except UnmaskError as error: print(error)` prints one clear line."""


class ConfigError(UnmaskError, ValueError):
    """A bad option or value: `except ConfigError` around `unmask.method(...)`."""


class ModelError(UnmaskError):
    """A checkpoint that cannot be read: `except ModelError` around `unmask.load(...)`."""


class LogitsError(UnmaskError):
    """Logits that are NaN or infinite: `except LogitsError` around `unmask.generate(...)`.

    `completions` has what became of each prompt, None for those that it is about: rows never see each other, so the others
    are as good as ever.
    """

    def __init__(self, message: str, completions: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.completions = tuple(completions)


class RequestError(UnmaskError, ValueError):
    """A prompt that cannot be served: `except RequestError` around `unmask.generate(...)`."""


class EmptyPrompt(RequestError):
    """A prompt of no tokens."""


class PromptTooLong(RequestError):
    """Prompt and answer together do not fit into the model's context."""


class MaskInPrompt(RequestError):
    """A prompt that holds the model's mask id, which would be decoded like an open position."""


class GrammarError(RequestError):
    """A regular expression or a schema that is broken, not supported, too large, or needs more tokens than the answer has."""


def unknown(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """The error for an unknown name, with the known ones and the closest.

    >>> str(unknown("method", "r2dllm", ["r2-dllm", "vanilla"]))
    "unknown method 'r2dllm': did you mean 'r2-dllm'? known: r2-dllm, vanilla"
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return ConfigError(f"unknown {kind} '{name}': {hint}known: {', '.join(names)}")


def install(extra: str) -> str:
    """The line that installs an extra: from a clone, as long as no package of this name is published.

    >>> install("serve")
    "in a clone of unmask run pip install -e '.[serve]'"
    """
    return f"in a clone of unmask run pip install -e '.[{extra}]'"


def require(what: str, package: str, extra: str) -> None:
    """Raises ConfigError, before the work that needs it begins, if a package of an extra is not installed.

    >>> require("--sweep", "no_such_package", "eval")
    Traceback (most recent call last):
        ...
    unmask.errors.ConfigError: --sweep needs no_such_package: in a clone of unmask run pip install -e '.[eval]'
    """
    if importlib.util.find_spec(package) is None:
        raise ConfigError(f"{what} needs {package}: {install(extra)}")
