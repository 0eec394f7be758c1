"""`StreamChatClient`: start runs, read them to their end, answer what they ask."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, TypeAlias
from urllib.parse import quote

import httpx2

from streamchat import Started, StoredEvent
from streamchat.client.connection import Connection, Headers
from streamchat.client.errors import ClientError
from streamchat.client.following import Hurry, Reset, follow
from streamchat.client.given import check_client, check_message, check_text
from streamchat.events import ApprovalRequested, Suspended

__all__ = ["Approve", "ClientTool", "StreamChatClient"]

Message: TypeAlias = str | Sequence[Mapping[str, Any]]
Approve: TypeAlias = Callable[[ApprovalRequested], bool | Awaitable[bool]]
"""Asked whether a call may run; called once for each call that waits."""
ClientTool: TypeAlias = Callable[..., Any]
"""A function for a tool that the client runs, called with the call's arguments; sync or async."""

_REPLY = 3600.0  # seconds for one request that waits for the end of a run
_STARTED = ("run_id", "message_id", "conversation_id")
_STATUS = ("run_id", "conversation_id", "status", "waits", "cursor", "message")
_OVER = ("success", "error", "cancelled")


class StreamChatClient:
    """A client of the endpoints at ``url`` (the prefix included), for use with ``async with``.

    ``headers`` are sent with each request: a mapping, or a function (sync or async) that is called for each
    connection, and once more after a 401, so that a token can be renewed. ``client_id`` names this client for
    presence. ``patience`` is how many seconds a piece of work may go without any progress while connections
    are tried again, with growing pauses. ``http`` is an `httpx2.AsyncClient` of the caller's: each
    stream takes one of its connections, so that its limit must be above the number of streams at once.

    ``tools`` are functions by name, for tools that run in the client; ``approve`` answers approvals. Without
    them, a run that waits goes on when somebody else answers.

    Raises `InvalidInput`, with ``field``, for what is none of these.

    All methods raise `ClientError` (the server refused; it has the status and a code) and
    `ServerUnreachable`. Cancelling any of them ends no run: `cancel` does.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Headers | None = None,
        client_id: str | None = None,
        patience: float = 120.0,
        tools: Mapping[str, ClientTool] | None = None,
        approve: Approve | None = None,
        http: httpx2.AsyncClient | None = None,
    ) -> None:
        check_client(patience, headers, tools, approve, http)
        self._connection = Connection(url, headers, client_id, patience, http)
        self._tools = dict(tools or {})
        self._approve = approve
        # By run, until its end is read: what is answered, or being answered, and results that may not have
        # arrived, by call.
        self._answered: dict[str, set[tuple[str, str]]] = {}
        self._results: dict[str, dict[str, dict[str, Any]]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; idempotent."""
        await self._connection.close()

    # Asking.

    async def start(
        self,
        message: Message,
        *,
        conversation_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        system_message: str | None = None,
        idempotency_key: str | None = None,
    ) -> Started:
        """Start a run and return its ids. Sent again after a lost answer, it still starts one run."""
        body = _asked(message, conversation_id, metadata, system_message)
        return await self._start(body, idempotency_key or uuid.uuid4().hex)

    async def _start(self, body: dict[str, Any], key: str) -> Started:
        answer = await self._connection.ask("POST", "/runs", body, key=key, needs=_STARTED)
        return Started(answer["run_id"], answer["message_id"], answer["conversation_id"])

    async def ask(self, message: Message, **options: Any) -> AsyncGenerator[StoredEvent | Reset, None]:
        """`start` a run (with its options) and yield what it brings until it is over; see `stream`."""
        started = await self.start(message, **options)
        async with aclosing(self.stream(started.run_id)) as events:
            async for event in events:
                yield event

    async def stream(
        self, run_id: str, after: str | None = None
    ) -> AsyncGenerator[StoredEvent | Reset, None]:
        """Yield a run's events behind the cursor ``after`` (exclusive; the ``id`` of an event), to its end.

        Each event comes once, over as many connections as it takes. A `Reset` replaces all that came before.
        What waits for this client is answered on the way: tools of ``tools``, approvals by ``approve``; by
        one of several readings of a run. A result that could not be sent is sent by the next reading. Where
        the server gives no streams (409 ``streaming_off``, 501), its log is asked for every few seconds.
        """
        async with aclosing(self._read(run_id, after, polls=True)) as items:
            async for item in items:
                yield item

    async def _read(
        self, run_id: str, after: str | None, *, polls: bool
    ) -> AsyncGenerator[StoredEvent | Reset, None]:
        answers = bool(self._tools or self._approve)
        asked: dict[str, ApprovalRequested] = {}
        hurry = Hurry()
        if answers and after is not None:
            # All that it waits for may have been asked before.
            await self._answer(run_id, asked)
        async with aclosing(follow(self._connection, _run(run_id), after, hurry, polls=polls)) as items:
            async for item in items:
                yield item
                if isinstance(item, StoredEvent):
                    if isinstance(item.event, ApprovalRequested):
                        asked[item.event.call_id] = item.event
                    waits = isinstance(item.event, Suspended)
                else:
                    waits = item.state.status == "suspended"
                if waits and answers:
                    await self._answer(run_id, asked)
                    hurry.say()
        # It is over, and waits for nothing any more.
        self._answered.pop(run_id, None)
        self._results.pop(run_id, None)

    async def _answer(self, run_id: str, asked: Mapping[str, ApprovalRequested]) -> None:
        """Answer what the run waits for now: what is read may be long past, and what was asked not read.

        It still waits for what it was given and has not taken: that is remembered until its end is read.
        """
        status = await self.status(run_id)
        calls = {
            part["call_id"]: part for part in status["message"]["content"] if part["type"] == "tool_call"
        }
        for wait in status["waits"]:
            kind, call_id = wait["kind"], wait["call_id"]
            call = calls.get(call_id)
            answered = self._answered.setdefault(run_id, set())
            if call is None or (kind, call_id) in answered:
                continue
            if kind == "approval" and self._approve is not None:
                answer = self._decide(run_id, asked.get(call_id) or _asked_for(wait, call), self._approve)
            elif kind == "tool_result" and call["name"] in self._tools:
                answer = self._run_tool(run_id, call)
            else:
                continue
            answered.add((kind, call_id))
            try:
                await self._unless_settled(answer)
            except BaseException:
                answered.discard((kind, call_id))
                raise

    async def _unless_settled(self, answer: Awaitable[None]) -> None:
        """Give an answer; somebody else's, given a moment before, stands."""
        try:
            await answer
        except ClientError as error:
            if error.status not in (404, 409):
                raise

    async def _decide(self, run_id: str, asked: ApprovalRequested, approve: Approve) -> None:
        verdict = approve(asked)
        approved = await verdict if inspect.isawaitable(verdict) else verdict
        await self.resolve_approval(run_id, asked.call_id, bool(approved))

    async def _run_tool(self, run_id: str, call: Mapping[str, Any]) -> None:
        results = self._results.setdefault(run_id, {})
        result = results.get(call["call_id"])
        if result is None:
            try:
                output = self._tools[call["name"]](**(call.get("arguments") or {}))
                result = {"output": await output if inspect.isawaitable(output) else output}
            except Exception as error:
                # The model is told, as it is of a tool that fails on the server; this side is the user's own.
                result = {"error": f"{type(error).__name__}: {error}"}
            results[call["call_id"]] = result
        await self.submit_tool_result(run_id, call["call_id"], **result)
        del results[call["call_id"]]

    async def reply(
        self,
        message: Message,
        *,
        conversation_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        system_message: str | None = None,
        idempotency_key: str | None = None,
    ) -> dict[str, Any]:
        """`start` a run, wait for its end, and return `status`; one that waits for somebody else as it is.

        Where the server gives no streams, it is waited for with ``POST /runs/reply``.
        """
        body = _asked(message, conversation_id, metadata, system_message)
        key = idempotency_key or uuid.uuid4().hex
        started = await self._start(body, key)
        try:
            await self._wait(started.run_id, polls=False)
        except ClientError as error:
            if not error.no_streams:
                raise
            # With the same key it is the same run.
            status = await self._connection.ask(
                "POST", "/runs/reply", body, key=key, timeout=_REPLY, needs=_STATUS
            )
            if status["status"] in _OVER or not (self._approve or self._tools):
                return dict(status)
            await self._wait(started.run_id, polls=True)
        return await self.status(started.run_id)

    async def _wait(self, run_id: str, *, polls: bool) -> None:
        async with aclosing(self._read(run_id, None, polls=polls)) as events:
            async for event in events:
                if event.type == "suspended" and not (self._approve or self._tools):
                    break

    # Answering and stopping.

    async def cancel(self, run_id: str, reason: str | None = None) -> None:
        """Ask the run to stop; idempotent, also after its end."""
        await self._connection.ask("POST", _run(run_id, "cancel"), {"reason": reason} if reason else {})

    async def resolve_approval(
        self,
        run_id: str,
        call_id: str,
        approved: bool,
        *,
        reason: str | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Say whether a call may run, maybe with other ``arguments``; the same again changes nothing."""
        body: dict[str, Any] = {"call_id": call_id, "approved": approved}
        if reason is not None:
            body["reason"] = reason
        if arguments is not None:
            body["arguments"] = dict(arguments)
        await self._connection.ask("POST", _run(run_id, "approvals"), body)

    async def submit_tool_result(
        self, run_id: str, call_id: str, output: Any = None, *, error: str | None = None
    ) -> None:
        """Give the result of a tool that this client runs, or say how it failed."""
        body: dict[str, Any] = {"call_id": call_id}
        body |= {"error": error} if error is not None else {"output": output}
        await self._connection.ask("POST", _run(run_id, "tool-results"), body)

    # Reading.

    async def status(self, run_id: str) -> dict[str, Any]:
        """Return what the run amounts to, as ``GET /runs/{id}`` tells it."""
        answer: dict[str, Any] = await self._connection.ask("GET", _run(run_id), needs=_STATUS)
        return answer

    async def messages(
        self, conversation_id: str, *, after: str | None = None, limit: int = 100
    ) -> dict[str, Any]:
        """Return a page of a conversation: ``messages``, and ``next`` for the next page's ``after``."""
        check_text("conversation_id", conversation_id)
        path = f"/conversations/{quote(conversation_id, safe='')}/messages"
        answer: dict[str, Any] = await self._connection.ask(
            "GET", path, params=_page(after, limit), needs=("messages", "next")
        )
        return answer

    async def conversations(self, *, after: str | None = None, limit: int = 50) -> dict[str, Any]:
        """Return a page of this user's conversations: ``conversations``, and ``next``."""
        answer: dict[str, Any] = await self._connection.ask(
            "GET", "/conversations", params=_page(after, limit), needs=("conversations", "next")
        )
        return answer


def _asked(
    message: Message,
    conversation_id: str | None,
    metadata: Mapping[str, Any] | None,
    system_message: str | None,
) -> dict[str, Any]:
    check_message(message)
    body = {
        "message": message if isinstance(message, str) else [dict(part) for part in message],
        "conversation_id": conversation_id,
        "metadata": metadata,
        "system_message": system_message,
    }
    return {name: value for name, value in body.items() if value is not None}


def _asked_for(wait: Mapping[str, Any], call: Mapping[str, Any]) -> ApprovalRequested:
    """Return the question that a wait is about, where the event itself was read long ago, or never."""
    return ApprovalRequested(
        step=call["step"],
        approval_id=wait["approval_id"],
        call_id=call["call_id"],
        name=call["name"],
        arguments=call.get("arguments"),
        expires_at=wait.get("expires_at"),
    )


def _run(run_id: str, *segments: str) -> str:
    check_text("run_id", run_id)
    return "/".join(("/runs", quote(run_id, safe=""), *segments))


def _page(after: str | None, limit: int) -> dict[str, Any]:
    return {"limit": limit} if after is None else {"limit": limit, "after": after}
