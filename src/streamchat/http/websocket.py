"""The native wire over a WebSocket: any number of runs on one connection, cancel and answers in-band.

A client sends JSON objects with a ``type``, the server texts of one or more lines of JSON. Cursors mean what
they mean over server-sent events, and the same policies hold: leaving cancels nothing by itself.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from pydantic_core import from_json

from streamchat.core.cursor import parse_cursor
from streamchat.errors import RunNotFound, StreamChatError
from streamchat.events import dump_json
from streamchat.http.endpoints import Endpoints
from streamchat.http.errors import HTTPError, error_response
from streamchat.http.requests import ClientGone, Request, Response
from streamchat.http.rounds import rounds
from streamchat.http.routing import Call
from streamchat.http.runs import client_id
from streamchat.http.streams import spread
from streamchat.http.websocket_messages import (
    Approve,
    Attach,
    Cancel,
    Detach,
    Incoming,
    Start,
    SubmitToolResult,
    read_message,
)
from streamchat.service.hub import Subscription
from streamchat.wire.native_lines import LINES, messages

__all__ = ["COME_BACK", "TOO_LARGE", "Connection", "WebSocketSession", "admit"]

log = logging.getLogger("streamchat.http")

COME_BACK = 1001
"""The close code of a server that goes away, and of a connection that has lived long enough."""

TOO_LARGE = 1009
"""The close code after a message that is larger than a body may be."""

_MOST_RUNS = 100
_LOOK = 1.0


class Connection(Protocol):
    """A WebSocket that was accepted, as its server has it."""

    async def receive(self) -> bytes:
        """Return the next message; raises `ClientGone`."""
        ...

    async def send(self, text: bytes) -> None:
        """Send one text message (UTF-8); raises `ClientGone`."""
        ...

    async def close(self, code: int) -> None:
        """Close it; nothing where it is closed."""
        ...


async def admit(endpoints: Endpoints, request: Request) -> tuple[Call, float] | Response:
    """Judge a handshake: who it is, and for how many seconds; or the answer that refuses it.

    A page of another origin is refused as it is with a POST: browsers let any page open a WebSocket, with the
    user's cookies.
    """
    try:
        return await endpoints.admit(request)
    except Exception as error:
        return error_response(error, f"WebSocket {request.path!r:.200}")


class _Following:
    """A run that is streamed; ``task`` does it, and `let_go` may be called by whoever ends it.

    A task that is cancelled before its first step runs nothing, not even what it would do in the end.
    """

    def __init__(self, subscription: Subscription, let_go: Callable[[], None]) -> None:
        self.subscription = subscription
        self.task: asyncio.Task[None] | None = None
        self._let_go: Callable[[], None] | None = let_go

    async def let_go(self) -> None:
        """Give the place back and close the subscription; idempotent."""
        let_go, self._let_go = self._let_go, None
        if let_go is None:
            return
        let_go()
        try:
            await self.subscription.close()
        except Exception:
            log.exception("run %s: closing a subscription failed", self.subscription.run_id)

    async def end(self) -> None:
        """Stop the task and let the run go."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait({self.task})
        await self.let_go()


