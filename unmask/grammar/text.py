"""What a tokenizer writes for token ids, byte by byte: an answer's text is what its decoder makes, not the tokens' own bytes.

Each token has bytes, and a transducer of a few states turns the bytes of all tokens together into the text: a decoder may take
a space from the beginning, or put one between a letter and a digit. Steps that are not known are refused.
"""

import json
import random
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from unmask.errors import GrammarError

# Of unmask-tiny's tokenizer (train/tokenizer.py): digits are tokens of their own, and this puts their spaces back.
SPACED = "(?<=[A-Za-z+*/=-])(?=[0-9])"
_LETTERS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz+*/=-")
_DIGITS = frozenset(b"0123456789")
_TRIALS, _TRICKY = 200, ("ä", "€", "😀", " x 1", "a=-5", "\n\n", '{"a": ["b1"]}')


@dataclass(frozen=True, eq=False)
class TextMap:
    """How ids become text.

    Attributes:
        tokens: the bytes of each id; None where an id writes nothing, as the mask or a turn's mark.
        strip: spaces at the beginning of the text that are taken away.
        spaced: whether a space is put between a letter or sign and a digit.
    """

    tokens: tuple[bytes | None, ...]
    strip: int = 0
    spaced: bool = False

    @property
    def states(self) -> int:
        """Of the transducer: one for each space that may still be taken, then within the text, then behind a letter."""
        return self.strip + 1 + self.spaced

    def step(self, state: int, byte: int) -> tuple[bytes, int]:
        """What a byte writes in a state, and the state behind it. The first state is 0.

        >>> TextMap((), strip=1).step(0, 32), TextMap((), spaced=True).step(1, 53)
        ((b'', 1), (b' 5', 0))
        """
        if state < self.strip and byte == 0x20:
            return b"", state + 1
        letter = self.spaced and state == self.strip + 1
        written = b" " + bytes([byte]) if letter and byte in _DIGITS else bytes([byte])
        return written, self.strip + (self.spaced and byte in _LETTERS)

    def write(self, ids: Sequence[int]) -> str:
        """The text of ids, as the tokenizer's `decode` without special tokens."""
        state, text = 0, b""
        for byte in b"".join(self.tokens[token] or b"" for token in ids):
            written, state = self.step(state, byte)
            text += written
        return text.decode(errors="replace")


_MAPS: "weakref.WeakKeyDictionary[Any, TextMap]" = weakref.WeakKeyDictionary()


def text_map(tokenizer: Any) -> TextMap:
    """How a tokenizer writes; made once for each. Raises GrammarError where its decoder is not understood."""
    if tokenizer not in _MAPS:
        _MAPS[tokenizer] = _read(tokenizer)
    return _MAPS[tokenizer]


def _read(tokenizer: Any) -> TextMap:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        _refuse("it is no tokenizer of the tokenizers library")
    if getattr(tokenizer, "clean_up_tokenization_spaces", False):
        _refuse("clean_up_tokenization_spaces is on")
    said = json.loads(backend.to_str())
    steps = list(_steps(said["decoder"]))
    kinds = [_kind(step) for step in steps]
    special = {int(token["id"]) for token in said["added_tokens"] if token["special"]} | set(tokenizer.all_special_ids)
    tokens: list[bytes | None] = [None] * (1 + max(backend.get_vocab().values(), default=-1))
    for token, number in backend.get_vocab().items():
        if number not in special:
            tokens[number] = _bytes(token, steps)
    _drop_bytes_that_have_a_token(tokens, backend)
    strip = sum(int(step["start"]) for step in steps if step["type"] == "Strip")
    made = TextMap(tuple(tokens), strip=strip, spaced="spaced" in kinds)
    _compare(made, tokenizer)
    return made


def _steps(decoder: Any) -> Iterator[dict[str, Any]]:
    if decoder is None:
        _refuse("it has none")
    if decoder["type"] == "Sequence":
        for part in decoder["decoders"]:
            yield from _steps(part)
    else:
        yield decoder


def _kind(step: dict[str, Any]) -> str:
    """What a decoder's step is."""
    pattern = step.get("pattern", {})
    if step["type"] in ("ByteLevel", "ByteFallback", "Fuse"):
        return str(step["type"])
    if step["type"] == "Replace" and len(pattern.get("String", "")) == 1:
        return "Replace"
    if step["type"] == "Replace" and pattern == {"Regex": SPACED} and step["content"] == " ":
        return "spaced"
    if step["type"] == "Strip" and step["content"] == " " and step["stop"] == 0:
        return "Strip"
    _refuse(f"it has the step {json.dumps(step)}")


def _bytes(token: str, steps: Sequence[dict[str, Any]]) -> bytes:
    """What a token of the vocabulary contributes."""
    for step in steps:
        if step["type"] == "ByteLevel":
            letters = _byte_letters()
            return bytes(letters[letter] for letter in token) if set(token) <= set(letters) else token.encode()
        if step["type"] == "ByteFallback" and _is_byte(token):
            return bytes([int(token[3:5], 16)])
        if step["type"] == "Replace" and "String" in step["pattern"]:
            token = token.replace(step["pattern"]["String"], step["content"])
    return token.encode()


def _drop_bytes_that_have_a_token(tokens: list[bytes | None], backend: Any) -> None:
    """Of a token such as `<0x41>` and one that writes the same, only the latter: the tokenizer itself makes no other."""
    plain = {token for number, token in enumerate(tokens) if not _is_byte(backend.id_to_token(number))}
    for number, token in enumerate(tokens):
        if token in plain and _is_byte(backend.id_to_token(number)):
            tokens[number] = None


def _is_byte(token: str | None) -> bool:
    return token is not None and len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _byte_letters() -> dict[str, int]:
    """GPT-2's letters for bytes: those that can be printed stand for themselves, the others come behind them."""
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(0x100 + place): byte for place, byte in enumerate(others)}


def _compare(made: TextMap, tokenizer: Any) -> None:
    """Raises GrammarError where random ids do not decode as the map writes them.

    Only tokens that are UTF-8 by themselves, and whole characters of others: of bytes that are no UTF-8 decoders make what
    they like, and no text of a grammar has any.
    """
    draw = random.Random(0)
    pieces = [[number] for number, token in enumerate(made.tokens) if token and "\ufffd" not in token.decode(errors="replace")]
    encoded = [tokenizer.encode(text, add_special_tokens=False) for text in _TRICKY]
    pieces += [ids for ids in encoded if all(token < len(made.tokens) and made.tokens[token] for token in ids)]
    if not pieces:
        _refuse("no token of it writes anything")
    for _ in range(_TRIALS):
        ids = [token for piece in draw.choices(pieces, k=draw.randint(1, 12)) for token in piece]
        if made.write(ids) != tokenizer.decode(ids, skip_special_tokens=True):
            _refuse(f"the ids {ids} do not decode as its steps say")


def _refuse(why: str) -> NoReturn:
    raise GrammarError(f"this tokenizer's decoder is not understood, so no grammar can be held to: {why}")
