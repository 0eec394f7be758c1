"""What must hold of every adapter under every server; each row is given a running one.

Rows say what is seen, and in which order; none says how fast.
"""

from __future__ import annotations

import asyncio
import gzip
import signal
from collections.abc import Awaitable, Callable

from streamchat.buffers import buffer_for
from streamchat.core.sse import SSEDecoder
from tests.adapters.servers.common import FLOOD
from tests.adapters.servers.running import PREFIX, Served, decoded
from tests.adapters.serving import Connection, read_until

__all__ = ["ALL", "LAST", "LONG", "QUICK", "Row", "is_left_for_others"]

Row = Callable[[Served], Awaitable[object]]
# (what a row returns is a server's own peculiarity, for the page)


async def _stands_still(served: Served, key: str, **headers: str) -> str:
    """A run that says one word and goes on when its key is released."""
    return await served.start(f"stall {key}", **headers)


async def nothing_is_held_back(served: Served) -> None:
    """The first event is there before the last one is made."""
    url = await _stands_still(served, "latency")
    async with served.request("GET", url) as connection:
        assert connection.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert connection.headers["x-accel-buffering"] == "no"
        blocks = connection.blocks()
        assert b"finalized" not in await read_until(blocks, b"text_delta")
        await served.release("latency")
        await read_until(blocks, b"event: finalized")
        assert [block async for block in blocks] == []


async def a_disconnect_is_noticed(served: Served) -> None:
    """The server is told that the client has gone, while nothing is sent; the run goes on."""
    url = await _stands_still(served, "disconnect")
    for tag, abort in (("closed", False), ("aborted", True)):
        connection = await served.open(url, X_Tag=tag)
        await read_until(connection.blocks(), b"text_delta")
        assert (await served.control("seen", tag))["open"] == 1
        await connection.close(abort=abort)
        await served.until(tag, open=0, disconnected=True)
    await served.release("disconnect")
    assert (await served.frames(url))[1][-1].event == "finalized"


async def heartbeats_come(served: Served) -> None:
    """A quiet stream is kept open; its first heartbeat is large enough to come through a proxy's buffer."""
    url = await _stands_still(served, "heartbeat")
    async with served.request("GET", url) as connection:
        blocks = connection.blocks()
        got = await read_until(blocks, b": heartbeat\n\n")
        got += await read_until(blocks, b": heartbeat\n\n")
        assert len(got) > 2048
    await served.release("heartbeat")


async def a_reader_that_was_cut_off_goes_on(served: Served) -> None:
    """With `Last-Event-ID` it gets what it has not seen: nothing twice, nothing missed."""
    url = await _stands_still(served, "resume")
    connection = await served.open(url)
    first = decoded(await read_until(connection.blocks(), b"event: text_delta"))
    await connection.close(abort=True)
    await served.release("resume")
    _, rest = await served.frames(url, first[-1].id)
    _, whole = await served.frames(url)
    assert first + rest == whole
    assert whole[-1].event == "finalized"


async def who_has_all_gets_204(served: Served) -> None:
    """A reader at the end of a run that is over is told not to come back."""
    url = await served.start("say")
    _, frames = await served.frames(url)
    assert await served.frames(url, frames[-1].id) == (204, [])


async def middleware_stands_in_front(served: Served) -> None:
    """Middleware that compresses and rewrites what it can: JSON is compressed, streams are not held back."""
    compressing = {"X_Wrap": "yes", "Accept_Encoding": "gzip"}
    url = await _stands_still(served, "middleware")
    run = url.removesuffix("/stream")
    async with served.request("GET", run, **compressing) as connection:
        assert (connection.headers["x-seen"], connection.headers["content-encoding"]) == ("yes", "gzip")
        assert b"conversation_id" in gzip.decompress(await connection.body())
    gone = await served.open(url, X_Tag="middleware", **compressing)
    await read_until(gone.blocks(), b"text_delta")
    await gone.close()
    await served.until("middleware", open=0, disconnected=True)
    async with served.request("GET", url, **compressing) as connection:
        assert (connection.headers["x-seen"], connection.headers["content-encoding"]) == ("yes", "identity")
        blocks = connection.blocks()
        assert b"finalized" not in await read_until(blocks, b"text_delta")
        await served.release("middleware")
        await read_until(blocks, b"finalized")


