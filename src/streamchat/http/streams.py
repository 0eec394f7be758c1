"""A run as a response body: what a subscription gives, and the frames that keep a connection alive and end it
well."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable
from typing import Protocol, Self

from streamchat.errors import BufferUnavailable, RunNotFound
from streamchat.http.errors import correlation_id
from streamchat.http.limits import HTTPOptions, StreamCount
from streamchat.http.requests import Response
from streamchat.service.hub import Encoder, Subscription
from streamchat.wire.native import padding

__all__ = ["STREAM_HEADERS", "EventStream", "StreamWire", "spread", "stream_response"]

log = logging.getLogger("streamchat.http")

_SOON = 0.5

STREAM_HEADERS = (
    ("cache-control", "no-cache, no-transform"),
    # Compression would hold events back, and nginx its buffer.
    ("content-encoding", "identity"),
    ("x-accel-buffering", "no"),
    ("x-content-type-options", "nosniff"),
)


class StreamWire(Encoder, Protocol):
    """A wire that a stream can speak: an encoder, and the frames that no event stands behind."""

    media_type: str

    def begin(self, cursor: str) -> bytes:
        """What a stream begins with, from which a client knows its cursor."""
        ...

    def retry(self, seconds: float) -> bytes:
        """When to come back after the connection ends; empty where the wire cannot say it."""
        ...

    def heartbeat(self) -> bytes:
        """What keeps a quiet connection open."""
        ...


def spread(seconds: float) -> float:
    """Return about ``seconds``, half as much or half more: clients that left together do not return
    together."""
    return seconds * random.uniform(0.5, 1.5)


class EventStream:
    """The bytes of one subscription, from the priming frame to the terminal event or a farewell.

    Everything pending is one piece. It ends after the terminal event; with a farewell (``retry:``) while the
    service drains, when a suspended run stays quiet, or when the stream has lived long enough; the client
    then comes back with its last id. A failure behind it ends it too, and is logged. It holds a place in
    ``count``, which it gives back for ``who`` when it is closed.
    """

    __slots__ = (
        "_beat_at",
        "_begun",
        "_count",
        "_draining",
        "_end_at",
        "_ended",
        "_loop",
        "_options",
        "_padded",
        "_subscription",
        "_suspended_until",
        "_timer",
        "_who",
        "_wire",
    )

    def __init__(
        self,
        subscription: Subscription,
        wire: StreamWire,
        options: HTTPOptions,
        draining: Callable[[], bool],
        count: StreamCount,
        who: str | None,
    ) -> None:
        self._subscription = subscription
        self._wire = wire
        self._options = options
        self._draining = draining
        self._count: StreamCount | None = count
        self._who = who
        self._loop = asyncio.get_running_loop()
        self._begun = self._ended = self._padded = False
        # Loop times at which something is due, if nothing happens before.
        self._beat_at = 0.0
        self._suspended_until = self._end_at = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if not self._begun:
            return self._begin()
        if self._ended:
            raise StopAsyncIteration
        if self._timer is None:
            self._arm()
        try:
            data = await self._subscription.next_bytes(self._wire)
        except StopAsyncIteration:
            if self._subscription.finished:
                raise
            return self._farewell(self._options.retry)  # closed from behind: the service shuts down
        except RunNotFound:
            raise StopAsyncIteration from None  # deleted meanwhile; coming back will say so
        except Exception as error:
            return self._failed(error)
        now = self._loop.time()
        self._beat_at = now + self._options.heartbeat
        if data is None:
            return self._quiet(now)
        if self._subscription.suspended or self._suspended_until < math.inf:
            self._linger(now)
        return data if now < self._end_at else data + self._farewell(_SOON)

    def _begin(self) -> bytes:
        self._begun = True
        now = self._loop.time()
        self._beat_at = now + self._options.heartbeat
        if self._options.stream_lifetime is not None:
            self._end_at = now + spread(self._options.stream_lifetime)
        self._linger(now)
        # The id stands in a frame of its own, so that it is in force whatever a reader makes of the delay.
        return self._wire.begin(self._subscription.cursor) + self._wire.retry(spread(self._options.retry))

    def _linger(self, now: float) -> None:
        """Note whether the run is suspended: such a stream has not long to live."""
        if self._subscription.suspended:
            self._suspended_until = now + self._options.suspended_linger
            self._disarm()  # it may be due before what the timer is set for
        else:
            self._suspended_until = math.inf

    # One timer that is set anew only when it has run out costs a busy stream nothing.

    def _due(self) -> float:
        return min(self._beat_at, self._suspended_until, self._end_at)

    def _arm(self) -> None:
        self._timer = self._loop.call_at(self._due(), self._tick)

    def _disarm(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _tick(self) -> None:
        self._timer = None
        if self._loop.time() < self._due():
            self._arm()
        else:
            self._subscription.nudge()

    def _quiet(self, now: float) -> bytes:
        """What is sent when no event came in time."""
        options = self._options
        if self._draining():
            return self._farewell(options.retry)
        if now >= self._suspended_until:
            return self._farewell(options.suspended_retry)
        if now >= self._end_at:
            return self._farewell(_SOON)
        beat = self._wire.heartbeat()
        if not self._padded:
            self._padded = True
            beat = padding(options.padding) + beat if beat else beat
        return beat

    def _farewell(self, seconds: float) -> bytes:
        self._ended = True
        self._subscription.returning = seconds
        return self._wire.retry(spread(seconds))

    def _failed(self, error: Exception) -> bytes:
        correlation = correlation_id()
        run_id = self._subscription.run_id
        if isinstance(error, BufferUnavailable):
            log.warning("run %s: a stream ends, the store is away (%s): %s", run_id, correlation, error)
        else:
            log.error("run %s: a stream failed, correlation id %s", run_id, correlation, exc_info=error)
        return self._farewell(2 * self._options.retry)

    async def aclose(self) -> None:
        """Close the subscription, which tells the service that this client has gone; idempotent."""
        count, self._count = self._count, None
        if count is None:
            return
        self._ended = self._begun = True
        self._disarm()
        count.leave(self._who)
        try:
            await self._subscription.close()
        except Exception:
            # At shutdown, what stands behind may be closed before the stream is: nothing to do about it here.
            log.exception("run %s: closing a subscription failed", self._subscription.run_id)


def stream_response(
    body: EventStream, wire: StreamWire, headers: list[tuple[str, str]] | None = None
) -> Response:
    """Answer with a stream, and the headers that keep everybody on the way from holding it back."""
    return Response(200, body, [("content-type", wire.media_type), *STREAM_HEADERS, *(headers or ())])
