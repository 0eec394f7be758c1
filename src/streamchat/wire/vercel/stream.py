"""UI message chunks on a connection: frames with the cursor of the event they stand for, and the end of it.

Each event's last frame carries an ``id:``, which the AI SDK skips and a transport of one's own may come back
with. It is the event's own, ``generation.seq``, where the response began with the run. One that began with a
replay, or behind a pause, has left its reader with other parts open, so there the id says this too:
``generation-r<seq>.seq`` and ``generation-e<seq>.seq``, by the last event that it began with;
``generation-o<seq>.seq`` where that has left a text open in the midst of a step. The body ends with ``data:
[DONE]``; without it, it was cut off.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from typing import Any, Protocol

from streamchat.core.sse import encode_comment
from streamchat.core.state import RunState
from streamchat.events import TERMINAL, StoredEvent, StreamEvent
from streamchat.wire.compact import compact, events_of
from streamchat.wire.vercel.chunks import DONE, Chunk, Target, frames
from streamchat.wire.vercel.encoder import VercelEncoder

__all__ = ["HEADERS", "MEDIA_TYPE", "VercelWire", "events_up_to", "vercel_stream"]

MEDIA_TYPE = "text/event-stream; charset=utf-8"

HEADERS = (("x-vercel-ai-ui-message-stream", "v1"),)
"""What the protocol asks of a response beside its content type; no client is known that looks."""


_MARK = re.compile(r"(.+)-([reo])([1-9][0-9]{0,15})(\.[0-9]+)")


def events_up_to(events: Sequence[StoredEvent], cursor: str | None) -> int:
    """Return how many events a client has that was given this id; 0 where it is none of theirs."""
    mark = _MARK.fullmatch(cursor or "")
    ids = {cursor, mark[1] + mark[4]} if mark is not None else {cursor}
    return next((count for count, event in enumerate(events, 1) if event.id in ids), 0)


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
        self._mark = ""

    @property
    def done(self) -> bool:
        """Whether the body is complete."""
        return self._ended

    def event(self, event: StoredEvent) -> bytes:
        """The frames that an event adds; none for many."""
        return frames(self.encoder.encode(event), self._id(event)) + self._done()

    def events(self, events: Sequence[StoredEvent]) -> list[bytes]:
        """The same for each of several."""
        return [self.event(event) for event in events]

    def replay(self, events: Sequence[StoredEvent]) -> bytes:
        """The frames for a log as it is so far, compacted: one delta for each part."""
        if not events:
            return b""
        self._note_times(events)
        chunks = [chunk for event in compact(events) for chunk in self.encoder.encode(event)]
        self._mark = f"-r{events[-1].seq}"
        return frames(chunks, self._id(events[-1])) + self._done()

    def resume(self, events: Sequence[StoredEvent], *, after_end: bool, in_part: bool = False) -> bytes:
        """Go on after events that the client has: in a new response about the same message (``after_end``;
        with ``in_part`` in the midst of what it has begun), or in the middle of the one that it has read
        since the run began (see `tail`)."""
        self._note_times(events)
        # What was withdrawn is no part of what a response that ended has left.
        self.encoder.prime(compact(events) if after_end else events)
        chunks = self.encoder.resume(after_end=after_end, in_part=in_part)
        if not chunks:
            return b""
        self._mark = f"-{'o' if in_part else 'e'}{events[-1].seq}"
        return frames(chunks, self._id(events[-1]))

    def go_on(
        self,
        had: Sequence[StreamEvent],
        rest: Sequence[StreamEvent],
        known: Sequence[StoredEvent],
        *,
        first: Iterable[Chunk] = (),
    ) -> bytes:
        """Begin a new response about the same message with the ``rest`` of a log, made short, for a client
        that ``had`` the beginning of it; ``known`` is that log, at least one event. ``first`` is what no
        event of it says."""
        self._note_times(known)
        self.encoder.prime(had)
        chunks = [*self.encoder.resume(after_end=True), *first]
        chunks += [chunk for event in rest for chunk in self.encoder.encode(event)]
        # Each leaves just what is open here: what the last step of a replay leaves, a part without its step,
        # or nothing.
        anew = any(event.type == "step_started" for event in rest)
        self._mark = f"-{'r' if anew else 'o' if self.encoder.in_part else 'e'}{known[-1].seq}"
        return frames(chunks, self._id(known[-1])) + self._done()

    def tail(self, events: Sequence[StoredEvent], cursor: str) -> bool:
        """Go on where a connection was cut off behind ``cursor``; ``events`` are the log up to there.

        False where nothing can be put behind it, and this wire is not to be used: the log has lost its
        beginning, or what the client was shown has ended there, with an error or with the run.
        """
        mark = _MARK.fullmatch(cursor) if not events or events[-1].id != cursor else None
        began = int(mark[3]) if mark is not None else 0
        if not events or events[0].seq != 1 or began > len(events) or events[-1].type == TERMINAL:
            return False
        if mark is None:
            self.resume(events, after_end=False)
        else:
            if mark[2] == "r":
                self.replay(events[:began])
            else:
                self.resume(events[:began], after_end=True, in_part=mark[2] == "o")
            self.encoder.prime(events[began:])
            self._note_times(events)
        return not self.encoder.done

    def _id(self, event: StoredEvent) -> str:
        return f"{event.generation}{self._mark}.{event.seq}"

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
