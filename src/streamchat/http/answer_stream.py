"""A run's answer as the body of one response: what a subscription gives, encoded for it alone, and an end
that says so when it comes before the run's."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable
from typing import Protocol, Self

from streamchat.errors import BufferUnavailable, RunNotFound
from streamchat.events import StoredEvent
from streamchat.http.errors import correlation_id
from streamchat.http.limits import HTTPOptions
from streamchat.service.hub import HistoryReset, Subscription
from streamchat.wire.openai_answer import Failure
from streamchat.wire.openai_chat import KEEP_ALIVE

__all__ = ["AnswerStream", "ResponseEncoder"]

log = logging.getLogger("streamchat.http")

_SUSPENDED = Failure(
    "The answer waits for somebody; it goes on when they have decided, but not on this connection.",
    "run_suspended",
)
_DRAINING = Failure(
    "This server is going away; the answer goes on, but not on this connection.", "server_draining"
)
_LOST = Failure(
    "The answer cannot be read at the moment; it goes on, but not on this connection.", "read_failed"
)
_EXPIRED = Failure(
    "This connection was open for as long as it may be; the answer goes on.", "stream_lifetime"
)
_GONE = Failure("The answer was deleted.", "run_not_found")


class ResponseEncoder(Protocol):
    """Turns what a subscription gives into one response; see `ChatCompletionEncoder`."""

    @property
    def finished(self) -> bool:
        """Whether the response is complete."""
        ...

    def encode(self, events: Iterable[StoredEvent], /) -> bytes:
        """Return what events add."""
        ...

    def reset(self, reset: HistoryReset, /) -> bytes:
        """Return what a snapshot adds."""
        ...

    def fail(self, failure: Failure, /) -> bytes:
        """End the response with an error."""
        ...


class AnswerStream:
    """The bytes of one response; ``let_go`` is called once, when it is closed.

    It ends with the answer; with an error where the run stays suspended for longer than
    ``options.suspended_linger`` on what this client cannot answer, when the service drains, after
    ``lifetime`` seconds, and when the store fails. Comments keep it open while nothing comes. ``first`` is
    what is known already, and goes out before anything is read.
    """

    def __init__(
        self,
        subscription: Subscription,
        encoder: ResponseEncoder,
        options: HTTPOptions,
        draining: Callable[[], bool],
        let_go: Callable[[], None],
        lifetime: float = math.inf,
        *,
        first: bytes = b"",
    ) -> None:
        self._first = first
        self._subscription = subscription
        self._encoder = encoder
        self._options = options
        self._draining = draining
        self._let_go: Callable[[], None] | None = let_go
        self._end_at = asyncio.get_running_loop().time() + lifetime
        self._suspended_until = math.inf

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            return first
        while not self._encoder.finished:
            try:
                piece = await self._next()
            except (StopAsyncIteration, RunNotFound):
                # The run was deleted, or the service closed; a log that is over has ended the answer before.
                piece = self._encoder.fail(_DRAINING if self._draining() else _GONE)
            except Exception as error:
                piece = self._failed(error)
            if piece:
                return piece
        raise StopAsyncIteration

    async def _next(self) -> bytes:
        loop = asyncio.get_running_loop()
        self._note_suspension(loop.time())
        until = min(self._end_at, self._suspended_until)
        wait = min(self._options.heartbeat, max(0.0, until - loop.time()))
        got = await self._subscription.next(wait)
        if isinstance(got, HistoryReset):
            piece = self._encoder.reset(got)
        elif got is not None:
            piece = self._encoder.encode(got)
        elif self._draining():
            return self._encoder.fail(_DRAINING)
        elif loop.time() >= self._suspended_until:
            return self._encoder.fail(_SUSPENDED)
        elif loop.time() >= self._end_at:
            return self._encoder.fail(_EXPIRED)
        else:
            return KEEP_ALIVE
        return piece

    def _note_suspension(self, now: float) -> None:
        if not self._subscription.suspended:
            self._suspended_until = math.inf
        elif self._suspended_until == math.inf:
            self._suspended_until = now + self._options.suspended_linger

    def _failed(self, error: Exception) -> bytes:
        correlation = correlation_id()
        run_id = self._subscription.run_id
        if isinstance(error, BufferUnavailable):
            log.warning(
                "run %s: an answer breaks off, the store is away (%s): %s", run_id, correlation, error
            )
        else:
            log.error("run %s: an answer failed, correlation id %s", run_id, correlation, exc_info=error)
        return self._encoder.fail(_LOST)

    async def aclose(self) -> None:
        """Close the subscription, which tells the service that this client has gone; idempotent."""
        let_go, self._let_go = self._let_go, None
        if let_go is None:
            return
        let_go()
        try:
            await self._subscription.close()
        except Exception:
            log.exception("run %s: closing a subscription failed", self._subscription.run_id)
