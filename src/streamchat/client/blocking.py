"""`BlockingStreamChatClient`: the same client for programs without an event loop."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from anyio.from_thread import BlockingPortal, start_blocking_portal

from streamchat import Started, StoredEvent
from streamchat.client.client import StreamChatClient
from streamchat.client.following import Reset
from streamchat.errors import StreamChatError

__all__ = ["BlockingStreamChatClient"]


class BlockingStreamChatClient:
    """`StreamChatClient` with plain methods, for use with ``with``; takes the same arguments.

    A loop on a thread of its own does the work. May be used from several threads.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self._client = StreamChatClient(url, **options)
        self._stack: ExitStack | None = None
        self._portal: BlockingPortal | None = None
        self._reading: set[AsyncGenerator[StoredEvent | Reset, None]] = set()

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        self._portal = self._stack.enter_context(start_blocking_portal())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections and end the thread; idempotent."""
        stack, self._stack, portal, self._portal = self._stack, None, self._portal, None
        if stack is not None and portal is not None:
            with stack:
                while self._reading:  # iterators that nobody read to their end
                    portal.call(self._reading.pop().aclose)
                portal.call(self._client.close)

    def start(self, message: Any, **options: Any) -> Started:
        """See `StreamChatClient.start`."""
        return self._call("start", message, **options)  # type: ignore[no-any-return]

    def ask(self, message: Any, **options: Any) -> Iterator[StoredEvent | Reset]:
        """See `StreamChatClient.ask`; closing the iterator (or leaving the loop) closes the connection."""
        return self._iterate(self._client.ask(message, **options))

    def stream(self, run_id: str, after: str | None = None) -> Iterator[StoredEvent | Reset]:
        """See `StreamChatClient.stream`."""
        return self._iterate(self._client.stream(run_id, after))

    def reply(self, message: Any, **options: Any) -> dict[str, Any]:
        """See `StreamChatClient.reply`."""
        return self._call("reply", message, **options)  # type: ignore[no-any-return]

    def cancel(self, run_id: str, reason: str | None = None) -> None:
        """See `StreamChatClient.cancel`."""
        self._call("cancel", run_id, reason)

    def resolve_approval(self, run_id: str, call_id: str, approved: bool, **options: Any) -> None:
        """See `StreamChatClient.resolve_approval`."""
        self._call("resolve_approval", run_id, call_id, approved, **options)

    def submit_tool_result(self, run_id: str, call_id: str, output: Any = None, **options: Any) -> None:
        """See `StreamChatClient.submit_tool_result`."""
        self._call("submit_tool_result", run_id, call_id, output, **options)

    def status(self, run_id: str) -> dict[str, Any]:
        """See `StreamChatClient.status`."""
        return self._call("status", run_id)  # type: ignore[no-any-return]

    def messages(self, conversation_id: str, **options: Any) -> dict[str, Any]:
        """See `StreamChatClient.messages`."""
        return self._call("messages", conversation_id, **options)  # type: ignore[no-any-return]

    def conversations(self, **options: Any) -> dict[str, Any]:
        """See `StreamChatClient.conversations`."""
        return self._call("conversations", **options)  # type: ignore[no-any-return]

    def _opened(self) -> BlockingPortal:
        if self._portal is None:
            raise StreamChatError(
                "the client is not open: use `with BlockingStreamChatClient(url) as client:`"
            )
        return self._portal

    def _call(self, method: str, *args: Any, **options: Any) -> Any:
        async def run() -> Any:
            return await getattr(self._client, method)(*args, **options)

        return self._opened().call(run)

    def _iterate(self, events: AsyncGenerator[StoredEvent | Reset, None]) -> Iterator[StoredEvent | Reset]:
        portal = self._opened()
        self._reading.add(events)
        try:
            while True:
                try:
                    event = portal.call(events.__anext__)
                except StopAsyncIteration:
                    return
                yield event
        finally:
            if events in self._reading:
                self._reading.discard(events)
                portal.call(events.aclose)
