"""One response of a provider while it is read: blocks of bytes in, batches of deltas out, bounded in time.

What the SDK's own stream class does with a response is done here, without building its classes: an error
object in the stream, the end mark, the drain behind it, and the transport's errors, which are no openai
errors in mid-stream.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any, Protocol

import anyio
import anyio.lowlevel
from openai import AsyncAPIResponse
from pydantic import BaseModel

from streamchat.concurrency import Deadline
from streamchat.core.accumulator import Completion, CompletionReader, Delta
from streamchat.core.reader import Api
from streamchat.errors import ModelError
from streamchat.models.failures import error_object, request_failure, transport_failure

__all__ = ["Answer", "ByteSource", "ChunkSource", "Source"]

# After the finish reason only usage and the end mark can come; a server that sends neither is not waited for
# longer.
_AFTER_FINISH = 5.0
# For the last bytes behind the end mark, so that the connection can be used again. The SDK's own bound is the
# same.
_DRAIN_SECONDS = 0.1
_DRAIN_BYTES = 65536


class Source(Protocol):
    """Where the blocks of a response come from; ``read`` gives the next, ``StopAsyncIteration`` at the end."""

    read: Callable[[], Awaitable[Any]]

    def feed(self, reader: CompletionReader, block: Any) -> list[Delta]:
        """Give a block to the reader."""

    async def drain(self) -> None:
        """Read what is left, within bounds, so that the connection can be used again."""

    async def aclose(self) -> None:
        """Close the response."""


class ByteSource:
    """The body of a response of the SDK, undone of its compression by the transport."""

    def __init__(self, response: AsyncAPIResponse[Any]) -> None:
        self._response = response.http_response
        # Not the SDK's `iter_bytes`: that one wraps this generator, and closing the wrapper leaves it open.
        self._blocks: AsyncGenerator[bytes, None] = self._response.aiter_bytes()
        self.read: Callable[[], Awaitable[Any]] = self._blocks.__anext__

    def feed(self, reader: CompletionReader, block: bytes) -> list[Delta]:
        """Decode and accumulate."""
        return reader.feed(block)

    async def drain(self) -> None:
        """Only HTTP/1.1 needs it: HTTP/2 closes the stream and keeps the connection."""
        if self._response.http_version != "HTTP/1.1":
            return
        left = _DRAIN_BYTES
        async with Deadline(_DRAIN_SECONDS):
            async for block in self._blocks:
                left -= len(block)
                if left < 0:
                    break
                await anyio.lowlevel.checkpoint()  # so that the deadline also ends what comes without waiting

    async def aclose(self) -> None:
        """Close the iteration and the response, and with it the connection unless the body was read to its
        end.
        """
        try:
            await self._blocks.aclose()
        finally:
            await self._response.aclose()


class ChunkSource:
    """The chunks of a stream that is not the SDK's: objects (with ``model_dump``) or mappings."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._chunks: AsyncIterator[Any] = stream.__aiter__()
        self.read: Callable[[], Awaitable[Any]] = self._chunks.__anext__

    def feed(self, reader: CompletionReader, block: Any) -> list[Delta]:
        """Accumulate; the decoding was done elsewhere."""
        reader.frames += 1
        if isinstance(block, BaseModel):
            # Providers' values often are not of the declared types; that is no reason to warn about each
            # chunk.
            block = block.model_dump(mode="json", exclude_unset=True, warnings=False)
        elif not isinstance(block, Mapping):
            block = block.model_dump()
        return reader.accumulator.add(block)

    async def drain(self) -> None:
        """Nothing is known of a connection."""

    async def aclose(self) -> None:
        """Close iterator and stream, as far as they can be closed."""
        for owner in (self._chunks, self._stream):
            close = getattr(owner, "aclose", None) or getattr(owner, "close", None)
            if close is not None:
                closing = close()
                if isinstance(closing, Awaitable):
                    await closing


