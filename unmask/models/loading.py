"""Checkpoints from disk or the Hugging Face hub: config.json, weights (models/weights.py), tokenizer.

Whatever is wrong becomes a ModelError that names the file and the tensor.
"""

import hashlib
import importlib
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unmask.data import hub
from unmask.decode.commit_head import CommitHead
from unmask.errors import ConfigError, ModelError, unknown
from unmask.models import REFUSED, TABLE, commit_head, fetching, own, parallel
from unmask.models.config import Beside
from unmask.models.denoiser import Denoiser
from unmask.models.network import Network
from unmask.models.share import share
from unmask.models.steps import steps
from unmask.models.weights import fill
from unmask.models.weights import read_json as read_json
from unmask.models.weights import shards as shards

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

EMBEDDED = ("unmask-tiny", "unmask-tiny-base", "unmask-tiny-r2", "unmask-tiny-block")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def load(
    name: str | Path = "unmask-tiny",
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    tensor_parallel: "bool | ProcessGroup" = False,
    graphs: bool = True,
    kv_dtype: str | None = None,
    chat_template: bool = True,
    add_bos: bool = False,
) -> Denoiser:
    """Load a model: an embedded one, a checkpoint folder, or a Hugging Face id (downloaded once, then from its cache).

    Args:
        name: "unmask-tiny", what it was trained from ("unmask-tiny-base"), the latter tuned as R2-dLLM does ("unmask-tiny-r2"),
            the block-causal "unmask-tiny-block", a path, or an id such as "GSAI-ML/LLaDA-8B-Instruct", with or without
            "@revision".
        revision: a branch, tag or commit of a hub id, as "@revision" behind it.
        device: "auto" takes the current CUDA device if there is one, else the CPU.
        dtype: "auto" takes the checkpoint's own; or float32, bfloat16, float16, float64.
        tensor_parallel: True shares the model between all processes of torch.distributed, a group between its own: each
            reads and holds its slices (models/parallel.py). All of them must then make the same calls.
        graphs: on CUDA, replay block forwards as graphs; False launches their kernels one by one, to find a fault.
        kv_dtype: "fp8" keeps keys and values in 8 bits (e4m3), which halves their memory of 16 bits; None: in `dtype`.
        chat_template: a string becomes the user's turn of a chat where the tokenizer has a template. False, for a base model:
            it is continued as it is.
        add_bos: every prompt begins with the tokenizer's BOS token, as papers ask base models.

    Raises:
        ConfigError: a device, dtype or BOS token that is not there; processes that cannot share the model evenly.
        ModelError: no such model, an unknown architecture, a file that cannot be read, a tensor missing or misshapen, a commit
            head of other weights.

    >>> load("unmask-tiny").spec.mask_id
    2
    """
    place, kind, mine = find_device(device), _dtype(dtype), share(tensor_parallel)
    kept = memory_type(kv_dtype, place)
    name = str(name) if revision is None else _at(str(name), revision)
    folder = locate(str(name))
    network = build(read_json(folder / "config.json"), folder)
    if mine.group is not None:
        parallel.split(network, mine)
    fill(network, folder, device=place, dtype=kind)
    reader = tokenizer(folder, network.tokenizers)
    if reader is not None:
        vocabulary = reader.get_vocab()
        turns = tuple(vocabulary[token] for token in network.turn_ends if token in vocabulary)
        network.spec = replace(network.spec, turn_ids=tuple(turn for turn in turns if turn not in network.spec.eos_ids))
    return Denoiser(
        network=network.eval().requires_grad_(False),
        tokenizer=reader,
        name=str(name),
        graphs=graphs,
        steps=steps(network),
        own=own.read(folder),
        head=_head(folder, network, place),
        kv=kept,
    ).asked(chat_template=chat_template, add_bos=add_bos)


def _at(name: str, revision: str) -> str:
    """A hub id at a revision. Raises ConfigError for what has none."""
    if name in EMBEDDED or Path(name).expanduser().is_dir() or hub.named(name, "model") is None:
        raise ConfigError(f"revision '{revision}': {name} is no hub id, and only those have revisions")
    if "@" in name:
        raise ConfigError(f"revision '{revision}': {name} names one already; leave one of the two out")
    return f"{name}@{revision}"


def described(name: str) -> Denoiser:
    """A model's facts without its weights, for checks before it is loaded; it has no memory, no tokenizer and cannot decode.

    Raises ConfigError or ModelError as `load` does.

    >>> described("unmask-tiny-block").spec.block
    8
    """
    folder = locate(name)
    network = build(read_json(folder / "config.json"), folder)
    head = _head(folder, network, torch.device("cpu"))
    return Denoiser(network=network, tokenizer=None, name=name, own=own.read(folder), head=head)


def _head(folder: Path, network: Network, device: torch.device) -> CommitHead | None:
    """The folder's commit head. The fingerprint, which reads from every file of weights, is made only where there is one."""
    if not (folder / commit_head.FILE).exists():
        return None
    return commit_head.read(folder, fingerprint(folder), width=network.shape.width, device=device)


def find_device(name: str) -> torch.device:
    """The device of that name, "auto" being the current CUDA device or the CPU. Raises ConfigError where there is none."""
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"no device '{name}' here ({str(error).splitlines()[0][:100]}); try auto or cpu") from None
    return device


