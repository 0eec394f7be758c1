"""Tools that a client declares for one run and carries out itself: a name, a text and a JSON Schema.

They come from outside, so nothing of them is trusted but that the client may be asked: arguments are an
object and are not judged by the schema, which is shown to the model only; results are what the client says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streamchat.core.given import check_json
from streamchat.errors import InvalidInput
from streamchat.tools.arguments import ArgumentsInvalid, ArgumentsValidator
from streamchat.tools.definition import Tool
from streamchat.tools.registry import ToolRegistry
from streamchat.tools.schema import ToolSchema
from streamchat.tools.signature import Signature

__all__ = ["ClientTool", "check_client_tools", "with_client_tools"]

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_MOST = 64
_MOST_BYTES = 64 * 1024


class ClientTool(BaseModel):
    """A tool of the client's own, stored with the run; ``parameters`` is the JSON Schema of an object."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object", "properties": {}})


class _AnyObject(ArgumentsValidator):
    """Takes any object: whose schema it is, judges it."""

    def __init__(self, tool: str, schema: dict[str, Any]) -> None:
        self._tool = tool
        self.schema = schema

    def validate(self, arguments: Mapping[str, Any], context: Any = None) -> dict[str, Any]:
        if not isinstance(arguments, Mapping):
            raise ArgumentsInvalid(f"The arguments of {self._tool} must be a JSON object.")
        return dict(arguments)


def check_client_tools(
    tools: Iterable[ClientTool | Mapping[str, Any]], taken: Collection[str]
) -> tuple[ClientTool, ...]:
    """Return them, read from mappings of the same fields; ``taken`` are the application's tools' names.

    Raises `InvalidInput` (field ``tools``) for more than 64 of them or 64 KiB, for a name that is none or
    stands for something else, and for parameters that are not those of an object.
    """
    try:
        checked = tuple(ClientTool.model_validate(tool) for tool in tools)
        check_json("tools", [tool.parameters for tool in checked])
    except ValidationError as error:
        raise InvalidInput(f"a tool has name, description and parameters: {error}", field="tools") from error
    if len(checked) > _MOST or len(json.dumps([tool.model_dump() for tool in checked])) > _MOST_BYTES:
        raise InvalidInput(
            f"a client may declare {_MOST} tools and {_MOST_BYTES} bytes of them", field="tools"
        )
    names = set(taken)
    for position, tool in enumerate(checked):
        where = f"tools.{position}"
        if not _NAME.fullmatch(tool.name):
            raise InvalidInput(
                f"a tool's name has 1 to 64 letters, digits, _ or -, not {tool.name[:80]!r}", field=where
            )
        if tool.name in names:
            raise InvalidInput(f"the name {tool.name!r} is taken by another tool", field=where)
        if tool.parameters.get("type", "object") != "object":
            raise InvalidInput(f"the parameters of {tool.name!r} must be those of an object", field=where)
        names.add(tool.name)
    return checked


def with_client_tools(tools: ToolRegistry, declared: Iterable[ClientTool]) -> ToolRegistry:
    """Return the application's tools and the client's; the application's keeps a name that is in both."""
    both = [*tools, *(_tool(tool) for tool in declared if tool.name not in tools)]
    return ToolRegistry(both) if len(both) > len(tools) else tools


def _tool(declared: ClientTool) -> Tool:
    parameters = {"type": "object", **declared.parameters}
    return Tool(
        name=declared.name,
        description=declared.description,
        schema=ToolSchema(declared.name, declared.description, parameters),
        function=_elsewhere,
        kind="coroutine",
        signature=Signature((), Any),
        plain=parameters,
        returns=Any,
        client_side=True,
        _validator=_AnyObject(declared.name, parameters),
    )


async def _elsewhere() -> None:
    raise NotImplementedError("the client carries it out")
