"""What a request's answer is to be: `response_format`, `tools`, `diffusion.regex` or `diffusion.choice`, one at a time."""

import json
import secrets
from collections.abc import Iterator
from typing import Any

from unmask.errors import RequestError
from unmask.grammar.language import Language, choice, json_object, json_schema, regex, tools
from unmask.grammar.schema import DEPTH
from unmask.serve.formats import CalledFunction, JsonFormat, SchemaFormat, ToolCall, ToolChoice
from unmask.serve.protocol import Body, ChatRequest


def language(body: Body) -> Language | None:
    """The language of a body's answers; None: any text. Raises GrammarError, and RequestError where two are asked for."""
    asked, depth = body.diffusion, body.diffusion.depth or DEPTH
    found: dict[str, Language] = {}
    if asked.regex is not None:
        found["diffusion.regex"] = regex(asked.regex)
    if asked.choice is not None:
        found["diffusion.choice"] = choice(asked.choice)
    if isinstance(body, ChatRequest):
        form = body.response_format
        if isinstance(form, JsonFormat):
            found["response_format"] = json_object(depth=depth)
        elif isinstance(form, SchemaFormat):
            found["response_format"] = json_schema(form.json_schema.schema_, depth=depth)
        if calls_tools(body):
            found["tools"] = _tools(body, depth)
        elif body.tool_choice is not None:
            raise RequestError("tool_choice needs tools")
    if len(found) > 1:
        raise RequestError(f"{' and '.join(found)}: an answer can be held to one of them")
    if asked.depth is not None and not {"response_format", "tools"} & set(found):
        raise RequestError("diffusion.depth means nothing without response_format or tools: leave it out")
    return next(iter(found.values()), None)


def calls_tools(body: Body) -> bool:
    """Whether an answer may be the call of a tool."""
    return isinstance(body, ChatRequest) and bool(body.tools) and body.tool_choice != "none"


def _tools(body: ChatRequest, depth: int) -> Language:
    schemas = {
        tool.function.name: tool.function.parameters or {"type": "object", "properties": {}} for tool in body.tools or ()
    }
    chosen = body.tool_choice
    if isinstance(chosen, ToolChoice):
        if chosen.function.name not in schemas:
            raise RequestError(f"tool_choice: there is no tool {chosen.function.name!r}; known: {', '.join(schemas)}")
        schemas = {chosen.function.name: schemas[chosen.function.name]}
    return tools(schemas, free=chosen in (None, "auto"), depth=depth)


def called(text: str) -> ToolCall | None:
    """The call that an answer to a request with tools is; None where it is a text.

    >>> called('{"name": "add", "arguments": {"a": 1}}').function.arguments
    '{"a": 1}'
    """
    if not text.startswith("{"):
        return None
    made: dict[str, Any] = json.loads(text)
    arguments = json.dumps(made["arguments"], ensure_ascii=False)
    return ToolCall(id=f"call_{secrets.token_hex(12)}", function=CalledFunction(name=made["name"], arguments=arguments))


class CallStream:
    """An answer to a request with tools as it comes: text is passed on, and a call is kept until it is whole."""

    def __init__(self) -> None:
        self._text = ""

    def text(self, fresh: str) -> str:
        """What of the new text can be sent."""
        self._text += fresh
        return "" if self._text.startswith("{") else fresh

    def deltas(self) -> Iterator[dict[str, Any]]:
        """At the end: the call, if it was one."""
        call = called(self._text)
        if call is not None:
            yield {"tool_calls": [{"index": 0, **call.model_dump()}]}
