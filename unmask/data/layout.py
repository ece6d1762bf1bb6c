"""Which files of a folder, or of a data set on the hub, hold a split.

A place is a file, a folder, or a data set by its id: owner/name, owner/name@revision, and behind either a folder or files of
it, owner/name/config or owner/name/data/train-*.parquet. Folders and data sets are read alike. A split's files are found as the
hub lays them out:

    main/test-00000-of-00001.parquet    data/test-*.parquet    test.jsonl    sanitized/test/0000.parquet
"""

import glob
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from unmask.data.hub import Repository, named
from unmask.errors import ConfigError

ENDINGS = (".parquet", ".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz")
_HELD_OUT = ("test", "validation", "valid", "val", "dev", "eval")
_TRAINING = (".jsonl", ".jsonl.gz", ".json", ".parquet")
# What lies beside the data of a data set and is none.
_BESIDE = ("dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json")


class Place(NamedTuple):
    """A folder, or a data set on the hub; `inner` is what was named within the latter."""

    folder: Path | None
    repository: Repository | None
    inner: str = ""

    def names(self) -> list[str]:
        """The data files, as paths below the place."""
        if self.folder is not None:
            listed = [path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()]
        else:
            assert self.repository is not None
            below = f"{self.inner}/" if self.inner else ""
            every = self.repository.files()
            listed = [name.removeprefix(below) for name in every if name.startswith(below)]
        return [name for name in listed if name.endswith(ENDINGS) and PurePosixPath(name).name not in _BESIDE]

    def paths(self, names: Sequence[str]) -> list[Path]:
        """These files on disk; of a data set they are downloaded now."""
        if self.folder is not None:
            return [self.folder / name for name in names]
        assert self.repository is not None
        whole = [f"{self.inner}/{name}" if self.inner else name for name in names]
        folder = self.repository.fetch([glob.escape(name) for name in whole])
        return [folder / name for name in whole]


def files(place: Path, split: str, *, own: Sequence[str] = (), configs: Sequence[str] = ()) -> list[Path]:
    """The files of a split, or the place itself if it is a file; none where a folder or a data set has no such files.

    Args:
        own: patterns of names that come before all splits; cd9.jsonl comes before cd10.jsonl.
        configs: of several configurations the one that comes first here is taken.

    Raises ConfigError for a place that does not exist, or that has several configurations of which none is meant.
    """
    if place.is_file():
        return [place]
    found = _place(place)
    if isinstance(found, list):
        return found
    names = found.names()
    mine = [name for name in names if any(_matches(name, pattern) for pattern in own)]
    chosen = sorted(mine, key=lambda name: (len(name), name)) or choose(names, split, configs, str(place))
    return found.paths(chosen) if chosen else []


def _matches(name: str, pattern: str) -> bool:
    """As a shell has it: a star stands for no slash."""
    return name.count("/") == pattern.count("/") and fnmatch(name, pattern)


def training(places: str | Sequence[str]) -> list[Path]:
    """The files of one or more places to train on.

    Of a folder those are all data files below it, in order; of a data set on the hub its split train, where it has several
    configurations of the one that is called default or main.

    Raises ConfigError for a place that does not exist or holds no such files.
    """
    found: list[Path] = []
    for place in map(Path, [places] if isinstance(places, str) else places):
        path = place.expanduser()
        if path.is_dir():
            below = sorted(one for one in path.rglob("*") if one.name.endswith(_TRAINING))
        else:
            below = files(path, "train", configs=("default", "main"))
        if not below:
            what = f"file that ends in {', '.join(_TRAINING)}" if path.is_dir() else "data file of a split train"
            raise ConfigError(f"{path}: this {'folder' if path.is_dir() else 'data set'} holds no {what}")
        found += below
    return found


def _place(place: Path) -> Place | list[Path]:
    """The folder or data set of that name; the files themselves where a data set's id goes on with their names."""
    if place.is_dir():
        return Place(place, None)
    parts = place.as_posix().split("/")
    repository = None if place.is_absolute() or len(parts) < 2 else named("/".join(parts[:2]), "dataset")
    if repository is None:
        raise ConfigError(f"{place}: no such file or folder, and no id of a data set on the hub, which looks like owner/name")
    inner = "/".join(parts[2:])
    matching = [name for name in repository.files() if inner and fnmatch(name, inner)]
    if matching:
        return Place(None, repository).paths(sorted(matching))
    return Place(None, repository, inner)


def choose(names: Sequence[str], split: str, configs: Sequence[str], where: str) -> list[str]:
    """Of data files those of a split, in one configuration and one format.

    Names that are the split's own win over those that merely hold its word: train.jsonl over train_small.jsonl. Where no name
    says of which split it is, all files are the split train.

    Raises ConfigError, which names them, where there are several configurations of which none is meant.

    >>> choose(["main/test-00000-of-00001.parquet", "socratic/test-00000-of-00001.parquet"], "test", ["main"], "openai/gsm8k")
    ['main/test-00000-of-00001.parquet']
    >>> choose(["train.jsonl", "data/contest.jsonl"], "test", [], "here")
    []
    """
    ranked = {name: rank for name in names if (rank := _rank(name, split)) is not None}
    if not ranked and split == "train" and all(_rank(name, other) is None for name in names for other in _HELD_OUT):
        ranked = dict.fromkeys(names, 1)
    best = [name for name, rank in ranked.items() if rank == min(ranked.values())]
    by_config: dict[str, list[str]] = {}
    for name in best:
        by_config.setdefault(_config(name, split), []).append(name)
    config = next((config for config in (*configs, "") if config in by_config), next(iter(by_config), ""))
    if len(by_config) > 1 and config not in (*configs, ""):
        raise ConfigError(f"{where} has several configurations, {', '.join(sorted(by_config))}: name one, as {where}/{config}")
    mine = by_config.get(config, [])
    ending = next((ending for ending in ENDINGS if any(name.endswith(ending) for name in mine)), "")
    return sorted(name for name in mine if name.endswith(ending))


def _rank(name: str, split: str) -> int | None:
    """How plainly a path is one of the split: 0 by a name of its own, 1 by a word in a name, None not at all."""
    *folders, file = PurePosixPath(name).parts
    stem = file.partition(".")[0]
    if split in folders or re.fullmatch(rf"{split}(-\d+.*)?", stem):
        return 0
    word = re.compile(rf"(?<![a-zA-Z]){split}(?![a-zA-Z])")
    return 1 if any(word.search(part) for part in (*folders, stem)) else None


def _config(name: str, split: str) -> str:
    """The folders of a path that are neither the split's nor the usual one of data."""
    return "/".join(part for part in PurePosixPath(name).parts[:-1] if part not in ("data", split))
