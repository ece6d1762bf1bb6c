"""Repositories of the Hugging Face hub: their files are downloaded once and then read from its cache.

    folder = named("GSAI-ML/LLaDA-8B-Instruct@main", "model").fetch(["*.json"])

It knows neither checkpoints nor data sets: a caller says which files it needs (models/fetching.py, data/layout.py).
Progress is shown on a terminal; a connection that breaks is taken up where it broke, and files that are whole are never
downloaded again. Within a process a repository is seen at one commit, the one that was the newest at the first look.
Every error is one line that says what to do, a ModelError for models and a ConfigError for data sets.
"""

import errno
import functools
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from unmask.errors import ConfigError, ModelError, UnmaskError

Kind = Literal["model", "dataset"]

TRIES = 4  # at a repository whose connection breaks; of each file the hub's own client makes more
PAUSE = 1.0  # seconds between two of them
_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([^\s@]+))?", re.ASCII)

# What was fetched in this process: of a commit that was seen, and of which files.
_COMMITS: dict[tuple[object, ...], str] = {}
_FOLDERS: dict[tuple[object, ...], Path] = {}
_LISTS: dict[tuple[object, ...], list[str]] = {}


@dataclass(frozen=True)
class Repository:
    """A repository; `revision` is a branch, a tag or a commit, None the hub's main one."""

    name: str
    revision: str | None = None
    kind: Kind = "model"

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"

    @property
    def url(self) -> str:
        """Its page."""
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/{'datasets/' if self.kind == 'dataset' else ''}{self.name}"

    def fetch(self, patterns: Sequence[str], *, besides: Sequence[str] = ()) -> Path:
        """The folder of a commit with all its files that match a pattern (as of fnmatch) and none of `besides`.

        Raises ModelError, or ConfigError for a data set, where they cannot be had.
        """
        from huggingface_hub import constants

        place = (self, constants.ENDPOINT, str(constants.HF_HUB_CACHE))
        wanted = (*place, tuple(patterns), tuple(besides))
        if wanted in _FOLDERS and _FOLDERS[wanted].is_dir():
            return _FOLDERS[wanted]
        folder = self._download(_COMMITS.get(place, self.revision), patterns, besides)
        _COMMITS[place], _FOLDERS[wanted] = folder.name, folder
        return folder

    def files(self) -> list[str]:
        """The names of all its files; without a connection of those in the cache. Raises as `fetch`."""
        from huggingface_hub import HfApi, constants
        from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

        folder = self.fetch(("README.md", ".gitattributes"))  # which also says which commit is meant
        place = (self, constants.ENDPOINT, folder)
        if place not in _LISTS:
            try:
                names = HfApi().list_repo_files(self.name, repo_type=self.kind, revision=folder.name)
            except (HTTPError, OfflineModeIsEnabled):
                names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
            _LISTS[place] = sorted(names)
        return _LISTS[place]

    def _download(self, revision: str | None, patterns: Sequence[str], besides: Sequence[str]) -> Path:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError

        for left in reversed(range(TRIES)):
            try:
                return Path(
                    snapshot_download(
                        self.name,
                        repo_type=self.kind,
                        revision=revision,
                        allow_patterns=list(patterns),
                        ignore_patterns=list(besides),
                        tqdm_class=_bar(),
                    )
                )
            except (HTTPError, HFValidationError, OSError, RuntimeError) as error:
                # The client itself takes up a stream that ends early, but not a connection that is reset.
                if left and isinstance(error, HTTPError) and not isinstance(error, HfHubHTTPError):
                    time.sleep(PAUSE)
                    continue
                raise self._refused(error) from None
        raise AssertionError("the last try either returns or raises")

    def _refused(self, error: Exception) -> UnmaskError:
        """The one line for whatever the hub's client raised."""
        return (ModelError if self.kind == "model" else ConfigError)(self._reason(error))

    def _reason(self, error: Exception) -> str:
        from huggingface_hub import constants, errors

        what, cache = "model" if self.kind == "model" else "data set", constants.HF_HUB_CACHE
        if isinstance(error, errors.GatedRepoError):
            return self._gated()
        if isinstance(error, errors.RevisionNotFoundError):
            return f"'{self.name}' has no revision '{self.revision}' on the Hugging Face hub{self._revisions()}"
        if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
            return (
                f"no {what} '{self.name}' on the Hugging Face hub, nor a folder of that name here: check the spelling; "
                "a private one needs `hf auth login` or HF_TOKEN"
            )
        if isinstance(error, errors.HfHubHTTPError):
            return self._answered(error)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return f"no room to download '{self}' into {cache}: free some, or name another place in HF_HOME"
        begun = (Path(cache) / f"{self.kind}s--{self.name.replace('/', '--')}" / "snapshots").is_dir()
        held = (
            f"the cache ({cache}) holds only a part of it" if begun else f"neither a folder here nor the cache ({cache}) is it"
        )
        if constants.is_offline_mode():
            return f"cannot download '{self}': offline, as HF_HUB_OFFLINE says, and {held}; unset it to download"
        if isinstance(error, errors.LocalEntryNotFoundError):
            reason = _first_line(error.__cause__ or error)
            return (
                f"cannot download '{self}': the hub at {constants.ENDPOINT} does not answer ({reason}), and {held}; "
                "check the connection, or copy the folder from a machine that has it"
            )
        reason = _first_line(error.__cause__ or error)
        return f"the download of '{self}' broke off ({reason}): the same command goes on with the files that are missing"

    def _gated(self) -> str:
        from huggingface_hub import get_token

        if get_token():
            return (
                f"'{self.name}' is gated, and the account of your token has no access to it: ask for access at {self.url}, "
                "and repeat the command once it is granted"
            )
        return (
            f"'{self.name}' is gated: accept its licence at {self.url}, log in with `hf auth login` (or set HF_TOKEN), "
            "and repeat the command"
        )

    def _answered(self, error: Any) -> str:
        """Of an error that the hub itself answered with."""
        status = getattr(error.response, "status_code", 0)
        if status == 401:
            return f"the hub does not know your token (401, for '{self.name}'): `hf auth login` again, or unset HF_TOKEN"
        if status == 403:
            return f"the hub does not let your token read '{self.name}' (403): give it that right at {self.url}"
        if status == 429:
            return f"the hub takes no more requests from here for now (429, for '{self.name}'): wait, or log in with a token"
        return f"cannot download '{self}': the hub answers with an error ({status or _first_line(error)}); try again later"

    def _revisions(self) -> str:
        """The names that a revision can have, where the hub tells them."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HTTPError

        try:
            refs = HfApi().list_repo_refs(self.name, repo_type=self.kind)
        except (HTTPError, OSError):
            return ""
        names = [ref.name for ref in (*refs.branches, *refs.tags)]
        return f"; it has {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}, and commits"


def named(name: str, kind: Kind) -> Repository | None:
    """The repository of a name such as owner/name or owner/name@revision, None where a name has another form.

    >>> named("GSAI-ML/LLaDA-8B-Instruct@v1", "model")
    Repository(name='GSAI-ML/LLaDA-8B-Instruct', revision='v1', kind='model')
    >>> named("./GSAI-ML/LLaDA-8B-Instruct", "model") is named("a-folder", "model") is None
    True
    """
    found = _ID.fullmatch(name)
    if found is None or found[1].startswith((".", "-")):
        return None
    return Repository(found[1], found[2], kind)


@functools.cache
def _bar() -> Any:
    """The client's progress bars, silent where there is no terminal."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **{"disable": None, **settings})

    return Bar


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return (lines[0] or type(error).__name__)[:120]
