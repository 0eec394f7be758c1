"""Streams events that no service stands behind: a bare ``orchestrate(…)``, straight to one client.

Nothing is stored, so nothing can be resumed; what is left of `streamchat.http.streams` is the wire, the
heartbeat, and an end of the generator that is prompt when the client leaves.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from typing import Self

from streamchat.core.conclude import conclude_fold
from streamchat.core.fold import Folder
from streamchat.events import EVENT_TYPES, ErrorEvent, RunStarted, StoredEvent, StreamEvent
from streamchat.http.errors import correlation_id
from streamchat.http.given import check_events
from streamchat.http.limits import HTTPOptions
from streamchat.http.requests import Response
from streamchat.http.streams import STREAM_HEADERS, StreamWire, spread
from streamchat.wire.native import NATIVE, padding

__all__ = ["BareStream", "bare_response"]

log = logging.getLogger("streamchat.http")

_MOST_AHEAD = 64 * 1024


class BareStream:
    """The bytes of a generator of events; ``seq`` counts from 1, the generation is a new random token.

    A task of its own takes the events, so that a heartbeat can be sent while the next one is awaited; it runs
    at most 64 KiB ahead of the client. Closing ends the generator first. An exception of the generator is
    logged and ends the log as an ``error`` with phase ``orchestration``.
    """

    def __init__(self, events: AsyncIterable[StreamEvent], wire: StreamWire, options: HTTPOptions) -> None:
        self._events = events
        self._wire = wire
        self._options = options
        self._generation = secrets.token_hex(8)
        self._folder = Folder()
        self._last = ""
        self._seq = 0
        self._blocks: list[bytes] = []
        self._size = 0
        self._pump: asyncio.Task[None] | None = None
        self._wake: asyncio.Future[None] | None = None
        self._room = asyncio.Event()
        self._over = self._padded = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._pump is None:
            self._pump = asyncio.create_task(self._take(), name="streamchat bare stream")
            return self._wire.begin(f"{self._generation}.0") + self._wire.retry(spread(self._options.retry))
        while not self._blocks:
            if self._over:
                raise StopAsyncIteration
            if not await self._more():
                beat = self._wire.heartbeat()
                if beat and not self._padded:
                    self._padded = True
                    beat = padding(self._options.padding) + beat
                return beat
        blocks, self._blocks, self._size = self._blocks, [], 0
        self._room.set()
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)

    async def _more(self) -> bool:
        """Wait for an event or the end; False when neither came before the heartbeat is due."""
        loop = asyncio.get_running_loop()
        self._wake = wake = loop.create_future()
        timer = loop.call_later(self._options.heartbeat, _finish, wake)
        try:
            await wake
        finally:
            timer.cancel()
            self._wake = None
        return bool(self._blocks) or self._over

    async def _take(self) -> None:
        """Take all events; the task that does so is the only one that ever touches the generator."""
        try:
            if isinstance(self._events, AsyncGenerator):
                async with aclosing(self._events) as events:
                    await self._take_from(events)
            else:
                await self._take_from(self._events)
        except Exception as error:
            for event in self._conclusion(error):
                self._put(event)
        finally:
            self._over = True
            if self._wake is not None:
                _finish(self._wake)

    async def _take_from(self, events: AsyncIterable[StreamEvent]) -> None:
        async for event in events:
            self._folder.add(event)
            if event.type in EVENT_TYPES:
                self._last = event.type
            self._put(event)
            if self._size > _MOST_AHEAD:
                self._room.clear()
                await self._room.wait()

    def _put(self, event: StreamEvent) -> None:
        self._seq += 1
        stored = StoredEvent(self._seq, time.time_ns() // 1_000_000, event, self._generation)
        block = self._wire.event(stored)
        self._blocks.append(block)
        self._size += len(block)
        if self._wake is not None:
            _finish(self._wake)

    def _conclusion(self, error: Exception) -> list[StreamEvent]:
        """What ends the log after the generator raised, so that a client is not left with half of it."""
        correlation = correlation_id()
        log.error("a bare stream failed, correlation id %s", correlation, exc_info=error)
        failure = ErrorEvent(
            phase="orchestration",
            code="internal_error",
            message="The answer could not be finished.",
            retryable=True,
            correlation_id=correlation,
        )
        begun: list[StreamEvent] = []
        if not self._seq:  # it failed before it said anything, bad input most likely
            begun = [RunStarted(run_id=self._generation)]
            self._folder.add(begun[0])
            self._last = "run_started"
        return begun + conclude_fold(self._folder, self._last, failure)

    async def aclose(self) -> None:
        """End the generator, wait until it has ended, and let go; idempotent."""
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait({self._pump})
        elif isinstance(self._events, AsyncGenerator):
            await self._events.aclose()


def bare_response(
    events: AsyncIterable[StreamEvent], *, wire: StreamWire = NATIVE, options: HTTPOptions | None = None
) -> Response:
    """Answer with a generator of events, most often ``orchestrate(…)``; it is closed with the response's
    body.

    Raises `InvalidInput`, with ``field``, for what is none, and for options that are none.
    """
    check_events(events, options, wire)
    stream = BareStream(events, wire, options or HTTPOptions())
    return Response(200, stream, [("content-type", wire.media_type), *STREAM_HEADERS])


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
