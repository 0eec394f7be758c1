"""What a client may send over a WebSocket: typed messages, and the reader that says which field was wrong."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, RootModel, StringConstraints

from streamchat.http.bodies import ApprovalBody, Name, StartBody, ToolResultBody, parse_body

__all__ = [
    "Approve",
    "Attach",
    "Cancel",
    "Detach",
    "Incoming",
    "Start",
    "SubmitToolResult",
    "read_message",
]

Ref: TypeAlias = Annotated[str, StringConstraints(max_length=100)]


class _Asked(BaseModel):
    """``ref`` comes back with the answer."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    ref: Ref | None = None


class Start(StartBody):
    """Starts a run and streams it, as ``POST /runs/stream`` does."""

    type: Literal["start"]
    ref: Ref | None = None
    idempotency_key: Annotated[str, StringConstraints(pattern=r"^[ -~]{1,255}$")] | None = None


class Attach(_Asked):
    """Streams a run from a cursor, as ``GET /runs/{id}/stream`` does."""

    type: Literal["attach"]
    run_id: Name
    last_event_id: Name | None = None


class Detach(_Asked):
    """Ends the streaming of a run on this connection."""

    type: Literal["detach"]
    run_id: Name


class Cancel(_Asked):
    """Asks a run to stop."""

    type: Literal["cancel"]
    run_id: Name
    reason: Annotated[str, StringConstraints(max_length=1000)] | None = None


class Approve(ApprovalBody):
    """A decision on a call of a run."""

    type: Literal["approval"]
    ref: Ref | None = None
    run_id: Name


class SubmitToolResult(ToolResultBody):
    """What a tool of the page came to."""

    type: Literal["tool_result"]
    ref: Ref | None = None
    run_id: Name


Incoming: TypeAlias = Start | Attach | Detach | Cancel | Approve | SubmitToolResult


class _Message(RootModel[Annotated[Incoming, Field(discriminator="type")]]):
    pass


def read_message(data: bytes) -> Incoming:
    """Read one message. Raises `HTTPError` 422 as bodies do."""
    return parse_body(data, _Message).root
