"""`BlockingStreamChatClient`: the same client for programs without an event loop."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, Self

from anyio.from_thread import BlockingPortal, start_blocking_portal

from streamchat import Started, StoredEvent
from streamchat.client.client import ClientTool, StreamChatClient
from streamchat.client.following import Reset
from streamchat.client.given import check_client
from streamchat.client.threads import Reading, Works, in_thread
from streamchat.errors import StreamChatError

__all__ = ["BlockingStreamChatClient"]


class BlockingStreamChatClient:
    """`StreamChatClient` with plain methods, for use with ``with``; takes the same arguments.

    A loop on a thread of its own does the work. May be used from several threads, and once: a client that
    was closed stays closed. Closing it (from any thread) ends what other threads wait for with a
    `StreamChatError`. Ctrl+C ends the waiting, and no run.

    Functions that it is given (``tools``, ``approve``, ``headers``) run in threads of their own: they may
    take their time, and call this client.
    """

    def __init__(self, url: str, **options: Any) -> None:
        # Before it is wrapped.
        check_client(
            options.get("patience", 0.0),
            *(options.get(name) for name in ("headers", "tools", "approve", "http")),
        )
        tools: Mapping[str, ClientTool] = options.get("tools") or {}
        options["tools"] = {name: in_thread(function) for name, function in tools.items()}
        for name in ("approve", "headers"):
            if callable(options.get(name)):
                options[name] = in_thread(options[name])
        self._client = StreamChatClient(url, **options)
        self._stack: ExitStack | None = None
        self._portal: BlockingPortal | None = None
        self._closed = False
        # Nothing may be given to a loop that has stopped: it would be waited for without end.
        self._lock = threading.RLock()
        self._thread: int | None = None
        self._works = Works()

    def __enter__(self) -> Self:
        with self._lock:
            if self._closed or self._stack is not None:
                state = "was closed" if self._closed else "is open"
                raise StreamChatError(f"the client {state}, and can be entered once: make another one")
            self._stack = ExitStack()
            self._portal = self._stack.enter_context(start_blocking_portal())
            self._thread = self._portal.call(threading.get_ident)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections and end the thread; idempotent."""
        with self._lock:
            stack, self._stack, portal, self._portal = self._stack, None, self._portal, None
            self._closed = True
        if stack is not None and portal is not None:
            with stack:
                portal.call(self._works.stop)  # (what other threads wait for, and iterators nobody read)
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

    def _call(self, method: str, *args: Any, **options: Any) -> Any:
        return self._wait(lambda: self._works.run(lambda: getattr(self._client, method)(*args, **options)))

    def _wait(self, function: Callable[[], Awaitable[Any]]) -> Any:
        """Run it on the loop, and return or raise what comes of it."""
        if threading.get_ident() == self._thread:
            raise StreamChatError(
                "the client's own loop cannot wait for the client: call it in a plain function, not in an "
                "async one that was given to it"
            )
        with self._lock:
            if self._portal is None:
                raise StreamChatError(
                    "the client was closed"
                    if self._closed
                    else "the client is not open: use `with BlockingStreamChatClient(url) as client:`"
                )
            future = self._portal.start_task_soon(_outcome, function)
        try:
            result, error = future.result()
            if error is not None:
                raise error
            return result
        finally:
            if not future.done():  # Ctrl+C
                future.cancel()

    def _iterate(self, events: AsyncGenerator[StoredEvent | Reset, None]) -> Iterator[StoredEvent | Reset]:
        reading = Reading(self._works, events)
        try:
            while (item := self._wait(reading.next)) is not None:
                yield item
        finally:
            # (where the client was closed the reading was; and the collector may come along on the loop)
            with suppress(StreamChatError):
                self._wait(reading.close)


async def _outcome(function: Callable[[], Awaitable[Any]]) -> tuple[Any, BaseException | None]:
    """What comes of it; what would end the loop (a tool that exits) is carried over to who waits."""
    try:
        return await function(), None
    except (KeyboardInterrupt, SystemExit) as error:
        return None, error
