"""How a model is asked: what stands around and before a text on its way to token ids (engine/prompt.py)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class Prompting:
    """The choice for a model; both as `unmask.load` takes them.

    Attributes:
        chat_template: a text becomes the user's turn of a chat, where the tokenizer has a template. A base model is asked
            without.
        add_bos: every prompt begins with the tokenizer's BOS token, once.
    """

    chat_template: bool = True
    add_bos: bool = False

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Self:
        """What `to_dict` has told, among whatever else.

        >>> Prompting.of({"model": "unmask-tiny", "add_bos": True})
        Prompting(chat_template=True, add_bos=True)
        """
        return cls(chat_template=told.get("chat_template", True), add_bos=told.get("add_bos", False))

    def to_dict(self) -> dict[str, bool]:
        """What is not usual: files that were made as usual say nothing of it.

        >>> Prompting().to_dict(), Prompting(chat_template=False).to_dict()
        ({}, {'chat_template': False})
        """
        return {name: value for name, value in asdict(self).items() if value != getattr(type(self), name)}