async def a_prefix_is_kept(served: Served) -> None:
    """Behind a proxy that takes a prefix away (`root_path`), addresses in answers have it."""
    async with Posted(served) as connection:
        body = await connection.body()
        url = connection.headers["location"]
        assert url.startswith(f"{PREFIX}{served.base}/runs/")
        assert url.encode() in body
    assert (await served.frames(url.removeprefix(PREFIX).removesuffix("/stream") + "/stream"))[0] == 200


class Posted:
    """A run that is started, with the head of the answer."""

    def __init__(self, served: Served) -> None:
        self._served = served

    async def __aenter__(self) -> Connection:
        self._connection = await Connection.open(self._served.port)
        await self._connection.send("POST", f"{self._served.base}/runs", b'{"message": "say"}')
        await self._connection.head()
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()


async def a_client_of_http_1_0_is_served(served: Served) -> str | None:
    """It knows no chunks: the stream is what comes until the connection is closed."""
    url = await served.start("say")
    _, whole = await served.frames(url)
    connection = await Connection.open(served.port)
    await connection.send_raw(f"GET {url} HTTP/1.0\r\nHost: test\r\n\r\n".encode())
    await connection.head()
    assert connection.status == 200
    note = None
    if served.server == "uvicorn" and "transfer-encoding" in connection.headers:
        note = "in chunks all the same, with httptools"
        assert decoded(await connection.body()) == whole
    else:
        assert "transfer-encoding" not in connection.headers
        assert decoded(await connection.raw(2**24)) == whole
    await connection.close()
    return note


async def a_reader_that_takes_nothing_is_let_go(served: Served) -> str | None:
    """What waits for it is bounded: the server's, the kernel's and its own buffers; then it resumes.

    daphne takes all that it is given: the whole stream waits in its memory.
    """
    url = await served.start("flood")
    connection = await served.open(url, X_Tag="slow")
    seen = await served.until("slow", open=0)
    if served.server == "daphne":
        assert seen["sent"] > FLOOD
        await connection.close(abort=True)
        return "no: its whole stream waits in memory"
    assert seen["sent"] < FLOOD * 3 // 4, f"{seen['sent']} bytes were taken for a reader that reads nothing"
    decoder, got = SSEDecoder(), []
    try:
        async for block in connection.blocks():
            got += decoder.feed(block)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    await connection.close(abort=True)
    assert got
    assert got[-1].event != "finalized"
    _, rest = await served.frames(url, decoder.last_event_id)
    numbers = [int(frame.id.rpartition(".")[2]) for frame in got + rest]
    assert numbers == list(range(1, len(numbers) + 1))
    assert rest[-1].event == "finalized"
    return None


async def it_shuts_down_with_open_streams(served: Served) -> str | None:
    """At SIGTERM readers are sent away, the process ends, and the run is left for others to go on with.

    daphne cuts its streams.
    """
    url = await _stands_still(served, "shutdown")
    run_id = url.split("/")[-2]
    connection = await served.open(url)
    blocks = connection.blocks()
    await read_until(blocks, b"text_delta")
    served.process.send_signal(signal.SIGTERM)
    if served.server == "daphne":
        await connection.ended()
    else:
        await read_until(blocks, b"retry: ")
        assert [block async for block in blocks] == []
    await connection.close()
    await served.process.wait()
    assert await is_left_for_others(served, run_id)
    return "streams are cut" if served.server == "daphne" else None


async def is_left_for_others(served: Served, run_id: str) -> bool:
    """Whether a run can be taken at once by another process."""
    buffer = buffer_for(served.store)
    await buffer.open()
    try:
        run = await buffer.get(run_id)
        assert not run.over
        return run.owner is None
    finally:
        await buffer.close()


QUICK: dict[str, Row] = {
    "nothing is held back": nothing_is_held_back,
    "a disconnect is noticed": a_disconnect_is_noticed,
    "heartbeats": heartbeats_come,
    "resume with `Last-Event-ID`": a_reader_that_was_cut_off_goes_on,
    "204 at the end": who_has_all_gets_204,
    "behind middleware": middleware_stands_in_front,
    "`root_path`": a_prefix_is_kept,
    "HTTP/1.0 client": a_client_of_http_1_0_is_served,
}
LONG: dict[str, Row] = {"a reader that takes nothing": a_reader_that_takes_nothing_is_let_go}
# It ends the server, so it comes after all others.
LAST: dict[str, Row] = {"shutdown with open streams": it_shuts_down_with_open_streams}
ALL = {**QUICK, **LONG, **LAST}
