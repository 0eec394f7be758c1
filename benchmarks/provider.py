"""A provider as a process of its own: answers any POST with a chat stream, in a burst or chunk by chunk.

The path says which: ``/burst/<chunks>/v1/…`` or ``/live/<chunks>/v1/…``. ``/sent`` tells how many chunks went
out live, so that a machine too busy to keep the beat spoils no figure. Each frame is one HTTP chunk, as
servers send them; in a burst many are in one write. It is a bare asyncio protocol, because
`ScriptedProvider`, which can do much more, would be the slower side.
"""

from __future__ import annotations

import asyncio
from functools import cache

from benchmarks.bodies import chat_frames
from benchmarks.processes import input_ended

__all__ = ["serve"]

PERIOD = 0.02
_PER_WRITE = 50
_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\nx-request-id: req_1\r\n\r\n"
)


@cache
def _pieces(chunks: int, per_write: int) -> list[bytes]:
    frames = [b"%x\r\n%b\r\n" % (len(frame), frame) for frame in chat_frames(chunks)]
    return [b"".join(frames[i : i + per_write]) for i in range(0, len(frames), per_write)]


class _Connection(asyncio.Protocol):
    started = 0
    sent = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._got = b""
        self._loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, found, body = self._got.partition(b"\r\n\r\n")
        if not found:
            return
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if len(body) < int(fields.get(b"content-length", b"0")):
            return
        self._got = b""
        if head.startswith(b"GET /sent"):
            answer = b"%d" % _Connection.sent
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(answer), answer))
            self._transport.close()
            return
        _, mode, chunks, _ = head.split(b" ")[1].split(b"/", 3)
        self._transport.write(_HEAD)
        if mode == b"burst":
            for piece in _pieces(int(chunks), _PER_WRITE):
                self._transport.write(piece)
            self._transport.write(b"0\r\n\r\n")
            return
        # The streams' beats are spread over the period: in step, one waking up would serve them all.
        _Connection.started += 1
        phase = PERIOD * (_Connection.started * 0.618 % 1)
        self._beat(_pieces(int(chunks), 1), 0, self._loop.time() + phase)

    def _beat(self, pieces: list[bytes], place: int, at: float) -> None:
        if self._transport.is_closing():
            return
        if place >= len(pieces) - 3:  # finish, usage and end mark come together
            self._transport.write(b"".join(pieces[place:]) + b"0\r\n\r\n")
            return
        self._transport.write(pieces[place])
        _Connection.sent += 1
        self._loop.call_at(at + PERIOD, self._beat, pieces, place + 1, at + PERIOD)


async def serve() -> None:
    """Listen, say on which port, and serve until standard input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await input_ended()
    server.close()
