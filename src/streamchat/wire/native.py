"""The native wire: stored events as server-sent events, whose id is the cursor to come back with.

One event is one frame: ``id: <generation.seq>``, ``event: <type>``, ``data: <json>`` (public fields,
``type``, ``seq``, ``at``), LF line ends. Stored bytes go through as they are; nothing is decoded. The frames
that no event stands behind (the id to begin with, when to come back, heartbeats, a reset) are here as well.
Follows the event stream rules of the WHATWG HTML standard (section 9.2): a frame without data dispatches
nothing, but sets the id and the delay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from streamchat.core.sse import encode_comment, encode_frame
from streamchat.events import EVENT_TYPES, StoredEvent

__all__ = ["HEARTBEAT", "NATIVE", "NativeEncoder", "Reset", "padding"]

HEARTBEAT = encode_comment("heartbeat")
"""A comment, which every reader skips: keeps proxies from closing a quiet connection."""

# A frame is built in one step: generation, seq, data without its closing brace, seq and at are filled in.
_FRAMES = {
    kind: b'id: %%b.%%d\nevent: %b\ndata: %%b,"seq":%%d,"at":%%d}\n\n' % kind.encode() for kind in EVENT_TYPES
}


class Reset(Protocol):
    """What a client whose cursor cannot be continued is told; see `streamchat.service.hub.HistoryReset`."""

    @property
    def reason(self) -> str:
        """Why: ``trimmed``, ``unknown`` or ``diverged``."""
        ...

    @property
    def first_seq(self) -> int:
        """The oldest seq that is still stored."""
        ...

    @property
    def last_seq(self) -> int:
        """The seq that the snapshot includes; what follows is folded onto it."""
        ...

    @property
    def snapshot(self) -> bytes:
        """JSON of the `RunState` at ``last_seq``."""
        ...

    @property
    def id(self) -> str:
        """The cursor of ``last_seq``."""
        ...


class NativeEncoder:
    """Turns stored events into native frames; it has no state, and one object (`NATIVE`) serves all."""

    __slots__ = ()

    media_type = "text/event-stream; charset=utf-8"

    def event(self, event: StoredEvent) -> bytes:
        """One event's frame."""
        data = event.data
        frame = _FRAMES.get(event.type)
        if frame is None or b"\n" in data or b"\r" in data:
            return _odd_event(event)
        seq = event.seq
        return frame % (event.generation.encode(), seq, data[:-1], seq, event.at)

    def events(self, events: Sequence[StoredEvent]) -> list[bytes]:
        """Each event's frame: what they have in common is put into the frame once."""
        frames: list[bytes] = []
        generation = kind = at = None
        frame: bytes | None = None
        for event in events:
            data = event.data
            if event.at != at or event.type != kind or event.generation != generation:
                generation, kind, at = event.generation, event.type, event.at
                frame = _FRAMES.get(kind)
                if frame is not None:
                    frame = frame.replace(b"%d}", b"%d}" % at, 1)
                    frame = frame.replace(b"%b", generation.encode().replace(b"%", b"%%"), 1)
            if frame is None or b"\n" in data or b"\r" in data:
                frames.append(_odd_event(event))
            else:
                seq = event.seq
                frames.append(frame % (seq, data[:-1], seq))
        return frames

    def reset(self, reset: Reset) -> bytes:
        """The ``history_reset`` frame: the client replaces all that it has by the snapshot, and folds on."""
        data = b'{"type":"history_reset","reason":"%b","first_seq":%d,"last_seq":%d,"snapshot":%b}' % (
            reset.reason.encode(),
            reset.first_seq,
            reset.last_seq,
            reset.snapshot,
        )
        return encode_frame(data, event="history_reset", id=reset.id)

    def begin(self, cursor: str) -> bytes:
        """The priming frame, an ``id:`` line alone: a client that is cut off before the first event knows its
        run."""
        return encode_frame(None, id=cursor)

    def retry(self, seconds: float) -> bytes:
        """How long a client that is cut off waits before it comes back; the caller adds the jitter."""
        return encode_frame(None, retry=round(seconds * 1000))

    def heartbeat(self) -> bytes:
        """What keeps a quiet connection open."""
        return HEARTBEAT


def _odd_event(event: StoredEvent) -> bytes:
    """An event of a type that this version does not know, or whose JSON has line ends between its tokens."""
    kind = event.type if event.type and event.type.isprintable() else None
    # A type that cannot stand in a line of its own is in the data all the same.
    return encode_frame(event.public_json(), event=kind, id=event.id)


def padding(size: int) -> bytes:
    """A comment of ``size`` bytes (16 at least), to push what was written before through a proxy's buffer."""
    return b": " + b"." * max(12, size - 4) + b"\n\n"


NATIVE = NativeEncoder()
"""The encoder to hand to `Subscription.next_bytes`: being one object, it has every event encoded once a
process."""
