"""Checkpoints from disk or the Hugging Face hub: config.json, weights (models/weights.py), tokenizer.

Whatever is wrong becomes a ModelError that names the file and the tensor.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unmask.decode.commit_head import CommitHead
from unmask.errors import ConfigError, ModelError, unknown
from unmask.models import REFUSED, TABLE, commit_head, fetching, lora, memory, names, own, parallel, quantise
from unmask.models.config import Beside
from unmask.models.denoiser import Denoiser
from unmask.models.family import network_class as network_class
from unmask.models.names import EMBEDDED as EMBEDDED
from unmask.models.network import Network
from unmask.models.room import TYPES, require_room
from unmask.models.share import share
from unmask.models.shelf import published
from unmask.models.steps import steps
from unmask.models.stored import read_json as read_json
from unmask.models.stored import shards as shards
from unmask.models.weights import fill

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def load(
    name: str | Path = "unmask-tiny",
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    weights: str | None = None,
    adapter: str | Path | None = None,
    tensor_parallel: "bool | ProcessGroup" = False,
    graphs: bool = True,
    kv_dtype: str | None = None,
    chat_template: bool = True,
    add_bos: bool = False,
) -> Denoiser:
    """Load a model: an embedded one, a checkpoint folder, one of a short name, or a Hugging Face id.

    What is not here is downloaded once, then read from the hub's cache. A model that cannot fit is refused before that.

    Args:
        name: "unmask-tiny", what it was trained from ("unmask-tiny-base"), the latter tuned as R2-dLLM does ("unmask-tiny-r2"),
            the block-causal "unmask-tiny-block", a path, a short name such as "sdar-1.7b" (`unmask models` lists them), or an
            id such as "GSAI-ML/LLaDA-8B-Instruct"; the last two with or without "@revision". A folder of an adapter alone is
            loaded with the base that it names.
        revision: a branch, tag or commit of what is on the hub, as "@revision" behind its name.
        device: "auto" takes the current CUDA device if there is one, else the CPU.
        dtype: "auto" takes the checkpoint's own, on a GPU without bfloat16 float16 in its place; or float32, bfloat16,
            float16, float64.
        weights: "int8", "int4" or "fp8" quantise the layers' matrices while they are read (models/quantise.py); None leaves
            them as the checkpoint has them.
        adapter: a folder of LoRA in peft's files, merged into the checkpoint's tensors while they are read (models/lora.py).
        tensor_parallel: True shares the model between all processes of torch.distributed, a group between its own: each
            reads and holds its slices (models/parallel.py). All of them must then make the same calls.
        graphs: on CUDA, replay forwards as graphs; False launches their kernels one by one, to find a fault.
        kv_dtype: "fp8" keeps keys and values in 8 bits (e4m3), which halves their memory of 16 bits; None: in `dtype`.
        chat_template: a string becomes the user's turn of a chat where the tokenizer has a template. False, for a base model:
            it is continued as it is.
        add_bos: every prompt begins with the tokenizer's BOS token, as papers ask base models.

    Raises:
        ConfigError: a device, dtype or BOS token that is not there; processes that cannot share the model evenly; weights
            that are quantised already.
        ModelError: no such model, one that needs more memory than is free, an unknown architecture, a file that cannot be read,
            a tensor missing or misshapen, an adapter of another model, a mask that config and tokenizer do not agree on, a
            commit head of other weights.

    >>> load("unmask-tiny").spec.mask_id
    2
    """
    place, kind, mine = find_device(device), _dtype(dtype), share(tensor_parallel)
    quantise.check(weights)
    kept = memory_type(kv_dtype, place)
    name = str(name) if revision is None else _at(str(name), revision)
    folder, change, network = _fitting(name, adapter, weights=weights, dtype=kind, device=place, shares=mine.processes)
    if mine.group is not None:
        if weights is not None:
            raise ConfigError(f"weights={weights!r} and tensor_parallel: quantised weights are not shared, so use one of them")
        parallel.split(network, mine)
    merged = None if change is None else lora.Adapter(change)
    fill(network, folder, device=place, dtype=kind, weights=weights, adapter=merged)
    reader = tokenizer(folder, network.tokenizers)
    if reader is not None:
        _require_one_mask(network, reader, folder)
        vocabulary = reader.get_vocab()
        turns = tuple(vocabulary[token] for token in network.turn_ends if token in vocabulary)
        network.spec = replace(network.spec, turn_ids=tuple(turn for turn in turns if turn not in network.spec.eos_ids))
    return Denoiser(
        network=network.eval().requires_grad_(False),
        tokenizer=reader,
        name=str(name),
        graphs=graphs,
        steps=steps(network),
        own=_own(folder, change),
        head=None if change is not None else _head(folder, network, place),  # with an adapter it is another model
        kv=kept,
    ).asked(chat_template=chat_template, add_bos=add_bos)


def _at(name: str, revision: str) -> str:
    """A hub id at a revision. Raises ConfigError for what has none."""
    if isinstance(names.resolve(name), Path):
        raise ConfigError(f"revision '{revision}': {name} is no hub id, and only those have revisions")
    if "@" in name:
        raise ConfigError(f"revision '{revision}': {name} names one already; leave one of the two out")
    return f"{name}@{revision}"


def _fitting(
    name: str, adapter: str | Path | None, *, weights: str | None, dtype: torch.dtype | None, device: torch.device, shares: int
) -> tuple[Path, Path | None, Network]:
    """The whole checkpoint's folder, its adapter's, and its network without memory behind it.

    Raises ModelError where it cannot fit: by what the shelf says of it, and by its config, before its weights are fetched.
    """
    told = names.on_shelf(name)
    asked = next((short for short, type in TYPES.items() if type == dtype), None)
    if told is not None and told.shape is not None and told.repository.cached("config.json") is None:
        kind, rest = weights or asked or "bf16", asked or "bf16"
        require_room(told.shape, name=name, kind=kind, rest=rest, device=device, shares=shares)
    folder, _ = folders(name, adapter, weights=False)
    network = build(read_json(folder / "config.json"), folder)
    kind, rest = _stored(folder, network)
    kind, rest = weights or (kind if kind in memory.QUANTISED else asked or kind), asked or rest
    require_room(network.shape, name=name, kind=kind, rest=rest, device=device, shares=shares)
    return *folders(name, adapter), network


def _stored(folder: Path, network: Network) -> tuple[str, str]:
    """The types of a checkpoint's matrices and of its other tensors, by its config and the size of its files.

    bf16 where there are no files yet.
    """
    said = network.config.get("quantization_config")
    if isinstance(said, dict) and said.get("quant_method") == "torchao":  # models/formats.py refuses what is no object
        written = str(said)
        return "int4" if "Int4" in written else "fp8" if "Float8" in written else "int8", "bf16"
    found = [*folder.glob("*.safetensors")] or [*folder.glob("*.bin")]
    size = sum(path.stat().st_size for path in found if path.name != commit_head.FILE)
    each = size / memory.parameters(network.shape).total
    kind = "fp64" if each > 6 else "fp32" if each > 3 else "bf16"
    return kind, kind


def _own(folder: Path, change: Path | None) -> own.Own:
    """What is known of decoding a checkpoint. With an adapter it is another model, for which nothing was published."""
    return own.read(folder, published(folder) if change is None else None)


def choices(name: str) -> own.Own:
    """What is known of decoding a model that need not be here yet: of one of the shelf what was published, without the hub.

    Raises ModelError where there is no such model.
    """
    told = names.on_shelf(name)
    if told is None:
        return _own(*folders(name, weights=False))
    here = told.repository.cached("config.json")
    return own.Own(published=told.own) if here is None else own.read(here, told.own)


def described(name: str) -> Denoiser:
    """A model's facts without its weights, for checks before it is loaded; it has no memory, no tokenizer and cannot decode.

    Raises ConfigError or ModelError as `load` does.

    >>> described("unmask-tiny-block").spec.block
    8
    """
    folder, change = folders(name)
    network = build(read_json(folder / "config.json"), folder)
    head = None if change is not None else _head(folder, network, torch.device("cpu"))
    return Denoiser(network=network, tokenizer=None, name=name, own=_own(folder, change), head=head)


def _require_one_mask(network: Network, reader: Any, folder: Path) -> None:
    """Raises ModelError where the tokenizer names another mask than the network's: every answer would be garbage."""
    mask, said = network.spec.mask_id, reader.mask_token_id
    if said is not None and said != mask:
        raise ModelError(
            f"{folder}: mask_token_id of config.json is {mask} ({reader.convert_ids_to_tokens(mask)!r}), but the tokenizer's "
            f"mask token {reader.mask_token!r} is {said}: correct the one that is wrong"
        )


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
    folder = _place(name, weights=weights)
    if lora.is_adapter(folder):
        base = read_json(folder / lora.CONFIG).get("base_model_name_or_path")
        raise ModelError(
            f"{folder} holds an adapter for {base}, which is not a model by itself: merge the two with "
            f"`unmask train merge --set model={base} --set output={folder}` and take {folder / 'merged'}"
        )
    return folder


