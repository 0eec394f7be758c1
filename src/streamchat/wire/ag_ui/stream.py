"""AG-UI as a function over an event stream, and its frames: ``data: {…}``, LF line ends, no ``[DONE]``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, Required, TypedDict, Unpack

from streamchat.core.sse import encode_comment
from streamchat.core.state import RunState
from streamchat.events import StoredEvent, StreamEvent, dump_json
from streamchat.wire.ag_ui.encoder import AGUIEncoder, Before
from streamchat.wire.ag_ui.shown import AGUIEvent
from streamchat.wire.ag_ui.state import BaseState
from streamchat.wire.native import Reset

__all__ = ["MEDIA_TYPE", "AGUINames", "AGUIWire", "ag_ui_events", "ag_ui_frame", "ag_ui_stream"]

MEDIA_TYPE = "text/event-stream"
_KEEP_ALIVE = encode_comment("keep-alive")


def ag_ui_frame(event: AGUIEvent) -> bytes:
    """Return one AG-UI event as a server-sent event."""
    return b"data: %b\n\n" % dump_json(event)


class AGUIWire:
    """An encoder as the wire of one response: ``event_response(orchestrate(…), wire=AGUIWire(encoder))``.

    It remembers what was said, so there is one for each client.
    """

    media_type = MEDIA_TYPE

    def __init__(self, encoder: AGUIEncoder) -> None:
        self._encoder = encoder

    @property
    def finished(self) -> bool:
        """Whether the response is complete."""
        return self._encoder.over

    def event(self, event: StoredEvent | StreamEvent) -> bytes:
        """Return what an event adds."""
        return b"".join(map(ag_ui_frame, self._encoder.add(event)))

    def encode(self, events: Iterable[StoredEvent | StreamEvent]) -> bytes:
        """Return what several add."""
        return b"".join(map(self.event, events))

    def reset(self, reset: Reset) -> bytes:
        """Return what a snapshot adds."""
        return b"".join(map(ag_ui_frame, self._encoder.reset(RunState.model_validate_json(reset.snapshot))))

    def begin(self, cursor: str) -> bytes:
        """A comment, for proxies that wait for a first byte: the run names itself first."""
        return _KEEP_ALIVE

    def retry(self, seconds: float) -> bytes:
        """Nothing: AG-UI's clients do not come back by themselves."""
        return b""

    def heartbeat(self) -> bytes:
        """A comment, which AG-UI's clients skip."""
        return _KEEP_ALIVE


class AGUINames(TypedDict, total=False):
    """What a response is told of its request: the arguments of `AGUIEncoder`, by name."""

    thread_id: Required[str]
    run_id: Required[str]
    before: Before
    state: BaseState
    message_id: str | None
    parent_run_id: str | None
    metadata: Mapping[str, Any] | None
    protocol_version: str | None


async def ag_ui_events(
    events: AsyncIterable[StreamEvent | StoredEvent], **named: Unpack[AGUINames]
) -> AsyncGenerator[AGUIEvent, None]:
    """Translate the events of one run, most often ``orchestrate(…)``, to its end or its suspension.

    The arguments are those of `AGUIEncoder`; ``before`` is ``RunAgentInput.messages`` where nothing better is
    known. An exception of ``events`` is raised; a stream that merely stops is ended with ``RUN_ERROR``.
    Leaving early closes ``events`` where it can be closed.
    """
    encoder = AGUIEncoder(**named)
    if isinstance(events, AsyncGenerator):
        async with aclosing(events):
            async for said in _translated(events, encoder):
                yield said
    else:
        async for said in _translated(events, encoder):
            yield said


async def _translated(
    events: AsyncIterable[StreamEvent | StoredEvent], encoder: AGUIEncoder
) -> AsyncGenerator[AGUIEvent, None]:
    async for event in events:
        for said in encoder.add(event):
            yield said
        if encoder.over:
            return
    ending = encoder.pause() if encoder.paused else encoder.break_off("incomplete", "The answer was cut off.")
    for said in ending:
        yield said


async def ag_ui_stream(
    events: AsyncIterable[StreamEvent | StoredEvent], **named: Unpack[AGUINames]
) -> AsyncGenerator[bytes, None]:
    """Return the same as `ag_ui_events`, as the bytes of a ``text/event-stream``."""
    said = ag_ui_events(events, **named)
    async with aclosing(said):
        async for event in said:
            yield ag_ui_frame(event)
