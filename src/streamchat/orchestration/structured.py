"""An answer of a declared type: its schema for the provider, its partial objects, its validation."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic_core import SchemaError, from_json

from streamchat.core.jsontext import encode_json, join_surrogates, scrub
from streamchat.errors import InvalidInput
from streamchat.events import CustomEvent, StoredEvent, StreamEvent
from streamchat.models.base import OutputSchema
from streamchat.tools.jsonschema import Schema, drop_default_nulls, resolve, tidy
from streamchat.tools.output import json_value
from streamchat.tools.strict import NotExpressible, strict_schema

__all__ = [
    "INVALID",
    "OUTPUT",
    "PARTIAL",
    "OutputInvalid",
    "OutputType",
    "PartialOutput",
    "newest_output",
    "output_type_of",
]

OUTPUT = "output"
PARTIAL = "output_partial"
INVALID = "output_invalid"

_MOST_LINES = 20
_NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_-]")
_NO_SCHEMA = (PydanticUserError, PydanticUndefinedAnnotation, SchemaError, NameError, TypeError)


class OutputInvalid(InvalidInput):
    """An answer is not of the declared type; the text is for the model: each field, and what is wanted."""

    code = "invalid_output"


class OutputType:
    """What is known of a type of answers. Raises `InvalidInput` for one that is no JSON object."""

    def __init__(self, kind: Any) -> None:
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(kind)
            schema = self._adapter.json_schema()
        except _NO_SCHEMA as error:
            raise _unusable(kind, str(error).partition("\n")[0]) from error
        name = getattr(kind, "__name__", None) or "output"
        self._plain: Schema = tidy(schema)
        self._defs: dict[str, Schema] = self._plain.get("$defs", {})
        # The root of a type that holds itself is a reference, which providers do not take there.
        self._plain = {**resolve(self._plain, self._defs), **({"$defs": self._defs} if self._defs else {})}
        if self._plain.get("type") != "object":
            raise _unusable(kind, "its JSON is no object")
        description = str(self._plain.pop("description", "")) or None
        try:
            written, strict = strict_schema(self._plain), True
        except NotExpressible:
            written, strict = self._plain, False
        self.schema = OutputSchema(_NOT_IN_A_NAME.sub("_", name)[:64], written, strict, description)

    def validate(self, text: str) -> Any:
        """Return the object that ``text`` holds, as JSON values. Raises `OutputInvalid`."""
        try:
            value = from_json(join_surrogates(text), allow_inf_nan=False)
        except ValueError as error:
            raise OutputInvalid(f"It is not one JSON value: {error}.") from error
        try:
            value = drop_default_nulls(scrub(value), self._plain, self._defs)
            found = self._adapter.validate_json(encode_json(value))
            return json_value(self._adapter.dump_python(found, mode="json"))
        except ValidationError as error:
            lines = [
                f"- {'.'.join(str(part) for part in problem['loc']) or 'the whole'}: {problem['msg']}"
                for problem in error.errors(include_url=False, include_input=False)[:_MOST_LINES]
            ]
            raise OutputInvalid("\n".join(lines)) from error
        except Exception as error:
            # A validator of the application's failed: the run must not.
            raise OutputInvalid(f"It could not be checked ({type(error).__name__}).") from error


def _unusable(kind: Any, reason: str) -> InvalidInput:
    text = f"output_type={kind!r:.200} cannot be asked of a model: {reason}; give a pydantic model"
    return InvalidInput(text, field="output_type")


def output_type_of(kind: Any) -> OutputType:
    """Return what is known of ``kind``, made once. Raises `InvalidInput`."""
    if not isinstance(kind, Hashable):
        raise _unusable(kind, "it is no type")
    return _output_type(kind)


@lru_cache(maxsize=256)
def _output_type(kind: Any) -> OutputType:
    return OutputType(kind)


def newest_output(events: Sequence[StoredEvent]) -> Any:
    """Return the object of a log's newest ``output`` event, as JSON values; None where there is none."""
    for stored in reversed(events):
        event = stored.event if stored.type == "custom" else None
        if isinstance(event, CustomEvent) and event.name == OUTPUT:
            return event.data
    return None


class PartialOutput:
    """The object that a step's text holds so far, told now and then.

    A delta is only counted and kept. The text is parsed when ``every`` seconds have passed and it has grown
    by a sixteenth: so all parsing, and all that is told, stays within some 17 times the text's length.
    """

    def __init__(self, every: float) -> None:
        self._every = every
        self._fragments: list[str] = []
        self._length = 0
        self._due_length = 1
        self._due_at = 0.0
        self._told: Any = None

    def clear(self) -> None:
        """Forget the text: it was withdrawn, or another step begins."""
        self._fragments, self._length, self._due_length, self._told = [], 0, 1, None

    def add(self, events: Iterable[StreamEvent]) -> int | None:
        """Take what was handed out; return the step of the newest text among it, if there was any."""
        step = None
        for event in events:
            kind = event.type
            if kind == "text_delta":
                self._fragments.append(event.text)  # type: ignore[union-attr]
                self._length += len(event.text)  # type: ignore[union-attr]
                step = event.step  # type: ignore[union-attr]
            elif kind in ("step_started", "step_reset"):
                self.clear()
        return step

    def look(self, step: int, now: float) -> CustomEvent | None:
        """Return the event for the object so far, if one is due at ``now`` (seconds) and says anything
        new."""
        if self._length < self._due_length or now < self._due_at:
            return None
        self._due_at = now + self._every
        self._due_length = self._length + 1 + self._length // 16
        text = "".join(self._fragments)
        self._fragments = [text]
        try:
            value = from_json(text, allow_inf_nan=False, allow_partial="trailing-strings")
        except (ValueError, TypeError):  # the latter for text that UTF-8 cannot carry
            return None
        if not isinstance(value, dict) or value == self._told:
            return None
        self._told = value
        return CustomEvent(step=step, name=PARTIAL, data=value)