def _place(name: str, *, weights: bool) -> Path:
    found = names.resolve(name)
    return found if isinstance(found, Path) else fetching.fetch(found, weights=weights)


def folders(name: str, adapter: str | Path | None = None, *, weights: bool = True) -> tuple[Path, Path | None]:
    """The folder of a model, as of `locate`, and of the adapter that is merged into it, None where there is none.

    A name that is an adapter's stands for both. Raises ModelError where there is no such model or no such adapter.
    """
    found = _place(name, weights=weights)
    if not lora.is_adapter(found):
        if adapter is None:
            return found, None
        given = Path(adapter).expanduser()
        if not (given / lora.CONFIG).exists():
            raise ModelError(f"{given}: no {lora.CONFIG} there; an adapter is a folder as peft saves it")
        return found, given
    if adapter is not None:
        raise ConfigError(f"{name} is an adapter itself: name its base as the model to merge {adapter} into it")
    base = lora.Adapter(found).base
    if not Path(base).is_dir() and Path(base).name in EMBEDDED:  # trained here, on another machine
        base = Path(base).name
    try:
        return locate(base, weights=weights), found
    except ModelError as error:
        raise ModelError(
            f"{found} is an adapter for {base}, which is not to be had ({error}): name the base as the model "
            "and this folder as the adapter"
        ) from None


