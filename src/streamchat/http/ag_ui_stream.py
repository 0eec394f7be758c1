"""A run's answer as the body of one AG-UI response."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from streamchat.events import StoredEvent
from streamchat.service.hub import HistoryReset, Subscription
from streamchat.wire.ag_ui import AGUIWire, ag_ui_frame
from streamchat.wire.openai_answer import Failure

__all__ = ["EncodedResponse", "Enqueued"]


class EncodedResponse(AGUIWire):
    """What `AnswerStream` writes by: a wire, and how it ends where the run does not."""

    def fail(self, failure: Failure) -> bytes:
        """End the response; a run that waits for jobs alone goes on without it."""
        encoder = self._encoder
        if failure.code == "run_suspended" and encoder.paused:
            said = encoder.pause()
        else:
            said = encoder.break_off(failure.code, failure.message, retryable=True)
        return b"".join(map(ag_ui_frame, said))


class Enqueued:
    """The subscription of a run that may have waited for its turn: ``look`` is called before anything behind
    ``run_started`` is handed out."""

    def __init__(self, subscription: Subscription, look: Callable[[], Awaitable[None]]) -> None:
        self._subscription = subscription
        self._look: Callable[[], Awaitable[None]] | None = look

    def __getattr__(self, name: str) -> Any:
        return getattr(self._subscription, name)

    async def next(self, seconds: float | None = None) -> HistoryReset | Sequence[StoredEvent] | None:
        """Return what the subscription gives."""
        got = await self._subscription.next(seconds)
        if got is None or self._look is None:
            return got
        if isinstance(got, HistoryReset) or got[-1].type != "run_started":
            look, self._look = self._look, None
            await look()
        return got
