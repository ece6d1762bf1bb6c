"""The schemas of what an answer is to be, as OpenAI has them: `response_format`, `tools`, and calls of tools."""

import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue


class Strict(BaseModel):
    """Unknown fields are errors, and no value is taken for one of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class NamedSchema(Strict):
    """`strict` changes nothing: what a schema says is always kept to."""

    name: str = Field(pattern="^[A-Za-z0-9_-]{1,64}$")
    description: str | None = None
    schema_: dict[str, JsonValue] = Field(alias="schema")
    strict: bool | None = None


class JsonFormat(Strict):
    type: Literal["json_object"]


class SchemaFormat(Strict):
    type: Literal["json_schema"]
    json_schema: NamedSchema


class TextFormat(Strict):
    type: Literal["text"]


class Function(Strict):
    name: str = Field(pattern="^[A-Za-z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, JsonValue] = Field(default_factory=dict)
    strict: bool | None = None


class Tool(Strict):
    type: Literal["function"]
    function: Function


class FunctionName(Strict):
    name: str


class ToolChoice(Strict):
    type: Literal["function"]
    function: FunctionName


class CalledFunction(Strict):
    name: str
    arguments: str


class ToolCall(Strict):
    """A call of a tool, in a response or as a turn that is sent back; `arguments` is JSON as a string."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction

    @property
    def text(self) -> str:
        """As the model has written it."""
        return f'{{"name": {json.dumps(self.function.name)}, "arguments": {self.function.arguments}}}'
