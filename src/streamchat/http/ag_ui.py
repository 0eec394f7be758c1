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
from streamchat.core.answers import awaited
from streamchat.core.fold import fold
from streamchat.core.state import RunState
from streamchat.errors import (
    AnswerConflict,
    IdempotencyConflict,
    InvalidInput,
    RunNotFound,
    RunOver,
    WaitNotFound,
)
from streamchat.events import StoredEvent
from streamchat.http.ag_ui_input import (
    InputMessage,
    RunAgentInput,
    Verdict,
    readings_of,
    user_content_of,
    verdict,
)
from streamchat.http.ag_ui_stream import EncodedResponse, Enqueued
from streamchat.http.ag_ui_thread import Thread
from streamchat.http.answer_stream import AnswerStream
from streamchat.http.incoming import messages_of, read_run
from streamchat.http.requests import Response
from streamchat.http.routing import Call, Route
from streamchat.http.runs import client_id
from streamchat.http.streams import STREAM_HEADERS
from streamchat.messages import ToolCallPart
from streamchat.service.hub import Subscription
from streamchat.wire.ag_ui import MEDIA_TYPE, AGUIEncoder, AGUIEvent, Ids, ag_ui_frame

__all__ = ["ROUTES"]

_OURS = "ag_ui"
"""The key in a run's metadata under which the client's own names for it stand."""


class _Refused(Exception):
    """What AG-UI answers with ``RUN_ERROR``: an input that the thread as it stands has no use for."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


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
    except _Refused as refused:
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
        self.seen = Thread((), ())
        """The thread when it was looked at last."""

    async def look_again(self) -> None:
        """Read the thread as it is stored now."""
        rows = await messages_of(self._chat, self._body.thread_id, self._principal)
        self.seen = Thread(rows, self._body.messages)

    async def join(self) -> _Joined | None:
        """Do what is asked, and return the run that it is about; None where there is none.

        Raises `_Refused`, and what `StreamChat.start` and `retry` raise.
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
            raise _unknown_interrupt()
        return run

    def _says_nothing_else(self, asked: RunRecord) -> bool:
        """Whether the request brings answers alone: its last message is no user's, or the one that ``asked``
        answers."""
        message = self._body.new_message
        return message is None or _names_of(asked).message_id == message.id

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
        known = await read_run(self._chat, run.run_id, self._principal)
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
        known = await read_run(chat, started.run_id, self._principal)
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

    # Answers to what a run waits for.

    async def _answer(self, run: RunRecord) -> _Joined | None:
        """Hand over what the request brings for ``run``; None where that is nothing that it asked for."""
        body = self._body
        ids = Ids(run.message_id)
        results = {message.tool_call_id or "": message for message in body.results()}
        brings = not run.over and any(call_id.startswith(ids.call("")) for call_id in results)
        if not (body.resume or brings):
            return None
        known = await read_run(self._chat, run.run_id, self._principal)
        state = fold(known)
        decided = self._decided(state)
        brought = [
            (call, results[ids.call(call.call_id)])
            for call in state.calls
            if ids.call(call.call_id) in results and awaited(call) == "tool_result"
        ]
        for call, given in decided:
            await self._decide(run.run_id, call, given)
        for call, result in brought:
            await self._bring(run.run_id, call, result)
        if not decided and not brought:
            return None
        waiting = {wait.call_id for wait in state.waits}
        answered = any(call.call_id in waiting for call, _ in (*decided, *brought))
        return _Joined(run.run_id, run.message_id, known, answered=answered)

    def _decided(self, state: RunState) -> list[tuple[ToolCallPart, Verdict]]:
        """Read the resume entries; raises `_Refused` for what is not asked, unreadable or not all."""
        asked = {call.approval.approval_id: call for call in state.calls if call.approval is not None}
        decided: list[tuple[ToolCallPart, Verdict]] = []
        for entry in self._body.resume:
            call, given = asked.get(entry.interrupt_id), verdict(entry)
            if call is None:
                raise _unknown_interrupt()
            if given is None:
                raise _Refused(
                    "invalid_payload",
                    f"The payload for interrupt {entry.interrupt_id} must have approved, true or false; "
                    "reason is text, editedArgs an object.",
                )
            decided.append((call, given))
        if decided:
            self._check_coverage(state, {call.call_id for call, _ in decided})
        return decided

    def _check_coverage(self, state: RunState, decided: set[str]) -> None:
        missing = [
            call.approval.approval_id
            for call in state.calls
            if call.approval is not None and awaited(call) == "approval" and call.call_id not in decided
        ]
        if missing:
            raise _Refused("interrupts_open", f"These interrupts must be answered too: {', '.join(missing)}.")

    async def _decide(self, run_id: str, call: ToolCallPart, given: Verdict) -> None:
        try:
            await self._chat.resolve_approval(
                run_id,
                call.call_id,
                given.approved,
                reason=given.reason,
                arguments=given.arguments,
                principal=self._principal,
            )
        except (AnswerConflict, RunOver):
            raise _Refused("answer_conflict", "This was answered otherwise, or it is too late.") from None
        except InvalidInput as error:
            raise _Refused("invalid_payload", f"The answer does not fit: {error.field}.") from None
        except (WaitNotFound, RunNotFound):
            raise _unknown_interrupt() from None

    async def _bring(self, run_id: str, call: ToolCallPart, result: InputMessage) -> None:
        """Bring a tool's result; of its readings the first that fits what the tool declares.

        Text that fits nothing is why there is no result: pages have no other place for that.
        """
        if result.error is not None:
            return await self._submit(run_id, call.call_id, None, result.error)
        *others, last = readings_of(result)
        for value in others:
            try:
                return await self._submit(run_id, call.call_id, value, None)
            except InvalidInput:
                continue
        try:
            await self._submit(run_id, call.call_id, last, None)
        except InvalidInput:
            if others or not isinstance(last, str):
                raise
            await self._submit(run_id, call.call_id, None, last or "The tool gave no result.")

    async def _submit(self, run_id: str, call_id: str, output: Any, error: str | None) -> None:
        try:
            await self._chat.submit_tool_result(
                run_id, call_id, output, error=error, principal=self._principal
            )
        except (AnswerConflict, RunOver, WaitNotFound):
            return  # it was answered since, or is not waited for any more: the log says what came of it


def _key(body: RunAgentInput) -> str:
    """The same request again begins no second run."""
    return "ag-ui:" + hashlib.sha256(f"{body.thread_id}\0{body.run_id}".encode()).hexdigest()


def _unknown_interrupt() -> _Refused:
    return _Refused("unknown_interrupt", "Nothing in this thread waits for an answer to this interrupt.")


ROUTES = (Route("POST", "/ag-ui", _run),)
