"""The native wire where messages have borders of their own (WebSocket): one line of JSON for each event.

``{"id":"<generation.seq>","data":{…}}`` and LF; ``data`` is what stands in a native frame of server-sent
events, and the id is the same cursor. Stored bytes go through as they are.
"""

from __future__ import annotations

from streamchat.events import StoredEvent, dump_json
from streamchat.wire.native import Reset

__all__ = ["LINES", "NativeLines"]


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
