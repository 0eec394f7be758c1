"""The result of a call that somebody else carries out: checked by the type that the tool declares."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic_core import SchemaError

from streamchat.core.jsontext import encode_json, scrub
from streamchat.errors import InvalidInput, ToolDefinitionError
from streamchat.tools.output import json_value

__all__ = ["ResultInvalid", "ResultValidator"]

_MOST_LINES = 20


class ResultInvalid(InvalidInput):
    """What came as a call's result does not fit the type that the tool declares; the text says where."""

    code = "invalid_result"


class ResultValidator:
    """Made once for a tool; raises `ToolDefinitionError` for a type that cannot be checked."""

    def __init__(self, tool: str, kind: Any) -> None:
        self._tool = tool
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(kind)
        except (PydanticUserError, PydanticUndefinedAnnotation, SchemaError, NameError, TypeError) as error:
            raise ToolDefinitionError(
                f"tool {tool!r}: the type of its result, {kind!r}, is none that can be checked; "
                "give another with result_type=…"
            ) from error

    def validate(self, output: Any) -> Any:
        """Return ``output`` (JSON) as JSON of the declared type. Raises `ResultInvalid`.

        Values are read leniently, as those of arguments are.
        """
        try:
            value = self._adapter.validate_json(encode_json(scrub(output)))
            return json_value(self._adapter.dump_python(value, mode="json"))
        except ValidationError as error:
            lines = [
                f"- {'.'.join(str(part) for part in problem['loc']) or 'output'}: {problem['msg']}"
                for problem in error.errors(include_url=False, include_input=False)[:_MOST_LINES]
            ]
            text = "\n".join([f"The result of {self._tool} does not have the declared form:", *lines])
            raise ResultInvalid(text, field="output") from error
        except Exception as error:
            text = f"The result of {self._tool} could not be checked ({type(error).__name__})."
            raise ResultInvalid(text, field="output") from error
