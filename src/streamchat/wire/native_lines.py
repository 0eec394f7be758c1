"""The native wire where messages have borders of their own (WebSocket): one line of JSON for each event.

``{"id":"<generation.seq>","data":{…}}`` and LF; ``data`` is what stands in a native frame of server-sent
events, and the id is the same cursor. Stored bytes go through as they are.
"""

from __future__ import annotations

from collections.abc import Iterator

from streamchat.events import StoredEvent, dump_json
from streamchat.wire.native import Reset

__all__ = ["LINES", "MESSAGE", "NativeLines", "messages"]

MESSAGE = 65_536
"""Bytes of lines in a message; only a line that is longer by itself makes a larger one."""


class NativeLines:
    """Turns stored events into lines; it has no state, and one object (`LINES`) serves all."""

    __slots__ = ()

    def event(self, event: StoredEvent) -> bytes:
        """One event's line."""
        data = event.public_json()
        if b"\n" in data or b"\r" in data:
            # Between tokens only: in a string they would be escaped.
            data = data.replace(b"\n", b" ").replace(b"\r", b" ")
        return b'{"id":%b,"data":%b}\n' % (dump_json(event.id), data)

    def reset(self, reset: Reset) -> bytes:
        """The line of a ``history_reset``: the client replaces all that it has by the snapshot."""
        return (
            b'{"id":%b,"data":{"type":"history_reset","reason":%b,"first_seq":%d,"last_seq":%d,"snapshot":%b}}\n'
            % (dump_json(reset.id), dump_json(reset.reason), reset.first_seq, reset.last_seq, reset.snapshot)
        )


LINES = NativeLines()
"""The encoder to hand to `Subscription.next_bytes`: being one object, it has every event encoded once a
process."""


def messages(run_id: str, lines: bytes) -> Iterator[bytes]:
    """Yield the messages for a run's ``lines``, whole ones: each begins with the line that names the run.

    A client that is slow takes one after the other, and is seen to move.
    """
    head = b'{"type":"events","run_id":%b}\n' % dump_json(run_id)
    at = 0
    while at < len(lines):
        end = len(lines)
        if end - at > MESSAGE:
            end = lines.rfind(b"\n", at, at + MESSAGE) + 1 or lines.index(b"\n", at + MESSAGE) + 1
        yield head + lines[at : end - 1]
        at = end
