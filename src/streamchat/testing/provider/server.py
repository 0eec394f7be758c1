"""A provider over real HTTP on loopback that answers from a script: Chat Completions, Responses and models.

It is a small HTTP/1.1 server on asyncio streams: what it must do that no framework allows is to cut a body at
any byte, to reset a connection, and to count connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable, Iterable
from inspect import isawaitable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from streamchat.concurrency import on_asyncio
from streamchat.core.jsontext import decode_json
from streamchat.errors import InvalidInput
from streamchat.testing.histories import HistoryError, check_history, check_items
from streamchat.testing.provider.replies import (
    KEEP_ALIVE,
    Api,
    ProviderRequest,
    Reply,
    Segment,
    encode_segments,
    error_body,
    rendered,
)
from streamchat.testing.script import Flag, ScriptExhausted, Step

if TYPE_CHECKING:
    import openai

__all__ = ["Answer", "ReplyFunction", "ScriptedProvider"]

Answer: TypeAlias = "Step | Reply | bytes | str"
"""What a script holds: a step; a reply with faults; a recorded body, sent byte for byte; or the text of a
step.
"""

ReplyFunction: TypeAlias = "Callable[[ProviderRequest], Answer | Awaitable[Answer]]"

# By the end of the path: Azure and gateways have others before it.
_APIS: dict[str, Api] = {"/chat/completions": "chat", "/responses": "responses", "/models": "models"}
_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}


class ScriptedProvider:
    """A model provider that answers from a script, over real HTTP on loopback.

    ``script`` is a list of answers, one for each request in order, or a function of the `ProviderRequest` (it
    may be async); with ``repeat`` the list starts again at its end. A request past the end gets status 500
    and is a failure of `assert_used_up`. ``strict`` (the default) refuses with 400 a history in which a call
    has no answer.

    ``async with`` runs it on the present asyncio loop, or in a thread under trio; a plain ``with`` always in
    a thread. ``base_url`` is what a client takes, `client` makes one; ``requests`` and ``connections`` (their
    count) record what came. Leaving the block closes all connections.
    """

    def __init__(
        self,
        script: Iterable[Answer] | ReplyFunction = (),
        *,
        repeat: bool = False,
        strict: bool = True,
        model: str = "scripted",
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._function: ReplyFunction | None = script if callable(script) else None
        self._script: list[Answer] = [] if callable(script) else list(script)
        self._repeat = repeat
        self._strict = strict
        self.model = model
        self.host = host
        self.port = port
        self.requests: list[ProviderRequest] = []
        self.connections = 0
        self.problems: list[str] = []
        self._answered = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread: _Thread | None = None
        self._hung_up = Flag()

    # -------------------------------------------------------------------------------------------- as a script

    @property
    def base_url(self) -> str:
        """The URL to give to a client."""
        return f"http://{self.host}:{self.port}/v1"

    def client(self, **options: Any) -> openai.AsyncOpenAI:
        """An ``AsyncOpenAI`` that talks to this provider; the caller closes it."""
        import openai  # late: the pytest plugin, and so every pytest, imports this module

        given: dict[str, Any] = {"base_url": self.base_url, "api_key": "scripted", **options}
        if "http_client" not in given:
            # The default one reads the machine's certificates, which takes most of a short test's time.
            nothing_trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            given["http_client"] = openai.DefaultAsyncHttpxClient(verify=nothing_trusted)
        return openai.AsyncOpenAI(**given)

    def add(self, *answers: Answer) -> None:
        """Append to the script."""
        self._script += answers

    def assert_used_up(self) -> None:
        """Raise `ScriptExhausted` unless each answer was asked for, and each request could be answered."""
        left = len(self._script) - self._answered
        if self.problems or (self._function is None and not self._repeat and left > 0):
            unused = [f"{left} of {len(self._script)} answers were never asked for"] if left > 0 else []
            raise ScriptExhausted("; ".join([*self.problems, *unused]))

    async def hung_up(self) -> None:
        """Wait until a client has closed its connection in the middle of a response."""
        await self._hung_up.wait()

    async def _answer_or_problem(self, request: ProviderRequest) -> Reply:
        try:
            return await self._answer(request)
        except Exception as error:  # a script's function is the test's own code: the test must hear of it
            self.problems.append(f"request {request.number}: {type(error).__name__}: {error}")
            return Reply(json=error_body(self.problems[-1], status=500), status=500)

    async def _answer(self, request: ProviderRequest) -> Reply:
        if request.api in ("chat", "responses") and self._strict:
            try:
                (check_items if request.api == "responses" else check_history)(request.messages)
            except HistoryError as error:
                self.problems.append(str(error))
                return Reply(json=error_body(str(error), param="messages"), status=400)
        if self._function is not None:
            answer = self._function(request)
            return _as_reply(await answer if isawaitable(answer) else answer)
        index = self._answered % len(self._script) if self._repeat and self._script else self._answered
        if index >= len(self._script):
            self.problems.append(
                f"request {request.number} came after the script's {len(self._script)} answers"
            )
            return Reply(json=error_body(self.problems[-1], status=500), status=500)
        self._answered += 1
        return _as_reply(self._script[index])

    # -------------------------------------------------------------------------------------------- as a server

    async def __aenter__(self) -> Self:
        if on_asyncio():
            await self.start()
        else:
            self.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self.__exit__(kind, error, trace)
        else:
            await self.stop()

    def __enter__(self) -> Self:
        self._thread = _Thread(self)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop()

    async def start(self) -> None:
        """Listen on the present asyncio loop; ``port`` is known afterwards."""
        self._server = await asyncio.start_server(self._connected, self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and close all connections, also those that stand still."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        connection = self.connections
        try:
            while (request := await self._read(reader, connection)) is not None:
                if not await _send(reader, writer, *await self._respond(request)):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            self._hung_up.set()
        except asyncio.CancelledError:
            # The stop of the server; asyncio would log a cancelled handler as an error.
            pass
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _read(self, reader: asyncio.StreamReader, connection: int) -> ProviderRequest | None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = {
            name.strip().lower(): value.strip()
            for name, colon, value in (line.partition(":") for line in lines)
            if colon
        }
        data = await reader.readexactly(int(headers.get("content-length", 0)))
        path = target.partition("?")[0]
        request = ProviderRequest(
            number=len(self.requests) + 1,
            connection=connection,
            method=method,
            path=path,
            headers=headers,
            body=decode_json(data) if data else None,
            api=_api_of(path),
        )
        self.requests.append(request)
        return request

    async def _respond(self, request: ProviderRequest) -> tuple[Reply, list[Segment]]:
        if request.api == "models":
            entry = {"id": self.model, "object": "model", "created": 0, "owned_by": "streamchat"}
            reply = Reply(json={"object": "list", "data": [entry]})
        elif request.api == "other":
            reply = Reply(json=error_body(f"no such path: {request.path}", status=404), status=404)
        else:
            reply = await self._answer_or_problem(request)
        return rendered(reply, request, self.model)


def _api_of(path: str) -> Api:
    for end, api in _APIS.items():
        if path.endswith(end):
            return api
    return "other"


def _as_reply(answer: Answer) -> Reply:
    if isinstance(answer, Reply):
        return answer
    if isinstance(answer, Step):
        return Reply(step=answer)
    if isinstance(answer, str):
        return Reply(step=Step(answer))
    if isinstance(answer, bytes):
        return Reply(body=answer)
    raise InvalidInput(f"{answer!r} is not an answer: give a Step, a Reply, bytes or text")


async def _send(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, reply: Reply, segments: list[Segment]
) -> bool:
    """Send the response; say whether the connection goes on."""
    headers = {"content-type": reply.content_type, "transfer-encoding": "chunked", **reply.headers}
    if reply.gzip:
        headers["content-encoding"] = "gzip"
    head = f"HTTP/1.1 {reply.status} {_REASONS.get(reply.status, 'Scripted')}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(head.encode("latin-1") + b"\r\n")
    for segment in encode_segments(reply, segments):
        if segment.still or segment.stall is not None:
            await writer.drain()
            await _stand_still(reader, writer, reply, segment)
        if segment.data:
            if reply.delay:
                await asyncio.sleep(reply.delay)
            writer.write(b"%x\r\n%b\r\n" % (len(segment.data), segment.data))
            await writer.drain()
        if segment.cut == "end":
            break
        if segment.cut is not None:
            if segment.cut == "reset":
                _reset(writer)
            return False
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True


async def _stand_still(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, reply: Reply, segment: Segment
) -> None:
    """Wait as the segment says, sending comments; ``ConnectionResetError`` when the client hangs up."""
    released = asyncio.ensure_future(_wait(segment))
    hung_up = asyncio.ensure_future(reader.read(1))
    try:
        while not released.done():
            await asyncio.wait(
                [released, hung_up], timeout=reply.comments, return_when=asyncio.FIRST_COMPLETED
            )
            if hung_up.done():
                hung_up.result()
                raise ConnectionResetError("the client hung up")
            if not released.done():
                writer.write(b"%x\r\n%b\r\n" % (len(KEEP_ALIVE), KEEP_ALIVE))
                await writer.drain()
    finally:
        released.cancel()
        hung_up.cancel()
        await asyncio.gather(released, hung_up, return_exceptions=True)


async def _wait(segment: Segment) -> None:
    if segment.stall is not None:
        await segment.stall.wait()
    else:
        await asyncio.Event().wait()


def _reset(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    # Closing with a linger time of zero sends RST in place of FIN.
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class _Thread:
    """Runs a provider on an event loop of its own."""

    def __init__(self, provider: ScriptedProvider) -> None:
        self._provider = provider
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="scripted-provider", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            self._error = error
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        await self._provider.start()
        self._ready.set()
        try:
            await self._stop.wait()
        finally:
            await self._provider.stop()
