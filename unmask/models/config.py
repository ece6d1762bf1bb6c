"""Reading a config.json, and what a folder says beside it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from unmask.errors import ModelError


class Beside(NamedTuple):
    """What a checkpoint says outside its config.json.

    Attributes:
        repository: the name it was published under, as far as the folder's own name tells.
        generation: generation_config.json.
        added: the tokenizer's added tokens -> their ids.
    """

    repository: str = ""
    generation: Mapping[str, Any] = {}
    added: Mapping[str, int] = {}


def only(config: Mapping[str, Any], supported: Mapping[str, Any]) -> None:
    """Raises ModelError where a config sets one of these keys to anything but the one value that is supported.

    >>> only({"hidden_act": "gelu"}, {"hidden_act": "silu"})
    Traceback (most recent call last):
    unmask.errors.ModelError: config.json: hidden_act = 'gelu' is not supported, only 'silu'
    """
    for key, value in supported.items():
        if config.get(key, value) not in (value, None):
            raise ModelError(f"config.json: {key} = {config[key]!r} is not supported, only {value!r}")


def read_ids(config: Mapping[str, Any], key: str, vocabulary: int) -> tuple[int, ...]:
    """The token id, or ids, under `key` of a config.json. Raises ModelError if there is none or it is no row."""
    given = config[key]
    ids = tuple(given) if isinstance(given, list) else (given,)
    for token in ids or (None,):
        if not isinstance(token, int) or not 0 <= token < vocabulary:
            raise ModelError(f"config.json: {key} = {given!r} is not a token id from 0 to {vocabulary - 1}")
    return ids


def read_theta(config: Mapping[str, Any]) -> float:
    """The rotary base, wherever this version of transformers wrote it. Raises ModelError for scaled rotary embeddings."""
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ModelError(f"config.json: the rope type {kind!r} is not supported, only 'default'")
    return float(config.get("rope_theta") or rope.get("rope_theta") or 10000.0)


def read_block(config: Mapping[str, Any], key: str) -> int:
    """The block length of a block-causal model. Raises ModelError unless it is a positive whole number.

    >>> read_block({"block_size": 4}, "block_size")
    4
    """
    block = config[key]
    if isinstance(block, bool) or not isinstance(block, int) or block < 1:
        raise ModelError(f"config.json: {key} = {block!r} is not a block length: a whole number of at least 1")
    return block