class WebSocketSession:
    """One connection, from its handshake to its end: `run` serves it."""

    def __init__(self, call: Call, connection: Connection, lifetime: float) -> None:
        self._call = call
        self._endpoints = call.endpoints
        self._chat = call.endpoints.chat
        self._connection = connection
        self._lifetime = lifetime
        self._sending = asyncio.Lock()
        self._streams: dict[str, _Following] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        """Those of the streams, and of such as are over and let go."""
        self._code: int | None = None
        self._leaving = asyncio.Event()

    async def run(self) -> None:
        """Serve the connection until it is closed by either side; all that was attached is let go then."""
        looks = rounds(_LOOK)
        looks.join(self)
        reading = asyncio.ensure_future(self._read())
        beating = asyncio.ensure_future(self._beat())
        try:
            lifetime = None if self._lifetime == math.inf else self._lifetime
            done, _ = await asyncio.wait(
                {reading, beating}, timeout=lifetime, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                error = task.exception()
                if error is not None and not isinstance(error, ClientGone):
                    log.error("a WebSocket failed", exc_info=error)
        finally:
            looks.leave(self)
            reading.cancel()
            beating.cancel()
            await asyncio.wait({reading, beating})
            await asyncio.gather(*(following.end() for following in list(self._streams.values())))
            if self._tasks:
                await asyncio.wait(self._tasks)
            await self._connection.close(self._code or COME_BACK)

    def visit(self) -> None:
        """Notice that the service goes away; what is attached would tell, but nothing may be."""
        if self._chat.draining:
            self._leaving.set()

    async def _beat(self) -> None:
        """Tell a quiet connection that it lives, and end it when the service goes away."""
        while not self._leaving.is_set():
            try:
                async with asyncio.timeout(self._endpoints.options.heartbeat):
                    await self._leaving.wait()
            except TimeoutError:
                await self._send(b'{"type":"heartbeat"}')
        # Whoever is attached is told by its own stream first.
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _read(self) -> None:
        most = self._endpoints.body_limit
        while True:
            data = await self._connection.receive()
            if len(data) > most:
                self._code = TOO_LARGE
                return
            try:
                message = read_message(data)
            except HTTPError as error:
                await self._tell_error(error, "message", _ref_of(data))
                continue
            try:
                await self._do(message)
            except ClientGone:
                raise
            except Exception as error:
                await self._tell_error(error, message.type, message.ref)

    async def _do(self, message: Incoming) -> None:
        chat, principal = self._chat, self._call.principal
        if isinstance(message, Start):
            await self._start(message)
        elif isinstance(message, Attach):
            await self._attach(message)
        elif isinstance(message, Detach):
            await self._detach(message.run_id)
            await self._answer("detached", message.ref, run_id=message.run_id)
        else:
            if isinstance(message, Cancel):
                await chat.cancel(message.run_id, principal, reason=message.reason)
            elif isinstance(message, Approve):
                await chat.resolve_approval(
                    message.run_id,
                    message.call_id,
                    message.approved,
                    reason=message.reason,
                    arguments=message.arguments,
                    principal=principal,
                )
            else:
                assert isinstance(message, SubmitToolResult)
                await chat.submit_tool_result(
                    message.run_id, message.call_id, message.output, error=message.error, principal=principal
                )
            await self._answer("accepted", message.ref, run_id=message.run_id)

    # Streams.

    async def _start(self, message: Start) -> None:
        let_go, _ = await self._take_place()
        try:
            started = await self._chat.start(
                message.conversation_id,
                message.content(),
                self._call.principal,
                idempotency_key=message.idempotency_key,
                metadata=message.metadata,
                system_message=message.system_message,
                client_id=client_id(self._call.request, message),
            )
            await self._answer(
                "started",
                message.ref,
                run_id=started.run_id,
                message_id=started.message_id,
                conversation_id=started.conversation_id,
                new=started.new,
            )
            await self._detach(started.run_id)
            subscription = await self._subscribe(started.run_id, None, message.client_id)
        except BaseException:
            let_go()
            raise
        self._follow(subscription, let_go)

    async def _attach(self, message: Attach) -> None:
        if message.last_event_id is not None:
            parse_cursor(message.last_event_id)
        await self._detach(message.run_id)
        let_go, _ = await self._take_place()
        try:
            subscription = await self._subscribe(message.run_id, message.last_event_id, None)
            try:
                await self._answer(
                    "attached", message.ref, run_id=message.run_id, last_event_id=subscription.cursor
                )
            except BaseException:
                await subscription.close()
                raise
        except BaseException:
            let_go()
            raise
        self._follow(subscription, let_go)

    async def _take_place(self) -> tuple[Callable[[], None], float]:
        if len(self._streams) >= _MOST_RUNS:
            raise HTTPError(429, "too_many_streams", f"One connection streams {_MOST_RUNS} runs.", headers=[])
        return await self._endpoints.take_place(self._call)

    async def _subscribe(self, run_id: str, cursor: str | None, named: str | None) -> Subscription:
        name = named or client_id(self._call.request)
        return await self._chat.attach(run_id, cursor, self._call.principal, client_id=name)

    def _follow(self, subscription: Subscription, let_go: Callable[[], None]) -> None:
        run_id = subscription.run_id
        self._streams[run_id] = following = _Following(subscription, let_go)
        task = asyncio.create_task(self._stream(following), name=f"streamchat websocket {run_id}")
        following.task = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _stream(self, following: _Following) -> None:
        """Send what a run brings; runs as a task of its own, and never raises."""
        subscription = following.subscription
        run_id = subscription.run_id
        reason = "finished"
        try:
            while not subscription.finished:
                data = await subscription.next_bytes(LINES)
                if data is None:
                    reason = "draining"
                    self._leaving.set()
                    subscription.returning = self._endpoints.options.retry
                    break
                for text in messages(run_id, data):
                    await self._send(text)
            await self._end(subscription, reason)
        except StopAsyncIteration:
            await self._end_quietly(subscription, "draining")
        except RunNotFound:
            await self._end_quietly(subscription, "deleted")
        except ClientGone:
            pass
        except Exception:
            log.exception("run %s: a stream over a WebSocket failed", run_id)
            await self._end_quietly(subscription, "failed")
        finally:
            if self._streams.get(run_id) is following:
                del self._streams[run_id]
            await following.let_go()

    async def _end(self, subscription: Subscription, reason: str) -> None:
        retry = None if reason in ("finished", "deleted") else spread(self._endpoints.options.retry)
        told = {"run_id": subscription.run_id, "reason": reason, "last_event_id": subscription.cursor}
        await self._answer("end", None, **told, **({} if retry is None else {"retry": round(retry * 1000)}))

    async def _end_quietly(self, subscription: Subscription, reason: str) -> None:
        with suppress(ClientGone):
            await self._end(subscription, reason)

    async def _detach(self, run_id: str) -> None:
        following = self._streams.pop(run_id, None)
        if following is not None:
            await following.end()

    # Sending.

    async def _answer(self, kind: str, ref: str | None, **fields: Any) -> None:
        await self._send(dump_json({"type": kind, **({} if ref is None else {"ref": ref}), **fields}))

    async def _tell_error(self, error: Exception, kind: str, ref: str | None) -> None:
        if not isinstance(error, StreamChatError):
            log.error("a WebSocket message failed", exc_info=error)
        response = error_response(error, f"WebSocket {kind}")
        assert isinstance(response.body, bytes)
        await self._answer("error", ref, status=response.status, **from_json(response.body))

    async def _send(self, text: bytes) -> None:
        """Send one message when it is its turn; a client that has not taken it after ``send_timeout`` is let
        go, and comes back."""
        try:
            async with self._sending, asyncio.timeout(self._endpoints.options.send_timeout):
                await self._connection.send(text)
        except TimeoutError:
            log.info("a WebSocket ends: its client took nothing for its time")
            await self._connection.close(COME_BACK)
            raise ClientGone("the client takes nothing") from None


def _ref_of(data: bytes) -> str | None:
    """Return the ``ref`` of a message that does not read, where it has one."""
    try:
        ref = from_json(data).get("ref")
    except (ValueError, AttributeError):
        return None
    return ref[:100] if isinstance(ref, str) else None
