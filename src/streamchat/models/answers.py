"""One response of a provider while it is read: blocks of bytes in, batches of deltas out, bounded in time.

What the SDK's own stream class does with a response is done here, without building its classes: an error
object in the stream, the end mark, the drain behind it, and the transport's errors, which are no openai
errors in mid-stream.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Protocol

import anyio
from openai import AsyncAPIResponse
from pydantic import BaseModel

from streamchat.concurrency import OwnedTask, Wakeup, spawn
from streamchat.core.accumulator import Completion, CompletionReader, Delta
from streamchat.core.reader import Api
from streamchat.errors import ModelError
from streamchat.models.failures import error_object, request_failure, transport_failure
from streamchat.models.watch import Watch

__all__ = ["Answer", "ByteSource", "ChunkSource", "Source"]

log = logging.getLogger("streamchat.models")

# After the finish reason only usage and the end mark can come; a server that sends neither is not waited for
# any longer.
_AFTER_FINISH = 5.0
# For the last bytes behind the end mark, so that the connection can be used again; the SDK's bound is the
# same.
_DRAIN_SECONDS = 0.1
# How many blocks are read ahead at most. httpx2 gives one for each HTTP chunk, so a burst is many small ones.
_AHEAD = 64
# After so many batches of one block reading ahead is given up.
_SINGLES = 4
# It begins with a block that came within so many seconds: more are likely to be there.
_QUICK = 0.001


class Source(Protocol):
    """Where the blocks of a response come from; ``read`` raises ``StopAsyncIteration`` at the end."""

    read: Callable[[], Awaitable[Any]]

    def feed(self, reader: CompletionReader, blocks: Sequence[Any]) -> list[Delta]:
        """Give blocks to the reader."""
        ...

    async def aclose(self) -> None:
        """Close the response."""
        ...


class ByteSource:
    """The body of a response of the SDK, undone of its compression by the transport."""

    def __init__(self, response: AsyncAPIResponse[Any]) -> None:
        self._response = response.http_response
        self._blocks: AsyncIterator[bytes] = _blocks_of(self._response)
        self.read: Callable[[], Awaitable[Any]] = self._blocks.__anext__

    def feed(self, reader: CompletionReader, blocks: Sequence[bytes]) -> list[Delta]:
        """Decode and accumulate."""
        return reader.feed(blocks[0] if len(blocks) == 1 else b"".join(blocks))

    async def aclose(self) -> None:
        """Close the response, and with it the connection unless the body was read to its end."""
        try:
            if isinstance(self._blocks, AsyncGenerator):
                await self._blocks.aclose()
        finally:
            await self._response.aclose()


def _blocks_of(response: Any) -> AsyncIterator[bytes]:
    """The blocks of a response of httpx2, undone of their compression.

    Where there is none, they are taken as the transport gives them: the two generators and three decoders of
    `aiter_bytes` that pass each block on as it is cost 8 µs of a chunk, live.
    """
    plain = response.headers.get("content-encoding", "identity").strip().lower() in ("", "identity")
    if plain and not response.is_stream_consumed and not response.is_closed:
        response.is_stream_consumed = True
        return response.stream.__aiter__()  # type: ignore[no-any-return]
    # Not the SDK's `iter_bytes`: that one wraps this generator, and closing the wrapper leaves it open.
    return response.aiter_bytes()  # type: ignore[no-any-return]


class ChunkSource:
    """The chunks of a stream that is not the SDK's: objects (with ``model_dump``) or mappings."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._chunks: AsyncIterator[Any] = stream.__aiter__()
        self.read: Callable[[], Awaitable[Any]] = self._chunks.__anext__

    def feed(self, reader: CompletionReader, blocks: Sequence[Any]) -> list[Delta]:
        """Accumulate; the decoding was done elsewhere."""
        reader.frames += len(blocks)
        return [delta for block in blocks for delta in reader.accumulator.add(_as_mapping(block))]

    async def aclose(self) -> None:
        """Close iterator and stream, as far as they can be closed."""
        for owner in (self._chunks, self._stream):
            close = getattr(owner, "aclose", None) or getattr(owner, "close", None)
            if close is not None:
                closing = close()
                if isinstance(closing, Awaitable):
                    await closing


