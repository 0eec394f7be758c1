"""What the endpoints answer with, as types: for the OpenAPI description, and for whoever writes a client.

The handlers build these answers by hand (a log is handed through as stored bytes); `tests/http` holds each
answer against its type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, Union

from pydantic import BaseModel, ConfigDict, Field, RootModel, create_model

from streamchat.core.state import RunState
from streamchat.events import EVENT_TYPES, Event, Wait
from streamchat.messages import ContentPart, Usage

__all__ = [
    "WIRE_EVENTS",
    "AnswerAccepted",
    "CancelAccepted",
    "Connected",
    "Conversation",
    "Conversations",
    "EnqueuedRuns",
    "ErrorAnswer",
    "EventsPage",
    "Health",
    "HistoryReset",
    "JobAccepted",
    "Message",
    "Messages",
    "RunAnswer",
    "RunPresence",
    "RunStartedAnswer",
    "StreamedEvent",
]

RunStatusName: TypeAlias = Literal["queued", "running", "suspended", "success", "error", "cancelled"]
Milliseconds: TypeAlias = Annotated[int, Field(description="Milliseconds since the epoch.")]
Seconds: TypeAlias = Annotated[float, Field(description="Seconds.")]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="allow")


class RunStartedAnswer(_Answer):
    """A run that was made durable; ``stream_url`` is a path on this server. ``enqueued`` is there, and true,
    where others of the conversation come first."""

    run_id: str
    message_id: str
    conversation_id: str
    stream_url: str
    enqueued: bool = False


class StepTimings(_Answer):
    """How long one step took."""

    step: int
    duration: Seconds | None = None
    time_to_first_token: Seconds | None = None


class Timings(_Answer):
    """When a run began, spoke and ended."""

    started_at: Milliseconds | None = None
    first_token_at: Milliseconds | None = None
    ended_at: Milliseconds | None = None
    duration: Seconds | None = None
    steps: list[StepTimings]


class AnswerMessage(_Answer):
    """The assistant's message as far as it has come."""

    content: list[ContentPart]
    finish_reason: str | None = None


class RunAnswer(_Answer):
    """What a run's log amounts to; ``cursor`` is the id of the last event that is part of it.

    ``output`` is the answer's object where the run has an output type.
    """

    run_id: str
    conversation_id: str
    message_id: str
    parent_run_id: str | None = None
    status: RunStatusName
    cursor: str
    waits: list[Wait]
    usage: Usage | None = None
    timings: Timings
    error: dict[str, Any] | None = None
    message: AnswerMessage
    output: Any = None


class CancelAccepted(_Answer):
    """The cancel was posted; it takes effect wherever the run is worked on."""

    run_id: str


class AnswerAccepted(_Answer):
    """The answer was stored; the run takes it wherever it is worked on."""

    run_id: str


class JobAccepted(_Answer):
    """The job's result was stored; the run takes it wherever it is worked on."""

    job_id: str


class Connected(_Answer):
    """Somebody who reads the run; ``last_event_id`` is the last id that they were sent."""

    client_id: str | None
    principal: str | None
    since: Milliseconds
    last_event_id: str


class RunPresence(_Answer):
    """Who is connected to a run, longest first."""

    run_id: str
    clients: list[Connected]


class Conversation(_Answer):
    """A conversation of the principal's own."""

    id: str
    title: str | None
    updated_at: Milliseconds
    active_run_id: str | None


class Conversations(_Answer):
    """A page of conversations, most recently changed first; ``next`` is the next page's ``after``."""

    conversations: list[Conversation]
    next: str | None


class Message(_Answer):
    """A message of a conversation."""

    id: str
    role: Literal["user", "assistant", "system"]
    status: Literal["pending", "complete", "error", "cancelled"]
    kind: str
    run_id: str | None
    parent_id: str | None
    created_at: Milliseconds
    content: list[dict[str, Any]]


class Messages(_Answer):
    """A page of messages in the order in which they were written; ``next`` is the next page's ``after``."""

    messages: list[Message]
    next: str | None


class EnqueuedRun(_Answer):
    """A run that others of its conversation come before; ``message_id`` is its answer's."""

    run_id: str
    message_id: str
    created_at: Milliseconds


class EnqueuedRuns(_Answer):
    """What waits in a conversation, the next one first."""

    runs: list[EnqueuedRun]


class Health(_Answer):
    """What a process says of itself."""

    status: Literal["live", "ready", "draining"]


class ErrorDetail(_Answer):
    """What was wrong; the correlation id leads to the server's log."""

    code: str
    message: str
    correlation_id: str
    field: str | None = None


class ErrorAnswer(_Answer):
    """Every answer that is not a success has this body."""

    error: ErrorDetail


class HistoryReset(_Answer):
    """Sent in a stream whose cursor cannot be continued: replace all that was folded by ``snapshot``."""

    type: Literal["history_reset"]
    reason: str
    first_seq: int
    last_seq: int
    snapshot: RunState


def _on_the_wire(kind: type[Event]) -> type[Event]:
    """Return an event type as clients see it: with its place in the log, and the time at which it was
    stored."""
    place: dict[str, Any] = {
        "type": (kind.model_fields["type"].annotation, ...),
        "seq": (int, Field(ge=1, description="Its place in the log, without gaps.")),
        "at": (Milliseconds, ...),
    }
    # A name of its own: parts of a run's state have the other.
    return create_model(
        f"Streamed{kind.__name__}", __base__=kind, __doc__=kind.__doc__, __module__=__name__, **place
    )


WIRE_EVENTS: tuple[type[BaseModel], ...] = (*map(_on_the_wire, EVENT_TYPES.values()), HistoryReset)
"""All that a stream may bring, in the order of the events' table; clients ignore what they do not know."""

if TYPE_CHECKING:
    StreamedEvent: TypeAlias = RootModel[Any]
else:

    class StreamedEvent(RootModel[Annotated[Union[WIRE_EVENTS], Field(discriminator="type")]]):  # noqa: UP007
        """The ``data`` of one frame of a stream, and one entry of a page of the log."""


class EventsPage(_Answer):
    """A page of a log; ``next`` is the next page's ``after``, null once the terminal event was given."""

    events: list[StreamedEvent]
    next: int | None
    first_seq: int
    last_seq: int
