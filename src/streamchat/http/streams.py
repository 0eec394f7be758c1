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
from streamchat.http.limits import HTTPOptions, StreamCount, Who
from streamchat.http.requests import Response
from streamchat.http.rounds import rounds
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
    service drains, when a suspended run stays quiet, or when the stream has lived long enough (``lifetime``
    seconds at most); the client then comes back with its last id. A failure behind it ends it too, and is
    logged. It holds a place in ``count``, which it gives back for ``who`` when it is closed.
    """

    __slots__ = (
        "_begun",
        "_count",
        "_draining",
        "_due",
        "_end_at",
        "_ended",
        "_lifetime",
        "_lingering",
        "_options",
        "_padded",
        "_seen",
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
        who: Who | None,
        lifetime: float = math.inf,
    ) -> None:
        self._subscription = subscription
        self._wire = wire
        self._options = options
        self._draining = draining
        self._count: StreamCount | None = count
        self._who = who
        self._lifetime = lifetime
        self._begun = self._ended = self._padded = self._lingering = False
        # The place at the last visit, if nothing else was sent since.
        self._seen = -1
        # Whether more is to be looked at than what the subscription has: always, before and after its life.
        self._due = True
        # Loop times; most streams need neither, nor the timer.
        self._suspended_until = self._end_at = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def __aiter__(self) -> Self:
        return self

    def pull(self) -> bytes | asyncio.Future[bool | bytes] | None:
        """Return the next piece where it is there already, or a future for it; see `ByteStream`.

        Nearly all events go this way, without a coroutine.
        """
        if self._due:
            return None
        subscription = self._subscription
        try:
            given = subscription.pull(self._wire)
        except Exception:
            return None  # raised again where it is dealt with
        if subscription.suspended is not self._lingering:
            self._linger()
        return given

    async def __anext__(self) -> bytes:
        if not self._begun:
            return self._begin()
        if self._ended:
            raise StopAsyncIteration
        subscription = self._subscription
        data: bytes | None = None
        if not self._due or not subscription.idle:
            try:
                data = await subscription.next_bytes(self._wire)
            except StopAsyncIteration:
                if subscription.finished:
                    raise
                return self._farewell(self._options.retry)  # closed from behind: the service shuts down
            except RunNotFound:
                raise StopAsyncIteration from None  # deleted meanwhile; coming back will say so
            except Exception as error:
                return self._failed(error)
        self._due = False
        if data is None:
            self._seen = -1
            return self._quiet(asyncio.get_running_loop().time())
        if subscription.suspended is not self._lingering:
            self._linger()
        if self._end_at < math.inf and asyncio.get_running_loop().time() >= self._end_at:
            return data + self._farewell(_SOON)
        return data

    def _begin(self) -> bytes:
        self._begun = True
        self._due = False
        lifetime = self._lifetime
        if self._options.stream_lifetime is not None:
            lifetime = min(lifetime, spread(self._options.stream_lifetime))
        if lifetime < math.inf:
            self._end_at = asyncio.get_running_loop().time() + lifetime
            self._arm()
        if self._subscription.suspended:
            self._linger()
        rounds(self._options.heartbeat / 2).join(self)
        # The id stands in a frame of its own, so that it is in force whatever a reader makes of the delay.
        return self._wire.begin(self._subscription.cursor) + self._wire.retry(spread(self._options.retry))

    def visit(self) -> None:
        """Send a heartbeat if nothing was sent since the last visit; there are two in the time for one."""
        after = self._subscription.after
        if self._seen != after:
            self._seen = after
        else:
            self._wake()

    def _wake(self) -> None:
        self._due = True
        self._subscription.nudge()

    def _linger(self) -> None:
        """Note whether the run is suspended: such a stream has not long to live."""
        self._lingering = self._subscription.suspended
        self._suspended_until = math.inf
        if self._lingering:
            self._suspended_until = asyncio.get_running_loop().time() + self._options.suspended_linger
        self._arm()

    # A timer of its own has only a stream that is to end at some time.

    def _arm(self) -> None:
        self._disarm()
        at = min(self._suspended_until, self._end_at)
        if at < math.inf:
            self._timer = asyncio.get_running_loop().call_at(at, self._tick)

    def _disarm(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _tick(self) -> None:
        if asyncio.get_running_loop().time() < min(self._suspended_until, self._end_at):
            self._arm()  # clocks differ by a hair
        else:
            self._timer = None
            self._wake()

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
        self._ended = self._due = True
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
        self._ended = self._begun = self._due = True
        self._disarm()
        rounds(self._options.heartbeat / 2).leave(self)
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
