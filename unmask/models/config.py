"""Reading a config.json, and what a folder says beside it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from unmask.decode.spec import ModelSpec
from unmask.errors import ModelError
from unmask.models.shape import Shape


class Beside(NamedTuple):
    """What a checkpoint says outside its config.json.

    Attributes:
        repository: the name it was published under, as far as the folder's own name tells.
        generation: generation_config.json.
        added: the tokenizer's added tokens -> their ids.
        mask: the tokenizer's mask token, if it names one.
    """

    repository: str = ""
    generation: Mapping[str, Any] = {}
    added: Mapping[str, int] = {}
    mask: str | None = None


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


def read_shape(config: Mapping[str, Any]) -> Shape:
    """The sizes of a network whose config has Qwen's keys; what a family has besides is added with dataclasses.replace."""
    width, heads = config["hidden_size"], config["num_attention_heads"]
    head_size = config.get("head_dim") or width // heads
    return Shape(
        width=width,
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_size=head_size,
        rotary=head_size,
        mlp=config["intermediate_size"],
        vocab=config["vocab_size"],
        theta=read_theta(config),
        eps=config.get("rms_norm_eps", 1e-6),
        tied=bool(config.get("tie_word_embeddings")),
    )


def read_spec(config: Mapping[str, Any]) -> ModelSpec:
    """The facts that every family with Qwen's keys has in common."""
    vocabulary = config["vocab_size"]
    return ModelSpec(
        mask_id=read_ids(config, "mask_token_id", vocabulary)[0],
        eos_ids=read_ids(config, "eos_token_id", vocabulary),
        vocab_size=vocabulary,
        max_length=config["max_position_embeddings"],
    )


def complete(
    config: Mapping[str, Any], beside: Beside, *, masks: Sequence[str] = (), mask_id: int | None = None
) -> dict[str, Any]:
    """A config with every end-of-text id and the mask, wherever they are said.

    Args:
        config: config.json; what it says stands first.
        beside: generation_config.json may name more ends, the tokenizer the mask.
        masks: the mask's spellings in the family's tokenizers that do not call it their mask token.
        mask_id: the published id where neither says any; not taken by a smaller vocabulary.

    >>> complete({"eos_token_id": 1}, Beside("", {"eos_token_id": [2, 1]}, {"<|MASK|>": 3}), masks=["<|MASK|>"])
    {'eos_token_id': [1, 2], 'mask_token_id': 3}
    """
    made = dict(config)
    if "eos_token_id" in beside.generation:
        ends = [*_listed(config.get("eos_token_id")), *_listed(beside.generation["eos_token_id"])]
        made["eos_token_id"] = list(dict.fromkeys(ends))
    if config.get("mask_token_id") is None:
        said = [beside.added[token] for token in (*masks, beside.mask or "") if token in beside.added]
        if said:
            made["mask_token_id"] = said[0]
        elif mask_id is not None and mask_id < config["vocab_size"]:
            made["mask_token_id"] = mask_id
    return made


def _listed(ids: Any) -> list[Any]:
    return ids if isinstance(ids, list) else [] if ids is None else [ids]
