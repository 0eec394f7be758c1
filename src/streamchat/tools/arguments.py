"""The arguments of one tool: described to the model as a JSON Schema, checked by the function's types."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, NotRequired, Required, get_args, get_origin

from pydantic import AliasChoices, AliasPath, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, SchemaError
from typing_extensions import TypedDict

from streamchat.core.jsontext import encode_json, scrub
from streamchat.errors import InvalidInput, ToolDefinitionError
from streamchat.tools.jsonschema import Schema, drop_default_nulls, tidy
from streamchat.tools.output import OutputUnusable, json_value
from streamchat.tools.signature import Parameter

__all__ = ["ArgumentsInvalid", "ArgumentsValidator"]

logger = logging.getLogger("streamchat.tools")

_LONGEST_ECHO = 80  # characters of a wrong value that are quoted back
_MOST_LINES = 20


class ArgumentsInvalid(InvalidInput):
    """A call's arguments do not fit; the text is for the model: each field, what came, what is wanted."""

    code = "invalid_arguments"


class ArgumentsValidator:
    """Made once for each tool from the parameters that the model fills.

    ``schema`` is the tidied JSON Schema. Raises `ToolDefinitionError` for a type that has none.
    """

    def __init__(self, tool: str, parameters: tuple[Parameter, ...], descriptions: Mapping[str, str]) -> None:
        self._tool = tool
        fields = {p.name: _annotated(p, descriptions.get(p.name), tool) for p in parameters}
        self._adapter = _adapter(tool, parameters, fields)
        schema = self._adapter.json_schema()
        for parameter in parameters:
            _note_default(schema["properties"][_key(fields[parameter.name]) or parameter.name], parameter)
        schema.pop("description", None)
        schema.setdefault("properties", {})
        self.schema: Schema = {**tidy(schema), "additionalProperties": False}
        self._defs: dict[str, Schema] = self.schema.get("$defs", {})

    def validate(self, arguments: Mapping[str, Any], context: Any = None) -> dict[str, Any]:
        """Return the values by parameter name, what was left out not among them. Raises `ArgumentsInvalid`.

        Values are taken as JSON and read leniently (``"3"`` is an integer where one is wanted). ``context``
        is what validators see as ``info.context``.
        """
        if not isinstance(arguments, Mapping):
            raise ArgumentsInvalid(
                f"The arguments of {self._tool} must be a JSON object, not {_echo(arguments)}."
            )
        try:
            given = drop_default_nulls(scrub(dict(arguments)), self.schema, self._defs)
            validated: dict[str, Any] = self._adapter.validate_json(encode_json(given), context=context)
        except ValidationError as error:
            found = error.errors(include_url=False)
            field = ".".join(str(part) for part in found[0]["loc"])[:200] or None
            raise ArgumentsInvalid(self._explain(found), field=field) from error
        except Exception as error:
            # A validator of the application's failed, or the nesting has no end: the run must not.
            logger.warning("the arguments of tool %s could not be checked", self._tool, exc_info=error)
            raise ArgumentsInvalid(
                f"The arguments of {self._tool} could not be checked ({type(error).__name__})."
            ) from error
        return validated

    def _explain(self, errors: list[ErrorDetails]) -> str:
        lines = [self._line(error) for error in errors[:_MOST_LINES]]
        if len(errors) > _MOST_LINES:
            lines.append(f"- and {len(errors) - _MOST_LINES} more")
        return "\n".join([f"The arguments of {self._tool} do not fit; it was not called:", *lines])

    def _line(self, error: ErrorDetails) -> str:
        where = ".".join(str(part) for part in error["loc"]) or "arguments"
        if error["type"] == "missing":
            return f"- {where}: is missing"
        if error["type"] == "extra_forbidden" and len(error["loc"]) == 1:
            takes = ", ".join(self.schema["properties"]) or "none"
            return f"- {where}: there is no such parameter (there are: {takes})"
        wanted = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
        return f"- {where}: {wanted}; received {_echo(error['input'])}"


def _annotated(parameter: Parameter, description: str | None, tool: str) -> Any:
    """The parameter's type with what its default and the docstring add to it."""
    base, *metadata = (
        get_args(parameter.annotation)
        if get_origin(parameter.annotation) is Annotated
        else [parameter.annotation]
    )
    if isinstance(parameter.default, FieldInfo):
        metadata.append(parameter.default)
    for entry in metadata:
        if isinstance(entry, FieldInfo) and isinstance(entry.validation_alias, AliasPath | AliasChoices):
            raise ToolDefinitionError(
                f"tool {tool!r}: parameter {parameter.name!r} has an alias that is a path or a choice; "
                "a model can be told one plain name"
            )
    if description:
        metadata.insert(0, Field(description=description))  # what the code itself says comes later, and wins
    return Annotated[(base, *metadata)] if metadata else base


def _key(annotation: Any) -> str | None:
    """The alias under which the model knows a parameter."""
    if get_origin(annotation) is not Annotated:
        return None
    found = None
    for entry in get_args(annotation)[1:]:
        if isinstance(entry, FieldInfo):
            alias = entry.validation_alias or entry.alias
            found = alias if isinstance(alias, str) else found
    return found


def _is_required(parameter: Parameter, annotation: Any) -> bool:
    if parameter.default is not inspect.Parameter.empty and not isinstance(parameter.default, FieldInfo):
        return False
    said = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    return all(entry.is_required() for entry in said if isinstance(entry, FieldInfo))


def _adapter(tool: str, parameters: Sequence[Parameter], fields: Mapping[str, Any]) -> TypeAdapter[Any]:
    """The validator of all parameters together; where there is none, the error names the one to blame."""
    try:
        return _build(parameters, fields)
    except _NO_SCHEMA as error:
        failure: Exception = error
    name, annotation = "", None
    for parameter in parameters:
        try:
            _build([parameter], fields)
        except _NO_SCHEMA as error:
            failure, name, annotation = error, parameter.name, parameter.annotation
            break
    reason = str(failure).split("\n\nFor further information", 1)[0].strip()
    raise ToolDefinitionError(
        f"tool {tool!r}: the type of parameter {name!r} is none that a model can be told of "
        f"({annotation!r}): {reason}"
    ) from failure


_NO_SCHEMA = (PydanticUserError, PydanticUndefinedAnnotation, SchemaError, NameError, TypeError)


def _build(parameters: Sequence[Parameter], fields: Mapping[str, Any]) -> TypeAdapter[Any]:
    # A TypedDict, because its keys may have any name: a model's fields may not be called schema, copy or _x.
    keys = {
        p.name: Required[fields[p.name]] if _is_required(p, fields[p.name]) else NotRequired[fields[p.name]]
        for p in parameters
    }
    kind = TypedDict("Arguments", keys)  # type: ignore[misc]
    kind.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[attr-defined]
    adapter = TypeAdapter(kind)
    adapter.json_schema()
    return adapter


def _note_default(schema: Schema, parameter: Parameter) -> None:
    if parameter.default is inspect.Parameter.empty or isinstance(parameter.default, FieldInfo):
        return
    with suppress(OutputUnusable):  # it stays optional; the model is not told what it is
        schema.setdefault("default", json_value(parameter.default))


def _echo(value: Any) -> str:
    try:
        text = encode_json(value)
    except (TypeError, ValueError, RecursionError):
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= _LONGEST_ECHO else f"{text[:_LONGEST_ECHO]}… ({len(text)} characters)"
