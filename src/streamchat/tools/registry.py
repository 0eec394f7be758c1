"""The tools of an application, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, overload

from typing_extensions import Unpack

from streamchat.errors import InvalidInput, ToolDefinitionError
from streamchat.tools.definition import Tool, ToolOptions, define_tool
from streamchat.tools.schema import ToolSchema

__all__ = ["ToolRegistry"]

F = TypeVar("F", bound=Callable[..., Any])


class ToolRegistry:
    """Tools in the order in which they were added; usually one at module level, shared by all runs.

    A name stands for one tool: adding another under it raises `ToolDefinitionError`.
    """

    def __init__(self, tools: Iterable[Tool] = ()) -> None:
        self._tools: dict[str, Tool] = {}
        for tool in tools:
            self._put(tool)

    @overload
    def tool(self, function: F, /) -> F: ...

    @overload
    def tool(self, function: None = None, /, **options: Unpack[ToolOptions]) -> Callable[[F], F]: ...

    def tool(self, function: F | None = None, /, **options: Unpack[ToolOptions]) -> F | Callable[[F], F]:
        """Register the decorated function, which stays as it is; with or without parentheses.

        The options are those of `ToolOptions`. Raises `ToolDefinitionError` at once for what cannot be a
        tool: a parameter without a type, ``*args``, a type that has no JSON Schema, a name that is taken,
        options that contradict each other.
        """
        if function is not None:
            self.add(function)
            return function

        def register(function: F) -> F:
            self.add(function, **options)
            return function

        return register

    def add(self, function: Callable[..., Any], **options: Unpack[ToolOptions]) -> Tool:
        """Register a function, bound method, ``functools.partial`` or callable object, and return its tool.

        What a partial has bound by name is hidden from the model. Raises as `tool` does.
        """
        tool = define_tool(function, options)
        self._put(tool)
        return tool

    def include(self, other: ToolRegistry) -> None:
        """Add all tools of another registry; none, and `ToolDefinitionError`, where a name is in both."""
        both = sorted(self._tools.keys() & other._tools.keys())
        if both:
            raise ToolDefinitionError(
                f"tool {both[0]!r} is in both registries; give one of them another name"
            )
        self._tools.update(other._tools)

    def __or__(self, other: ToolRegistry) -> ToolRegistry:
        """Return a new registry with the tools of both. Raises as `include` does."""
        both = ToolRegistry(self)
        both.include(other)
        return both

    def get(self, name: str) -> Tool | None:
        """Return the tool of that name, or None."""
        return self._tools.get(name)

    @property
    def names(self) -> tuple[str, ...]:
        """The tools' names, in the order in which they were added."""
        return tuple(self._tools)

    def schemas(self) -> list[ToolSchema]:
        """Return what a model is told of the tools."""
        return [tool.schema for tool in self]

    def digest(self, name: str) -> str:
        """Return the digest of that tool's name and parameters. Raises `InvalidInput` for an unknown name."""
        tool = self._tools.get(name)
        if tool is None:
            raise InvalidInput(
                f"there is no tool {name!r}; there are: {', '.join(self.names) or 'none'}", field="name"
            )
        return tool.digest()

    def __iter__(self) -> Iterator[Tool]:
        return iter(tuple(self._tools.values()))

    def __len__(self) -> int:
        return len(self._tools)

    def __contains__(self, name: object) -> bool:
        return name in self._tools

    def __repr__(self) -> str:
        return f"ToolRegistry({', '.join(self.names)})"

    def _put(self, tool: Tool) -> None:
        if tool.name in self._tools:
            raise ToolDefinitionError(
                f"tool {tool.name!r} is registered already; give one of the two another name"
            )
        self._tools[tool.name] = tool
