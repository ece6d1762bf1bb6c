"""What a model's name stands for: an embedded model, a folder here, a short name of the shelf, or a repository of the hub."""

import difflib
import warnings
from importlib import resources
from pathlib import Path

from unmask.data.hub import Repository, named
from unmask.errors import ModelError
from unmask.models.shelf import Known, find, shelf

EMBEDDED = ("unmask-tiny", "unmask-tiny-base", "unmask-tiny-r2", "unmask-tiny-block")


def resolve(name: str) -> Path | Repository:
    """The folder of a model that is here, or the repository of one that is not. Raises ModelError for a name of neither kind.

    A folder comes before a short name; that it hides one is said in a warning.

    >>> str(resolve("llada-8b")), str(resolve("someone/model@main"))
    ('GSAI-ML/LLaDA-8B-Instruct', 'someone/model@main')
    >>> resolve("llada-8")
    Traceback (most recent call last):
    unmask.errors.ModelError: no model 'llada-8' (did you mean 'llada-8b', 'r2-llada-8b' or 'llada-moe'?): not a folder here;
    embedded: unmask-tiny, unmask-tiny-base, unmask-tiny-r2, unmask-tiny-block; `unmask models` lists more; a hub id looks like
    owner/name, or owner/name@revision
    """
    if name in EMBEDDED:
        return Path(str(resources.files("unmask") / "assets" / name))
    folder, (short, _, revision) = Path(name).expanduser(), name.partition("@")
    known = None if "/" in short else find(short)  # a path needs no list of names
    if folder.is_dir():
        if known is not None:
            said = f"'{name}' is the folder of that name here; the model of that short name is {known.hub_id}"
            warnings.warn(said, stacklevel=2)
        return folder
    found = named(name, "model") if known is None else Repository(known.hub_id, revision or None)
    if found is None:
        raise ModelError(
            f"no model '{name}'{_near(name)}: not a folder here; embedded: {', '.join(EMBEDDED)}; `unmask models` lists more; "
            "a hub id looks like owner/name, or owner/name@revision"
        )
    return found


def on_shelf(name: str) -> Known | None:
    """The model of the shelf that this name stands for, by its short name or its hub id; None: another, or a folder here.

    >>> on_shelf("Dream-org/Dream-v0-Instruct-7B").name, on_shelf("unmask-tiny")
    ('dream-7b', None)
    """
    found = resolve(name)
    if isinstance(found, Path):
        return None
    return next((model for model in shelf().values() if model.hub_id == found.name), None)


def _near(name: str) -> str:
    near = [f"'{close}'" for close in difflib.get_close_matches(name.lower(), [*EMBEDDED, *shelf()])]
    *others, last = near or [""]
    return f" (did you mean {', '.join(others)}{' or ' if others else ''}{last}?)" if near else ""
