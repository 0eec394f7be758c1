"""The endpoint for AG-UI's clients: ``POST /ag-ui``, where each request begins a run, or goes on with one.

A request names a thread (a conversation) and brings the client's copy of it. What comes of it is decided by
the stored log: a new user message begins a run; answers to what a run waits for wake it; a request that says
nothing new, or that was made before, joins the run that it is about. Whoever joins is told how things stand
and then what comes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic import BaseModel

from streamchat.buffers.base import RunRecord
from streamchat.errors import IdempotencyConflict, InvalidInput
from streamchat.events import StoredEvent
from streamchat.http.ag_ui_answers import GivenAnswers, Refused, unknown_interrupt
from streamchat.http.ag_ui_input import RunAgentInput, user_content_of
from streamchat.http.ag_ui_stream import EncodedResponse, Enqueued
from streamchat.http.ag_ui_thread import Thread
from streamchat.http.answer_stream import AnswerStream
from streamchat.http.incoming import messages_of
from streamchat.http.requests import Response
from streamchat.http.routing import Call, Route
from streamchat.http.runs import client_id
from streamchat.http.streams import STREAM_HEADERS
from streamchat.service.hub import Subscription
from streamchat.wire.ag_ui import MEDIA_TYPE, AGUIEncoder, AGUIEvent, Ids, ag_ui_frame

__all__ = ["ROUTES"]

_OURS = "ag_ui"
"""The key in a run's metadata under which the client's own names for it stand."""


@dataclass(frozen=True, slots=True)
class _Joined:
    """The run to stream. ``known`` is its log as it was found, empty for a new run; with ``answered`` it was
    found waiting for what this request brought, with ``enqueued`` it may have to wait for its turn."""

    run_id: str
    message_id: str
    known: Sequence[StoredEvent] = ()
    answered: bool = False
    enqueued: bool = False


async def _run(call: Call) -> Response:
    endpoints = call.endpoints
    body = await endpoints.read_json(call.request, RunAgentInput)
    let_go, lifetime = await endpoints.take_place(call)
    try:
        response = await _stream(call, body, let_go, lifetime)
    except BaseException:
        let_go()
        raise
    if isinstance(response.body, bytes):
        let_go()
    return response


async def _stream(call: Call, body: RunAgentInput, let_go: Callable[[], None], lifetime: float) -> Response:
    chat = call.endpoints.chat
    request = _Request(call, body)
    try:
        joined = await request.join()
    except Refused as refused:
        return _whole([{"type": "RUN_ERROR", "message": refused.message, "code": refused.code}])
    await request.look_again()
    if joined is None:
        return _whole(_nothing_new(body, request.seen))
    encoder = AGUIEncoder(
        body.thread_id,
        body.run_id,
        before=lambda: request.seen.before(joined.message_id),
        state=lambda: request.seen.state_before(joined.message_id),
        message_id=joined.message_id,
        parent_run_id=body.parent_run_id,
        metadata={"runId": joined.run_id, "messageId": joined.message_id},
        protocol_version=body.protocol_version,
    )
    first = encoder.rejoin(joined.known, answered=joined.answered) if joined.known else encoder.begin()
    after = joined.known[-1].id if joined.known else None
    subscription = await chat.attach(joined.run_id, after, call.principal, client_id=client_id(call.request))
    if joined.enqueued:
        # What is said before its turn comes is not stored yet.
        subscription = cast(Subscription, Enqueued(subscription, request.look_again))
    stream = AnswerStream(
        subscription,
        EncodedResponse(encoder),
        call.endpoints.options,
        lambda: chat.draining,
        let_go,
        lifetime,
        first=b"".join(map(ag_ui_frame, first)),
    )
    headers = [
        ("content-location", call.request.url("runs", joined.run_id, "stream")),
        ("x-run-id", joined.run_id),
    ]
    return Response(200, stream, [("content-type", MEDIA_TYPE), *STREAM_HEADERS, *headers])


def _whole(events: Iterable[AGUIEvent]) -> Response:
    body = b"".join(map(ag_ui_frame, events))
    return Response(200, body, [("content-type", MEDIA_TYPE), *STREAM_HEADERS])


def _nothing_new(body: RunAgentInput, thread: Thread) -> list[AGUIEvent]:
    """Answer who says nothing new in a thread where nothing is going on: with the thread as it is stored."""
    ids = {"threadId": body.thread_id, "runId": body.run_id}
    messages, state = thread.whole(), thread.state()
    said: list[AGUIEvent] = [{"type": "RUN_STARTED", **ids, "protocolVersion": "1.0"}]
    if state is not None and state.known:
        said.append({"type": "STATE_SNAPSHOT", "snapshot": state.value})
    if messages:
        said.append({"type": "MESSAGES_SNAPSHOT", "messages": messages})
    return [*said, {"type": "RUN_FINISHED", **ids, "outcome": {"type": "success"}}]


# What a request is about.


class _Names(BaseModel):
    """What a client called a run, and the user's message that began it."""

    run_id: str | None = None
    message_id: str | None = None


class _Metadata(BaseModel):
    ag_ui: _Names = _Names()


class _Stored(BaseModel):
    metadata: _Metadata | None = None


def _names_of(run: RunRecord) -> _Names:
    try:
        stored = _Stored.model_validate_json(run.request)
    except ValueError:
        return _Names()
    return stored.metadata.ag_ui if stored.metadata is not None else _Names()