def identity(name: str, adapter: str | Path | None = None, weights: str | None = None) -> str:
    """Which numbers a model decodes with, for files that must not mix those of two: fingerprint, adapter, kind of weights."""
    folder, change = folders(name, adapter)
    merged = "" if change is None else f"+{fingerprint(change)}"
    return f"{fingerprint(folder)}{merged}{'' if weights is None else f'-{weights}'}"


def fingerprint(folder: Path) -> str:
    """Which model a folder holds: SHA-256 over config.json and, of every weights file, name, size and both ends.

    A commit head is no part of that: it says itself which model it is for. Of a folder of an adapter, its files.
    """
    digest = hashlib.sha256((folder / (lora.CONFIG if lora.is_adapter(folder) else "config.json")).read_bytes())
    found = set(folder.glob("*.safetensors")) - {folder / commit_head.FILE}
    for path in sorted(found or folder.glob("*.bin")):
        digest.update(f"{path.name} {path.stat().st_size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 20))
            file.seek(max(0, path.stat().st_size - (1 << 20)))
            digest.update(file.read())
    return digest.hexdigest()[:16]


def build(config: Mapping[str, Any], folder: Path) -> Network:
    """The network of a config, without memory behind its weights. The first architecture that it names decides."""
    architectures = config.get("architectures") or ["(none)"]
    named = architectures if isinstance(architectures, str) else architectures[0]
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


def _plain_config(folder: Path) -> Any:
    """What a tokenizer may ask of config.json, without the import of all models; None: transformers looks for itself."""
    from transformers import PreTrainedConfig

    from unmask.models.hf_config import CONFIGS

    path = folder / "config.json"
    said = read_json(path) if path.exists() else {}
    if said.get("model_type") not in CONFIGS:
        return None
    return PreTrainedConfig(name_or_path=str(folder), tokenizer_class=said.get("tokenizer_class"))


def tokenizer(folder: Path, classes: Mapping[str, str]) -> Any:
    """The folder's tokenizer through transformers, or None where there is none; `classes` stand in for remote code."""
    if not (folder / "tokenizer.json").exists() and not (folder / "tokenizer_config.json").exists():
        return None
    import transformers

    settings = folder / "tokenizer_config.json"
    said = read_json(settings) if settings.exists() else {}
    kind = getattr(transformers, classes.get(said.get("tokenizer_class") or "", "AutoTokenizer"))
    try:
        made = kind.from_pretrained(str(folder), config=_plain_config(folder), trust_remote_code=False)
    except Exception as error:
        if "auto_map" in said:
            plain = "remove auto_map from" if (folder / "tokenizer.json").exists() else "put a tokenizer.json beside"
            raise ModelError(
                f"{folder}: the tokenizer, {said.get('tokenizer_class')}, is code of its authors, which is not run here: "
                f"{plain} tokenizer_config.json to read it without"
            ) from None
        raise ModelError(f"{folder}: the tokenizer cannot be loaded ({str(error).splitlines()[0]})") from None
    # Clean-up removes spaces before punctuation, from code too, and changes text that a stream has sent.
    made.clean_up_tokenization_spaces = False
    return made
