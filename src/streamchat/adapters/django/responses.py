"""Our responses as Django's: whole ones as they are, streams as asynchronous iterators that end in time.

Django itself waits for the client's disconnect and then cancels whoever writes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable
from contextlib import suppress
from typing import Any, NoReturn, Self

from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

from streamchat.events import StreamEvent
from streamchat.http import ByteStream, HTTPOptions, Response, bare_response
from streamchat.http.streams import StreamWire
from streamchat.wire.native import NATIVE

__all__ = ["event_response", "release_connections", "to_django"]

log = logging.getLogger("streamchat.http")


async def release_connections() -> None:
    """Close the request's database connections: a stream would hold them to its end, one for each reader."""
    await sync_to_async(_close_idle)()


def _close_idle() -> None:
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()


def _of_django(task: asyncio.Task[Any] | None) -> asyncio.Task[Any] | None:
    """The task if it is Django's own, which takes a cancellation for the client's leaving; not that of a test
    that reads the body itself."""
    return task if getattr(task and task.get_coro(), "__name__", "") == "process_request" else None


class _Body:
    """A stream as Django iterates it; ended where its reader takes nothing for ``send_timeout`` seconds."""

    def __init__(self, stream: ByteStream, send_timeout: float) -> None:
        self._stream = stream
        self._send_timeout = send_timeout
        self._loop: asyncio.AbstractEventLoop | None = None
        with suppress(RuntimeError):  # a synchronous view's
            self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None
        self._writer: asyncio.Task[Any] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        self._disarm()
        if self._closing is not None:
            raise StopAsyncIteration
        self._loop = loop = asyncio.get_running_loop()
        self._writer = _of_django(asyncio.current_task())
        try:
            block = await anext(self._stream)
        except BaseException:
            await self._stream.aclose()
            raise
        # While the block is being written nobody is here; only time can tell that it never is.
        self._timer = loop.call_later(self._send_timeout, self._stuck)
        return block

    async def aclose(self) -> None:
        self._disarm()
        await self._stream.aclose()

    def close(self) -> None:
        """Called by Django from any thread at the response's end, whether it was iterated or not."""
        if self._loop is not None:  # else it was never begun
            with suppress(RuntimeError):  # under WSGI the view's loop ends with the view
                self._loop.call_soon_threadsafe(self._close)

    def _disarm(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _stuck(self) -> None:
        log.info("a stream ends: its reader took nothing for %g s", self._send_timeout)
        self._close()
        if self._writer is not None:
            self._writer.cancel()  # as Django itself does where the client has gone; it waits in `send`

    def _close(self) -> None:
        self._disarm()
        if self._closing is None:
            assert self._loop is not None
            self._closing = self._loop.create_task(self._stream.aclose(), name="streamchat close")


class _StreamedResponse(StreamingHttpResponse):
    """Refuses what iterates it synchronously: Django would read a stream to its end before it sends any."""

    def __iter__(self) -> NoReturn:
        raise ImproperlyConfigured(
            "this server cannot stream (WSGI): serve the project's ASGI application with an ASGI server, or "
            "read the events in the view and answer with the whole"
        )


def to_django(response: Response, options: HTTPOptions) -> HttpResponseBase:
    """Translate a response."""
    headers = dict(response.headers)
    content_type = headers.pop("content-type", "text/plain")
    headers.pop("content-length", None)  # Django's own business, as its middleware may change the body
    answer: HttpResponseBase
    if isinstance(response.body, bytes):
        answer = HttpResponse(response.body, status=response.status, content_type=content_type)
    else:
        body = _Body(response.body, options.send_timeout)
        answer = _StreamedResponse(body, status=response.status, content_type=content_type)
    for name, value in headers.items():
        answer[name] = value
    return answer


def event_response(
    events: AsyncIterable[StreamEvent], *, wire: StreamWire = NATIVE, options: HTTPOptions | None = None
) -> HttpResponseBase:
    """Stream a bare ``orchestrate(…)`` without service and buffer; return it from a view.

    It needs ASGI: under WSGI nothing is begun, and ``ImproperlyConfigured`` says so (500). The generator is
    closed promptly when the client leaves; its failure is logged and ends the stream as an ``error`` event.
    """
    options = options or HTTPOptions()
    return to_django(bare_response(events, wire=wire, options=options), options)
