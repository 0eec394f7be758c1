"""What a function's signature says: what a model fills in, what gets the context, and the types."""

from __future__ import annotations

import functools
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from streamchat.errors import ToolDefinitionError
from streamchat.tools.context import ToolContext

__all__ = ["BoundArguments", "Parameter", "Signature", "innermost", "positional_count", "read_signature"]

_EMPTY = inspect.Parameter.empty
_CONTEXT_IN_TEXT = re.compile(r"(?:\w+\.)*ToolContext\b")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of the function. ``default`` is ``inspect.Parameter.empty`` where there is none."""

    name: str
    annotation: Any
    default: Any
    positional: bool
    is_context: bool


@dataclass(frozen=True, slots=True)
class BoundArguments:
    """What to call the function with."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Signature:
    """The parameters in order, and the annotated return type (``Any`` where none resolves)."""

    parameters: tuple[Parameter, ...]
    returns: Any

    @property
    def visible(self) -> tuple[Parameter, ...]:
        """The parameters that the model fills."""
        return tuple(parameter for parameter in self.parameters if not parameter.is_context)

    def bind(self, values: dict[str, Any], context: ToolContext[Any]) -> BoundArguments:
        """Put validated values and the context where the function takes them; defaults fill the rest."""
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for parameter in self.parameters:
            if parameter.is_context:
                value: Any = context
            elif parameter.name in values:
                value = values[parameter.name]
            elif parameter.positional:
                value = parameter.default
            else:
                continue
            if parameter.positional:
                args.append(value)
            else:
                kwargs[parameter.name] = value
        return BoundArguments(tuple(args), kwargs)


def read_signature(function: Callable[..., Any], tool: str) -> Signature:
    """Read a function, method, ``functools.partial`` or callable object. Raises `ToolDefinitionError`."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise ToolDefinitionError(f"tool {tool!r}: {function!r} has no signature to read: {error}") from error
    # What a partial has bound by name is the application's business, and may be a secret.
    hidden = _bound_by_name(function)
    source = innermost(function)
    parameters = tuple(
        _parameter(parameter, source, tool)
        for parameter in signature.parameters.values()
        if parameter.name not in hidden
    )
    try:
        returns = _evaluate("return", signature.return_annotation, source)
    except Exception:  # it is only documentation
        returns = Any
    return Signature(parameters, Any if returns is _EMPTY else returns)


def innermost(function: Any) -> Any:
    """The plain function under partials, bound methods, callable objects and wrapping decorators."""
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif isinstance(function, types.MethodType):
            function = function.__func__
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif not hasattr(function, "__code__") and not isinstance(function, type):
            call = type(function).__dict__.get("__call__", type(function).__call__)
            if not hasattr(call, "__code__"):
                return function
            function = call
        else:
            return function


def positional_count(function: Any) -> int:
    """How many values a callable takes by position; 0 for what cannot be called."""
    if not callable(function):
        return 0
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(parameter.kind in kinds for parameter in inspect.signature(function).parameters.values())


def _bound_by_name(function: Any) -> set[str]:
    names: set[str] = set()
    while isinstance(function, functools.partial):
        names |= function.keywords.keys()
        function = function.func
    return names


def _parameter(parameter: inspect.Parameter, source: Any, tool: str) -> Parameter:
    name = parameter.name
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**"
        raise ToolDefinitionError(
            f"tool {tool!r}: {stars}{name} cannot be described to a model; name each parameter"
        )
    if parameter.annotation is _EMPTY:
        remedy = (
            "register the method of an instance" if name in ("self", "cls") else f"write {name}: str, say"
        )
        raise ToolDefinitionError(f"tool {tool!r}: parameter {name!r} has no type; {remedy}")
    try:
        annotation = _evaluate(name, parameter.annotation, source)
    except Exception as error:
        if isinstance(parameter.annotation, str) and _CONTEXT_IN_TEXT.match(parameter.annotation):
            annotation = ToolContext  # imported for type checkers only
        else:
            raise ToolDefinitionError(
                f"tool {tool!r}: the type {parameter.annotation!r} of parameter {name!r} cannot be resolved "
                f"({type(error).__name__}: {error}); import it at run time, where the function is defined"
            ) from error
    return Parameter(
        name,
        annotation,
        parameter.default,
        positional=parameter.kind is parameter.POSITIONAL_ONLY,
        is_context=_is_context(annotation),
    )


def _is_context(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _is_context(get_args(annotation)[0])
    if origin is Union or origin is types.UnionType:
        return any(_is_context(member) for member in get_args(annotation))
    kind = origin or annotation
    return isinstance(kind, type) and issubclass(kind, ToolContext)


def _evaluate(name: str, annotation: Any, source: Any) -> Any:
    """The type that an annotation means, if it is text; types inside of it that are text are resolved too."""
    if annotation is _EMPTY:
        return annotation
    holder = types.SimpleNamespace(__annotations__={name: annotation})
    hints = typing.get_type_hints(
        holder, getattr(source, "__globals__", {}), _enclosing_names(source), include_extras=True
    )
    return hints[name]


def _enclosing_names(source: Any) -> dict[str, Any]:
    """The names in the functions and classes around a definition, as far as they are still running.

    Annotations that are text may name a type that is local to one of them.
    """
    scopes = set(_scopes(getattr(source, "__qualname__", "")))
    names: dict[str, Any] = {}
    frame = sys._getframe(1) if scopes else None
    while frame is not None:
        if frame.f_globals is getattr(source, "__globals__", None) and frame.f_code.co_qualname in scopes:
            names = {**frame.f_locals, **names}
        frame = frame.f_back
    return names


def _scopes(qualname: str) -> list[str]:
    """The qualified names of what encloses ``a.<locals>.B.method``: ``a`` and ``a.<locals>.B``."""
    parts = qualname.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts)) if parts[end - 1] != "<locals>"]
