"""What a model's name stands for: an embedded model, a folder here, a short name of the shelf, or a repository of the hub."""

import difflib
import warnings
from importlib import resources
from pathlib import Path

from unmask.errors import ModelError
from unmask.models.shelf import Known, find, shelf

EMBEDDED = ("unmask-tiny", "unmask-tiny-base", "unmask-tiny-r2", "unmask-tiny-block")


def resolve(name: str) -> Path | str:
    """The folder of a model that is here, or the hub's id of one that is not. Raises ModelError for a name of neither kind.

    A folder comes before a short name; that it hides one is said in a warning.

    >>> resolve("llada-8b"), resolve("someone/model")
    ('GSAI-ML/LLaDA-8B-Instruct', 'someone/model')
    >>> resolve("llada-8")
    Traceback (most recent call last):
    unmask.errors.ModelError: no model 'llada-8' (did you mean 'llada-8b', 'r2-llada-8b' or 'llada-moe'?): not a folder here;
    embedded: unmask-tiny, unmask-tiny-base, unmask-tiny-r2, unmask-tiny-block; `unmask models` lists more; a hub id looks like
    owner/name
    """
    if name in EMBEDDED:
        return Path(str(resources.files("unmask") / "assets" / name))
    folder, known = Path(name).expanduser(), find(name)
    if folder.is_dir():
        if known is not None:
            warnings.warn(
                f"'{name}' is the folder of that name here; the model of that short name is {known.hub_id}", stacklevel=2
            )
        return folder
    if known is not None:
        return known.hub_id
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise ModelError(
            f"no model '{name}'{_near(name)}: not a folder here; embedded: {', '.join(EMBEDDED)}; `unmask models` lists more; "
            "a hub id looks like owner/name"
        )
    return name


def on_shelf(name: str) -> Known | None:
    """The model of the shelf that this name stands for, by its short name or its hub id; None: another, or a folder here.

    >>> on_shelf("Dream-org/Dream-v0-Instruct-7B").name, on_shelf("unmask-tiny")
    ('dream-7b', None)
    """
    found = resolve(name)
    return next((model for model in shelf().values() if model.hub_id == found), None) if isinstance(found, str) else None


def _near(name: str) -> str:
    near = [f"'{close}'" for close in difflib.get_close_matches(name.lower(), [*EMBEDDED, *shelf()])]
    *others, last = near or [""]
    return f" (did you mean {', '.join(others)}{' or ' if others else ''}{last}?)" if near else ""