class _Request:
    """One request, and what is looked up for it."""

    def __init__(self, call: Call, body: RunAgentInput) -> None:
        self._call = call
        self._chat = call.endpoints.chat
        self._options = call.endpoints.options.ag_ui
        self._principal = call.principal
        self._body = body
        self._answers = GivenAnswers(self._chat, self._principal, body)
        self.seen = Thread((), ())
        """The thread when it was looked at last."""

    async def look_again(self) -> None:
        """Read the thread as it is stored now."""
        rows = await messages_of(self._chat, self._body.thread_id, self._principal)
        self.seen = Thread(rows, self._body.messages)

    async def join(self) -> _Joined | None:
        """Do what is asked, and return the run that it is about; None where there is none.

        Raises `Refused`, and what `StreamChat.start` and `retry` raise.
        """
        body = self._body
        message = body.new_message
        active = await self._chat.find(body.thread_id, self._principal)
        run = active or await self._newest()
        asked = await self._asked(run)
        answered = await self._answer(asked) if asked is not None else None
        if answered is not None and asked is not None and self._says_nothing_else(asked):
            return answered
        if run is not None:
            names = _names_of(run)
            same_message = message is not None and names.message_id == message.id
            if names.run_id == body.run_id or (same_message and not run.over):
                return answered if answered is not None and asked is run else await self._rejoin(run)
            if same_message:
                return await self._again(run)
        if message is None:
            about = run is not None and (not run.over or self._is_about(run))
            return await self._rejoin(run) if run is not None and about else None
        return await self._start(behind=active)

    async def _asked(self, run: RunRecord | None) -> RunRecord | None:
        """Return the run that the request's answers are for: ``run``, the thread's newest, but a ``resume``
        that is sent once more may have been asked by one before it."""
        if not self._body.resume:
            return run
        await self.look_again()
        earlier = self.seen.asked_by({entry.interrupt_id for entry in self._body.resume})
        if earlier is not None and (run is None or earlier != run.run_id):
            return await self._chat.buffer.get(earlier) or run
        if run is None:
            raise unknown_interrupt()
        return run

    def _says_nothing_else(self, asked: RunRecord) -> bool:
        """Whether the request brings answers alone: its last message is no user's, or the one that ``asked``
        answers."""
        message = self._body.new_message
        return message is None or _names_of(asked).message_id == message.id

    async def _answer(self, run: RunRecord) -> _Joined | None:
        """Hand over what the request brings for ``run``; None where that is nothing that it asked for."""
        given = await self._answers.give(run)
        if given is None:
            return None
        return _Joined(run.run_id, run.message_id, given.known, answered=given.awaited)

    async def _newest(self) -> RunRecord | None:
        await self.look_again()
        run_id = self.seen.newest_run
        return None if run_id is None else await self._chat.buffer.get(run_id)

    def _is_about(self, run: RunRecord) -> bool:
        """Whether what the client has ends with a message of ``run``, or with what a call of it came to."""
        last = self._body.messages[-1] if self._body.messages else None
        named = () if last is None else (last.id, last.tool_call_id or "")
        return any(name.startswith(Ids(run.message_id).call("")) for name in named)

    async def _rejoin(self, run: RunRecord) -> _Joined:
        known = await self._chat.whole_log(run.run_id, self._principal)
        return _Joined(run.run_id, run.message_id, known)

    async def _start(self, behind: RunRecord | None) -> _Joined:
        chat, body = self._chat, self._body
        message, position = body.messages[-1], len(body.messages) - 1
        content = user_content_of(message, position)
        names = {"run_id": body.run_id, "message_id": message.id}
        try:
            started = await chat.start(
                body.thread_id,
                content,
                self._principal,
                idempotency_key=_key(body),
                metadata={_OURS: names},
                system_message=body.instructions() if chat.takes_system_messages else None,
                client_id=client_id(self._call.request),
                on_disconnect=self._options.on_disconnect,
                client_tools=self._tools(),
            )
        except InvalidInput as error:
            if error.field is not None and error.field.partition(".")[0] == "message":
                error.field = f"messages.{position}.content{error.field.removeprefix('message')}"
            elif error.field == "conversation_id":
                error.field = "threadId"
            raise
        if started.new:
            return _Joined(started.run_id, started.message_id, enqueued=behind is not None)
        known = await chat.whole_log(started.run_id, self._principal)
        return _Joined(started.run_id, started.message_id, known)

    async def _again(self, run: RunRecord) -> _Joined:
        """Make an answer that is over anew: the client has sent the message that it answered once more."""
        try:
            started = await self._chat.retry(run.run_id, self._principal, idempotency_key=_key(self._body))
        except IdempotencyConflict:
            return await self._rejoin(run)  # this very request has made it anew already
        return _Joined(started.run_id, started.message_id)

    def _tools(self) -> list[dict[str, Any]]:
        """The page's own tools; a name that the application has is the application's."""
        if not self._options.client_tools:
            return []
        taken = self._chat.tools
        return [
            tool.model_dump(exclude_none=True) for tool in self._body.tools if taken.get(tool.name) is None
        ]


def _key(body: RunAgentInput) -> str:
    """The same request again begins no second run."""
    return "ag-ui:" + hashlib.sha256(f"{body.thread_id}\0{body.run_id}".encode()).hexdigest()


ROUTES = (Route("POST", "/ag-ui", _run),)
