"""Reading and writing events: the union of all types, their JSON, and their stored form.

`parse_event` reads any event, ignores fields it does not know and keeps unknown types as `UnknownEvent`, so
that an older reader survives a newer writer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias, get_args

from pydantic import ConfigDict, Field, TypeAdapter, model_validator
from pydantic_core import PydanticSerializationError, to_json

from streamchat.errors import InvalidInput
from streamchat.events.types import (
    ApprovalRequested,
    ApprovalResolved,
    Cancelled,
    CustomEvent,
    ErrorEvent,
    Event,
    FileEvent,
    Finalized,
    JobResult,
    MessageCompleted,
    ModelCompleted,
    ReasoningDelta,
    RefusalDelta,
    RunResumed,
    RunStarted,
    SourceEvent,
    StatusEvent,
    StepFinished,
    StepReset,
    StepStarted,
    Suspended,
    TextDelta,
    ToolCallDelta,
    ToolCallEvent,
    ToolProgress,
    ToolResult,
    ToolStarted,
)

__all__ = [
    "EVENT_TYPES",
    "TERMINAL",
    "StoredEvent",
    "StreamEvent",
    "UnknownEvent",
    "dump_json",
    "encode_event",
    "parse_event",
]

_Known: TypeAlias = (
    RunStarted
    | RunResumed
    | StatusEvent
    | StepStarted
    | StepFinished
    | TextDelta
    | ReasoningDelta
    | RefusalDelta
    | SourceEvent
    | FileEvent
    | ToolCallDelta
    | ToolCallEvent
    | ModelCompleted
    | StepReset
    | ApprovalRequested
    | ApprovalResolved
    | ToolStarted
    | ToolProgress
    | ToolResult
    | JobResult
    | Suspended
    | CustomEvent
    | ErrorEvent
    | Cancelled
    | MessageCompleted
    | Finalized
)

EVENT_TYPES: Mapping[str, type[Event]] = {cls.model_fields["type"].default: cls for cls in get_args(_Known)}
"""Every event class by its ``type``, in the order of the design's table."""

TERMINAL = "finalized"
"""The type of the event after which a log is over."""


class UnknownEvent(Event):
    """An event of a type that this version does not know, with all its fields."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str

    @model_validator(mode="after")
    def _refuse_known_types(self) -> UnknownEvent:
        # Without this, a malformed known event would pass as an unknown one.
        if self.type in EVENT_TYPES:
            raise ValueError(f"type {self.type!r} is known: use {EVENT_TYPES[self.type].__name__}")
        return self


StreamEvent: TypeAlias = Annotated[
    Annotated[_Known, Field(discriminator="type")] | UnknownEvent, Field(union_mode="left_to_right")
]
"""Any event: a union discriminated by ``type``."""

_KNOWN: TypeAdapter[_Known] = TypeAdapter(Annotated[_Known, Field(discriminator="type")])


def parse_event(data: bytes | str | Mapping[str, Any], private: bytes | str | None = None) -> StreamEvent:
    """Read one event from its JSON (or the mapping that this decodes to), and its private fields from theirs.

    A ``private`` among the public fields is ignored. Raises ``ValueError``: pydantic's ``ValidationError``
    when a known type's fields do not fit or there is no ``type``, ``JSONDecodeError`` for what is not JSON.
    """
    fields: Any = json.loads(data) if isinstance(data, bytes | str) else dict(data)
    if isinstance(fields, dict):
        # Only what was stored as private may come back as private.
        fields["private"] = None if private is None else json.loads(private)
        kind = fields.get("type")
        if not isinstance(kind, str) or kind not in EVENT_TYPES:
            return UnknownEvent.model_validate(fields)
    return _KNOWN.validate_python(fields)


def encode_event(event: StreamEvent) -> tuple[bytes, bytes | None]:
    """Return the JSON of an event's public fields (``type`` among them) and that of its private ones.

    Fields that are None are left out, but kept in an `UnknownEvent`, whose fields this version cannot judge.
    What JSON cannot carry is replaced: a lone surrogate by U+FFFD, NaN and the infinities by null. Raises
    `InvalidInput` where a field that takes any value holds something that is not JSON.
    """
    known = event.type in EVENT_TYPES
    try:
        data = event.__pydantic_serializer__.to_json(event, exclude_none=known)
        return data, None if event.private is None else _dump(event.private)
    except PydanticSerializationError:
        pass
    try:
        data = _dump(_scrubbed(event.model_dump(exclude_none=known)))
        return data, None if event.private is None else _dump(_scrubbed(event.private))
    except PydanticSerializationError as error:
        raise InvalidInput(f"{event.type} holds a value that is not JSON: {error}: {event!r:.300}") from None


def dump_json(value: Any) -> bytes:
    """Return the JSON of a value, with what JSON cannot carry replaced as in `encode_event`.

    Raises `InvalidInput` for what is no JSON value.
    """
    try:
        return _dump(value)
    except PydanticSerializationError:
        pass
    try:
        return _dump(_scrubbed(value))
    except PydanticSerializationError as error:
        raise InvalidInput(f"not a JSON value: {error}: {value!r:.300}") from None


def _dump(value: Any) -> bytes:
    return to_json(value, inf_nan_mode="null")


def _scrubbed(value: Any) -> Any:
    """Return ``value`` without lone surrogates; two halves that stand side by side become their character."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, Mapping):
        return {_scrubbed(key): _scrubbed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_scrubbed(item) for item in value]
    return value


class StoredEvent:
    """One entry of a run's log: an event with its place ``seq`` (1, 2, 3, …), time and generation.

    ``at`` is milliseconds since the epoch, ``generation`` the random token of the holder that wrote it; the
    id on the wire is ``generation.seq``. The event's public JSON is kept as ``data`` (bytes, without ``seq``
    and ``at``), so that a reader who only passes bytes on never pays for decoding; ``event`` decodes on first
    use.
    """

    __slots__ = ("_event", "at", "data", "generation", "private", "seq", "type")

    def __init__(
        self,
        seq: int,
        at: int,
        event: StreamEvent | None = None,
        generation: str = "",
        *,
        type: str = "",
        data: bytes = b"",
        private: bytes | None = None,
    ) -> None:
        self.seq = seq
        self.at = at
        self.generation = generation
        self._event = event
        if event is not None and not data:
            data, private = encode_event(event)
        self.type = type or (event.type if event is not None else "")
        self.data = data
        self.private = private

    @property
    def event(self) -> StreamEvent:
        """The typed event, private fields included."""
        if self._event is None:
            self._event = parse_event(self.data, self.private)
        return self._event

    @property
    def id(self) -> str:
        """The id on the wire, ``generation.seq``: a cursor for whoever has read this far."""
        return f"{self.generation}.{self.seq}"

    def public_json(self) -> bytes:
        """Return what goes on the wire, one JSON object: public fields, ``type``, ``seq`` and ``at``."""
        return b'%b,"seq":%d,"at":%d}' % (self.data[:-1], self.seq, self.at)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StoredEvent):
            return NotImplemented
        return (self.seq, self.at, self.generation, self.data, self.private) == (
            other.seq,
            other.at,
            other.generation,
            other.data,
            other.private,
        )

    def __hash__(self) -> int:
        return hash((self.generation, self.seq))

    def __repr__(self) -> str:
        return f"StoredEvent({self.id}, at={self.at}, {self.data[:200]!r})"