def memory_type(name: str | None, device: torch.device) -> torch.dtype | None:
    """The type in which keys and values are kept; None: that of the weights. Raises ConfigError where there is none.

    >>> memory_type("fp8", torch.device("cpu"))
    torch.float8_e4m3fn
    """
    if name is None:
        return None
    if name != "fp8":
        raise ConfigError(f"kv_dtype must be fp8, or be left out for keys and values in the weights' type, got {name!r}")
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 9):
        raise ConfigError(f"kv_dtype fp8 needs a GPU of compute capability 8.9 or newer, which {device} is not: leave it out")
    return torch.float8_e4m3fn


def _dtype(name: str | torch.dtype) -> torch.dtype | None:
    if name == "auto":
        return None
    for known, dtype in _DTYPES.items():
        if name in (known, dtype):
            return dtype
    raise unknown("dtype", str(name), ["auto", *_DTYPES])


def locate(name: str, *, weights: bool = True) -> Path:
    """The folder of a model; of one on the hub without its weights where only its facts are wanted.

    Raises ModelError if there is none to be had.
    """
    if name in EMBEDDED:
        return Path(str(resources.files("unmask") / "assets" / name))
    folder = Path(name).expanduser()
    if folder.is_dir():
        _refuse_adapter(folder)
        return folder
    place = hub.named(name, "model")
    if place is None:
        raise ModelError(
            f"no model '{name}': not a folder here; embedded: {', '.join(EMBEDDED)}; a hub id looks like owner/name, or "
            "owner/name@revision"
        )
    folder = fetching.fetch(place, weights=weights)
    _refuse_adapter(folder)
    return folder


def _refuse_adapter(folder: Path) -> None:
    """Raises ModelError for a folder of an adapter alone."""
    adapter = folder / "adapter_config.json"
    if adapter.exists() and not (folder / "config.json").exists():
        base = read_json(adapter).get("base_model_name_or_path")
        raise ModelError(
            f"{folder} holds an adapter for {base}, which is not a model by itself: merge the two with "
            f"`unmask train merge --set model={base} --set output={folder}` and load {folder / 'merged'}"
        )


def fingerprint(folder: Path) -> str:
    """Which model a folder holds: SHA-256 over config.json and, of every weights file, name, size and both ends.

    A commit head is no part of that: it says itself which model it is for.
    """
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted(set(folder.glob("*.safetensors")) - {folder / commit_head.FILE}):
        digest.update(f"{path.name} {path.stat().st_size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 20))
            file.seek(max(0, path.stat().st_size - (1 << 20)))
            digest.update(file.read())
    return digest.hexdigest()[:16]


def network_class(architecture: str) -> type[Network]:
    """The class of an architecture of TABLE, imported now."""
    module, name = TABLE[architecture].network.split(":")
    kind: type[Network] = getattr(importlib.import_module(module), name)
    return kind


def build(config: Mapping[str, Any], folder: Path) -> Network:
    """The network of a config, without memory behind its weights. The first architecture that it names decides."""
    named = (config.get("architectures") or ["(none)"])[0]
    if named in REFUSED:
        raise ModelError(f"{folder / 'config.json'}: {named} is not supported: {REFUSED[named]}")
    if named not in TABLE:
        raise ModelError(f"{folder / 'config.json'}: unknown architecture {named}; known: {', '.join(sorted(TABLE))}")
    kind = network_class(named)
    try:
        with torch.device("meta"):
            return kind(kind.complete(config, beside(folder)))
    except ModelError as error:
        raise ModelError(f"{folder / 'config.json'}: {str(error).removeprefix('config.json: ')}") from None
    except (TypeError, ValueError, ZeroDivisionError, RuntimeError) as error:
        raise ModelError(f"{folder / 'config.json'}: a value has the wrong type or size ({error})") from None


def beside(folder: Path) -> Beside:
    """What a checkpoint's folder, or the name of its repository, says outside config.json."""
    # The hub's cache: models--OWNER--NAME/snapshots/COMMIT.
    named = folder.parents[1] if folder.parent.name == "snapshots" else folder
    generation, settings = folder / "generation_config.json", folder / "tokenizer_config.json"
    said = read_json(settings) if settings.exists() else {}
    mask = said.get("mask_token")  # a word, or the description of a token
    return Beside(
        repository=named.name,
        generation=read_json(generation) if generation.exists() else {},
        added={token["content"]: int(number) for number, token in (said.get("added_tokens_decoder") or {}).items()},
        mask=mask["content"] if isinstance(mask, dict) else mask,
    )


def tokenizer(folder: Path, classes: Mapping[str, str]) -> Any:
    """The folder's tokenizer through transformers, or None where there is none; `classes` stand in for remote code."""
    if not (folder / "tokenizer.json").exists() and not (folder / "tokenizer_config.json").exists():
        return None
    import transformers

    settings = folder / "tokenizer_config.json"
    named = read_json(settings).get("tokenizer_class") if settings.exists() else None
    kind = getattr(transformers, classes.get(named or "", "AutoTokenizer"))
    try:
        made = kind.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:
        raise ModelError(f"{folder}: the tokenizer cannot be loaded ({str(error).splitlines()[0]})") from None
    # Clean-up removes spaces before punctuation, from code too, and changes text that a stream has sent.
    made.clean_up_tokenization_spaces = False
    return made