class Answer:
    """Reads one response.

    `start` sends the request and waits for the first batch of deltas, `batch` for the next; ``over`` is True
    once the stream has ended, whether well or not, and `completion` then says what it came to. Times are in
    seconds, None for no limit: ``first_token_timeout`` runs from the sending of the request to the first
    delta; ``idle_timeout`` runs while a batch is waited for, and starts again with each frame that has data
    (comments have none).
    """

    def __init__(
        self, api: Api, *, first_token_timeout: float | None = None, idle_timeout: float | None = None
    ) -> None:
        self.over = False
        self._reader = CompletionReader(api)
        self._whole = api == "responses"  # the final event is the end; a finish reason is not
        self._first = first_token_timeout
        self._idle = idle_timeout
        self._spoken = False
        self._broken: ModelError | None = None  # the connection, or a timeout
        self._failure: ModelError | None = None
        self._at_end = False
        self._source: Source | None = None

    async def start(self, send: Callable[[], Awaitable[Source]]) -> list[Delta]:
        """Send the request; return the first batch of deltas, which is empty only if the stream ended without
        any.

        Raises `ModelError` when there is no such batch; the response is closed then, as it is when cancelled.
        """
        started = monotonic()
        try:
            async with Deadline(self._first) as deadline:
                try:
                    self._source = await send()
                except Exception as error:
                    raise request_failure(error) from error.__cause__
            if deadline.expired:
                raise self._too_late()
            batch = await self._next(started)
            if not batch and self._failure is not None:
                raise self._failure
        except BaseException:
            await self.aclose()
            raise
        return batch

    async def batch(self) -> list[Delta]:
        """The deltas of the next block that has any; empty only at the end."""
        return await self._next(monotonic())

    @property
    def failed(self) -> bool:
        """Whether `completion` will raise; deltas that came before it count nevertheless."""
        return self._failure is not None

    def completion(self) -> Completion:
        """What it came to; raises `ModelError` where the stream broke off, reported an error or ended too
        early.
        """
        if self._failure is not None:
            raise self._failure
        return self._reader.finish()

    async def aclose(self) -> None:
        """Close the response: at once, or, where the stream has ended well, after a short drain."""
        source, self._source = self._source, None
        if source is None:
            return
        try:
            if self.over and self._failure is None and not self._at_end:
                # The answer is complete: whatever the connection does now is no failure of it.
                with suppress(Exception):
                    await source.drain()
        finally:
            # Closing takes an await or two, which trio refuses to a task that is cancelled. What goes wrong
            # in it is of no interest: either the answer is complete, or its failure is known already.
            with anyio.CancelScope(shield=True), suppress(Exception):
                await source.aclose()

    async def _next(self, since: float) -> list[Delta]:
        source, reader = self._source, self._reader
        assert source is not None
        while not self.over:
            block = await self._read(source, since)
            if block is None:
                self.over = True
                deltas = reader.close()
                self._failure = self._ending()
            else:
                frames = reader.frames
                deltas = source.feed(reader, block)
                if reader.frames != frames and self._spoken:
                    since = monotonic()
                accumulator = reader.accumulator
                if accumulator.done or accumulator.error is not None or (self._whole and accumulator.ended):
                    self.over = True
                    self._failure = self._ending()
            if deltas or self.over:
                self._spoken = True
                return deltas
        return []

    async def _read(self, source: Source, since: float) -> Any:
        """The next block; None at the end, of whatever kind."""
        limit = self._idle if self._spoken else self._first
        if self._reader.accumulator.ended:
            limit = _AFTER_FINISH if limit is None else min(limit, _AFTER_FINISH)
        try:
            async with Deadline(None if limit is None else since + limit - monotonic()):
                return await source.read()
            self._broken = self._too_late()
        except StopAsyncIteration:
            self._at_end = True
        except Exception as error:
            self._broken = transport_failure(error)
        return None

    def _too_late(self) -> ModelError:
        if self._spoken:
            return ModelError(
                f"no data came for {self._idle} s (idle_timeout) in mid-stream",
                code="idle_timeout",
                retryable=True,
            )
        return ModelError(
            f"no token came within {self._first} s (first_token_timeout)",
            code="first_token_timeout",
            retryable=True,
        )

    def _ending(self) -> ModelError | None:
        """What is wrong with the stream, now that it is over: a broken connection is nothing after the
        finish.
        """
        accumulator = self._reader.accumulator
        detail = accumulator.error_detail
        if self._broken is not None and (accumulator.error is not None or not accumulator.ended):
            return self._broken
        if accumulator.error is not None:
            if isinstance(detail, str):
                text = f"the stream reported a failure, or holds what is not JSON: {detail[:200]!r}"
                return ModelError(text, code="stream_error", retryable=True)
            return error_object(detail)
        if not accumulator.ended:
            text = "the stream ended without a finish reason"
            return ModelError(text, code="incomplete_stream", retryable=True)
        return None
