"""The three ways to read a run with `StreamChat.attach`: iterate, enter, or await."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from contextlib import aclosing
from types import TracebackType

from streamchat.events import StoredEvent
from streamchat.service.hub import HistoryReset, Subscription

__all__ = ["Attachment"]


class Attachment:
    """A run about to be read; nothing happens before it is used, and it is used once.

    ``async for event in attachment`` gives each event until the run is over; ``async with attachment as
    subscription`` and ``await attachment`` give the `Subscription`, which the latter's caller closes. Each
    raises what `StreamChat.attach` names.
    """

    def __init__(self, open_it: Callable[[], Awaitable[Subscription]]) -> None:
        self._open = open_it
        self._entered: Subscription | None = None

    def __await__(self) -> Generator[object, None, Subscription]:
        return self._open().__await__()

    async def __aenter__(self) -> Subscription:
        self._entered = await self._open()
        return self._entered

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._entered is not None:
            await self._entered.close()

    def __aiter__(self) -> AsyncIterator[StoredEvent | HistoryReset]:
        return self.events()

    async def events(self) -> AsyncGenerator[StoredEvent | HistoryReset, None]:
        """Give each event until the run is over. Raises `Busy` when this process shuts down before that."""
        async with self as subscription, aclosing(subscription.events()) as events:
            async for event in events:
                yield event
