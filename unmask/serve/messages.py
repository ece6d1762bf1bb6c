"""The schema of a chat's turns, as OpenAI has them."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from unmask.serve.formats import Strict, ToolCall

# The tag of an alternative is part of an error's path; its colon tells `errors.where` that it is no field's name.
ONE, MANY = ":one", ":many"


def one_or_many(value: Any) -> str:
    """The tag of a value that may be a list."""
    return MANY if isinstance(value, list) else ONE


# Fields of turns and their parts that do not change what the model reads.
_BESIDE = ("name", "cache_control")


def said(data: Any, always: Sequence[str]) -> Any:
    """An object without the fields that say nothing; those in `always` stay as they are."""
    if not isinstance(data, dict):
        return data
    return {
        name: value
        for name, value in data.items()
        if name in always or not (name in _BESIDE or value is None or value is False or value in ([], {}, ""))
    }


class TextPart(Strict):
    type: Literal["text"]
    text: str

    @model_validator(mode="before")
    @classmethod
    def _drop_what_says_nothing(cls, data: Any) -> Any:
        return said(data, ("type", "text"))


class Message(Strict):
    """A turn of the chat; the fields that must be null are those of a response that is sent back as a turn."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: (
        Annotated[
            Annotated[str, Tag(ONE)] | Annotated[list[TextPart], Field(fail_fast=True), Tag(MANY)],
            Discriminator(one_or_many),
        ]
        | None
    ) = None
    refusal: None = None
    annotations: None = None
    audio: None = None
    function_call: None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.content is None and not self.tool_calls:
            raise ValueError("content is missing")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only an assistant's turn has tool_calls")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise ValueError("a turn of role tool, and no other, has a tool_call_id")
        return self

    @model_validator(mode="before")
    @classmethod
    def _drop_what_says_nothing(cls, data: Any) -> Any:
        made = said(data, ("role", "content"))
        # OpenAI sends such a turn where the assistant only called tools.
        silent = isinstance(made, dict) and made.get("role") == "assistant" and made.get("content", "") is None
        silent = silent and not made.get("tool_calls")
        return {**made, "content": ""} if silent else made

    @property
    def text(self) -> str:
        if self.content is None:
            return "\n".join(call.text for call in self.tool_calls or ())
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