def _as_mapping(chunk: Any) -> Mapping[str, Any]:
    if isinstance(chunk, BaseModel):
        # Providers' values often are not of the declared types; that is no reason to warn about each chunk.
        return chunk.model_dump(mode="json", exclude_unset=True, warnings=False)
    dumped: Mapping[str, Any] = chunk if isinstance(chunk, Mapping) else chunk.model_dump()
    return dumped


class Answer:
    """Reads one response.

    `start` sends the request and waits for the first batch of deltas, `batch` for the next; ``over`` is True
    once the stream has ended, whether well or not, and `completion` then says what it came to. Times are in
    seconds, None for no limit: ``first_token_timeout`` runs from the sending of the request to the first
    delta; ``idle_timeout`` runs while a batch is waited for, and starts again with each frame that has data
    (comments have none).

    In a burst a task of its own reads ahead, so that all that is there at once is one batch (a read that
    waits can be neither put aside nor left open while a batch goes out). Where blocks come one by one, that
    would only be one more task to wake for each, so it begins with a block that was there at once, and ends
    when blocks come one by one again.
    """

    def __init__(
        self, api: Api, *, first_token_timeout: float | None = None, idle_timeout: float | None = None
    ) -> None:
        self.over = False
        self._reader = CompletionReader(api, one_choice=True)
        self._whole = api == "responses"  # the final event is the end; a finish reason is not
        self._first = first_token_timeout
        self._idle = idle_timeout
        self._spoken = False
        self._failure: ModelError | None = None
        self._broken: ModelError | None = None  # the connection, or a timeout
        self._at_end = False
        self._ended = False  # the finish has come
        self._patience = self._longest_wait()  # kept, for it is asked at every chunk and changes twice
        self._source: Source | None = None
        self._watch = Watch()
        self._blocks: list[Any] = []
        # Reading ahead:
        self._task: OwnedTask | None = None
        self._ahead = False
        self._arrived = Wakeup()
        self._taken = Wakeup()
        self._singles = 0
        self._quick = False  # the last block was there at once

    async def start(self, send: Callable[[], Awaitable[Source]]) -> list[Delta]:
        """Send the request; return the first batch, empty only if the stream ended without any deltas.

        Raises `ModelError` when there is no such batch; the response is closed then, as it is when cancelled.
        """
        started = monotonic()
        try:
            self._source = await self._sent(send, started)
            batch = await self.batch(started)
            if not batch and self._failure is not None:
                raise self._failure
        except BaseException:
            await self.aclose()
            raise
        return batch

    async def batch(self, since: float | None = None) -> list[Delta]:
        """The deltas that have come by now, or the next that come; empty only at the end.

        ``since`` is when the time that they may take began (as ``time.monotonic`` counts); by default now.
        """
        source, watch, blocks = self._source, self._watch, self._blocks
        assert source is not None
        if since is None:
            since = monotonic()
        while not self.over:
            if not blocks and not self._at_end:
                watch.until = None if self._patience is None else since + self._patience
                ahead = self._ahead or (self._quick and self._begins_reading_ahead(source))
                # All awaits of a chunk come through here: no coroutine in between.
                try:
                    with watch:
                        if ahead:
                            await self._arrived.wait()
                        else:
                            blocks.append(await source.read())
                            self._quick = monotonic() - since < _QUICK
                except StopAsyncIteration:
                    self._end()
                except Exception as error:
                    self._end(self._too_late() if watch.expired else transport_failure(error))
                continue
            frames = self._reader.frames
            deltas = self._take(source)
            if deltas or self.over:
                if not self._spoken:
                    self._spoken = True
                    self._patience = self._longest_wait()
                return deltas
            if self._reader.frames != frames and (self._spoken or self._ended):
                since = monotonic()
        return []

    @property
    def failed(self) -> bool:
        """Whether `completion` will raise; deltas that came before it count nevertheless."""
        return self._failure is not None

    def completion(self) -> Completion:
        """What it came to; raises `ModelError` where the stream broke off, failed or ended too early."""
        if self._failure is not None:
            raise self._failure
        completion = self._reader.finish()
        if self._reader.left_out:
            log.warning("response %s has several choices: only the first was read", completion.response_id)
        return completion

    async def aclose(self) -> None:
        """Close the response: at once, or, where the stream has ended well, after a short drain."""
        source, self._source = self._source, None
        self._watch.close()
        if source is None:
            return
        # Trio refuses an await to a task that is cancelled, and closing takes some.
        with anyio.CancelScope(shield=True):
            try:
                await self._end_reading(source)
            finally:
                # What goes wrong here is of no interest: the answer is complete, or its failure is known.
                with suppress(Exception):
                    await source.aclose()

    # ---------------------------------------------------------------------------------------------- reading

    async def _sent(self, send: Callable[[], Awaitable[Source]], started: float) -> Source:
        until = None if self._first is None else started + self._first
        try:
            source: Source = await self._watch.wait(send, until)
        except Exception as error:
            if self._watch.expired:
                raise self._too_late() from None
            if isinstance(error, ModelError):
                raise
            raise request_failure(error) from error
        return source

    def _longest_wait(self) -> float | None:
        """How many seconds the next data may take."""
        limit = self._idle if self._spoken else self._first
        if self._ended:
            limit = _AFTER_FINISH if limit is None else min(limit, _AFTER_FINISH)
        return limit

    def _take(self, source: Source) -> list[Delta]:
        """Read what has come, or note that nothing more will."""
        reader, accumulator, blocks = self._reader, self._reader.accumulator, self._blocks
        if not blocks:
            deltas = reader.close()
            self.over = True
            self._failure = self._ending(self._broken)
            return deltas
        self._singles = self._singles + 1 if len(blocks) == 1 else 0
        deltas = source.feed(reader, blocks)
        if len(blocks) >= _AHEAD:
            self._taken.set()
        blocks.clear()
        if accumulator.ended and not self._ended:
            self._ended = True
            self._patience = self._longest_wait()
        if accumulator.done or accumulator.error is not None or (self._whole and self._ended):
            self.over = True
            self._failure = self._ending(None)  # what breaks behind it is of no interest
        return deltas

    def _end(self, broken: ModelError | None = None) -> None:
        self._at_end = True
        self._broken = broken

    def _begins_reading_ahead(self, source: Source) -> bool:
        """Have a task read from now on, which it is time to do; True."""
        self._singles = 0
        self._quick = False
        self._ahead = True
        self._task = spawn(lambda: self._read_ahead(source), "streamchat: a model's response")
        return True

    async def _read_ahead(self, source: Source) -> None:
        """Runs as a task of its own, until the body ends or blocks come one by one."""
        blocks = self._blocks
        try:
            while self._singles < _SINGLES:
                blocks.append(await source.read())
                if len(blocks) == 1:
                    self._arrived.set()
                if len(blocks) >= _AHEAD:
                    await self._taken.wait()
        except StopAsyncIteration:
            self._end()
        except Exception as error:
            self._end(transport_failure(error))
        finally:
            self._ahead = False
            self._arrived.set()

    async def _end_reading(self, source: Source) -> None:
        """Let the rest be read if the stream has ended well, and end the task."""
        task = self._task
        drains = self.over and self._failure is None and not self._at_end
        if drains and (task is None or task.done):
            self._singles = 0
            task = spawn(lambda: self._read_ahead(source), "streamchat: behind a model's response")
        if task is None:
            return
        try:
            if drains:
                await task.wait(_DRAIN_SECONDS)
        finally:
            task.cancel()
            await task.wait()

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

    def _ending(self, broken: ModelError | None) -> ModelError | None:
        """What is wrong with the stream, now that it is over; ``broken`` says how its connection ended."""
        accumulator = self._reader.accumulator
        detail = accumulator.error_detail
        # Once the finish has come, a broken connection takes nothing away but the usage.
        if broken is not None and (accumulator.error is not None or not accumulator.ended):
            return broken
        if accumulator.error is not None:
            if isinstance(detail, str):
                text = f"the stream reported a failure, or holds what is not JSON: {detail[:200]!r}"
                return ModelError(text, code="stream_error", retryable=True)
            return error_object(detail)
        if not accumulator.ended:
            text = "the stream ended without a finish reason"
            return ModelError(text, code="incomplete_stream", retryable=True)
        word = accumulator.finish_reason
        if word == "error":
            text = 'the stream ended with the finish reason "error", and no more words'
            return ModelError(text, code="stream_error", retryable=True)
        if word == "cancelled":
            return ModelError("the provider cancelled the response", code="stream_error", retryable=False)
        return None
