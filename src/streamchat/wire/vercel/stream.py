"""UI message chunks on a connection: frames with the cursor of the event they stand for, and the end of it.

Each event's last frame carries ``id: <generation.seq>``, which the AI SDK skips and a transport of one's own
may come back with. The body ends with ``data: [DONE]``; without it, it was cut off.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from typing import Any, Protocol

from streamchat.core.sse import encode_comment
from streamchat.core.state import RunState
from streamchat.events import StoredEvent, StreamEvent
from streamchat.wire.compact import compact, events_of
from streamchat.wire.vercel.chunks import DONE, Target, frames
from streamchat.wire.vercel.encoder import VercelEncoder

__all__ = ["HEADERS", "MEDIA_TYPE", "VercelWire", "vercel_stream"]

MEDIA_TYPE = "text/event-stream; charset=utf-8"

HEADERS = (("x-vercel-ai-ui-message-stream", "v1"),)
"""What the protocol asks of a response beside its content type; no client is known that looks."""


class _Reset(Protocol):
    """See `streamchat.service.hub.HistoryReset`."""

    @property
    def snapshot(self) -> bytes: ...

    @property
    def id(self) -> str: ...


class VercelWire:
    """One response in bytes, for one connection; ``done`` says that nothing more is to be sent.

    It can be handed to `bare_response` as its wire. ``run_id`` and ``message_id`` are said where the log has
    lost its beginning. The other options are those of `VercelEncoder`.
    """

    media_type = MEDIA_TYPE

    def __init__(
        self,
        target: Target = "v6",
        *,
        run_id: str | None = None,
        message_id: str | None = None,
        **options: Any,
    ) -> None:
        self.encoder = VercelEncoder(target, **options)
        self._ids = {"run_id": run_id, "message_id": message_id}
        self._ended = False

    @property
    def done(self) -> bool:
        """Whether the body is complete."""
        return self._ended

    def event(self, event: StoredEvent) -> bytes:
        """The frames that an event adds; none for many."""
        data = frames(self.encoder.encode(event), event.id)
        return data + self._done()

    def events(self, events: Sequence[StoredEvent]) -> list[bytes]:
        """The same for each of several."""
        return [self.event(event) for event in events]

    def replay(self, events: Sequence[StoredEvent]) -> bytes:
        """The frames for a log as it is so far, compacted: one delta for each part."""
        self._note_times(events)
        chunks = [chunk for event in compact(events) for chunk in self.encoder.encode(event)]
        return frames(chunks, events[-1].id if events else None) + self._done()

    def resume(self, events: Sequence[StoredEvent], *, after_end: bool) -> bytes:
        """Go on after events that the client has: in a new response about the same message (``after_end``),
        or in the middle of what an earlier connection was cut off from."""
        self._note_times(events)
        # What was withdrawn is no part of what a response that ended has left.
        self.encoder.prime(compact(events) if after_end else events)
        return frames(self.encoder.resume(after_end=after_end))

    def _note_times(self, events: Iterable[StoredEvent]) -> None:
        for event in events:
            self.encoder.note_time(event)

    def reset(self, reset: _Reset) -> bytes:
        """The frames for a client that has nothing yet and whose log is gone: from the snapshot. One that has
        something cannot take it back, and is told so."""
        if self.encoder.begun:
            return self.close()
        state = RunState.model_validate_json(reset.snapshot)
        known = {name: getattr(state, name) or id for name, id in self._ids.items()}
        state = state.model_copy(update=known)
        chunks = [chunk for event in events_of(state) for chunk in self.encoder.encode(event)]
        return frames(chunks, reset.id) + self._done()

    def close(self) -> bytes:
        """What ends the body here, whatever the run is at; nothing the second time."""
        if self._ended:
            return b""
        self._ended = True
        return frames(self.encoder.close()) + DONE

    def _done(self) -> bytes:
        if self._ended or not self.encoder.done:
            return b""
        self._ended = True
        return DONE

    def begin(self, cursor: str) -> bytes:
        """A comment: the headers are on their way before the first event."""
        return encode_comment("stream-open")

    def retry(self, seconds: float) -> bytes:
        """The protocol cannot say when to come back."""
        return b""

    def heartbeat(self) -> bytes:
        """What keeps a quiet connection open."""
        return encode_comment("keep-alive")


async def vercel_stream(
    events: AsyncIterable[StreamEvent | StoredEvent], target: Target = "v6", **options: Any
) -> AsyncGenerator[bytes, None]:
    """Yield the body of a response for ``events``: of ``orchestrate(…)``, or of `StreamChat.ask`.

    The options are those of `VercelEncoder`. An exception of the generator is raised again, after the client
    was told that the answer could not be finished. Closed early, it closes the generator.
    """
    encoder = VercelEncoder(target, **options)
    try:
        async for event in events:
            id = event.id if isinstance(event, StoredEvent) else None
            data = frames(encoder.encode(event), id)
            if data:
                yield data
    except Exception:
        yield frames(encoder.close()) + DONE
        raise
    finally:
        if isinstance(events, AsyncGenerator):
            await events.aclose()
    yield frames(encoder.close()) + DONE
