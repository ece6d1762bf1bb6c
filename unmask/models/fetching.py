"""Which files of a repository on the hub make a checkpoint: no others are downloaded.

First what describes it (config, tokenizer, index of the weights), then the weights: safetensors, as the index names them, and
a commit head beside them; *.bin only where there are no safetensors. Folders within a repository hold other forms of a model.
"""

from collections.abc import Sequence
from pathlib import Path

from unmask.data.hub import Repository
from unmask.errors import ModelError
from unmask.models.commit_head import FILE as COMMIT_HEAD
from unmask.models.stored import read_json

DESCRIBING = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
_BELOW = ("*/*",)
# An index of weights, and the files where there is none; the first kind that a repository has is taken.
_KINDS = (
    ("model.safetensors.index.json", ("model.safetensors", "adapter_model.safetensors")),
    ("pytorch_model.bin.index.json", ("pytorch_model.bin", "adapter_model.bin")),
)


def fetch(place: Repository, *, weights: bool = True) -> Path:
    """The folder of a repository's checkpoint; without its weights where only its facts are wanted.

    Raises ModelError where it cannot be had, or is none.
    """
    folder = place.fetch(DESCRIBING, besides=_BELOW)
    if not any((folder / name).exists() for name in ("config.json", "adapter_config.json")):
        raise ModelError(f"'{place}' on the Hugging Face hub has no config.json: it is no checkpoint that can be loaded here")
    if weights:
        _fetch_weights(place, folder)
    return folder


def _fetch_weights(place: Repository, folder: Path) -> None:
    for index, single in _KINDS:
        names = _shards(folder / index) or single
        place.fetch([*names, COMMIT_HEAD], besides=_BELOW)
        missing = [name for name in names if not (folder / name).exists()]
        if (folder / index).exists() and missing:
            raise ModelError(f"'{place}' on the Hugging Face hub lacks {missing[0]}, which its {index} names")
        if len(missing) < len(names):
            return
    raise ModelError(
        f"'{place}' on the Hugging Face hub has no weights that can be loaded here: neither model.safetensors nor "
        "pytorch_model.bin, in one file or with an index"
    )


def _shards(index: Path) -> Sequence[str]:
    """The files that an index names, none where there is no index."""
    if not index.exists():
        return ()
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict):
        raise ModelError(f"{index}: no weight_map")
    return sorted({str(file) for file in named.values()})
