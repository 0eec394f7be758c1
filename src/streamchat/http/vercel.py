"""The endpoints under ``/vercel``: what the Vercel AI SDK's ``useChat`` talks to, as it is.

A chat's id is the conversation's. A request becomes a new run, an answer made anew, or answers to a run that
waits; the response is that run as a UI message stream. Facts on the clients: `streamchat.wire.vercel`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import TypeAlias

from streamchat.errors import ConversationBusy, ConversationNotFound, InvalidInput, RunNotFound, RunOver
from streamchat.events import TERMINAL, ApprovalRequested, StoredEvent, Suspended, ToolCallEvent
from streamchat.http.answer_stream import AnswerStream
from streamchat.http.errors import HTTPError
from streamchat.http.incoming import (
    Answers,
    Begun,
    NewMessage,
    NothingNew,
    carry_out,
    messages_of,
    run_of_message,
)
from streamchat.http.requests import Request, Response, json_response
from streamchat.http.routing import Call, Route
from streamchat.http.runs import client_id, idempotency_key, last_event_id
from streamchat.http.streams import STREAM_HEADERS
from streamchat.http.vercel_input import VercelBody, VercelMessage, answered_in, idempotency_key_of, wanted_of
from streamchat.http.vercel_options import VercelOptions
from streamchat.http.vercel_rest import place_of, rest_of
from streamchat.messages import parse_content
from streamchat.service.hub import HistoryReset
from streamchat.service.request import conversation_path
from streamchat.wire.openai_answer import Failure
from streamchat.wire.vercel import (
    DONE,
    HEADERS,
    MEDIA_TYPE,
    Chunk,
    Target,
    VercelWire,
    as_target,
    events_up_to,
    frames,
    ui_message,
)

__all__ = ["ROUTES", "target_of"]

_Ids: TypeAlias = tuple[str, str]
"""A run's id, and that of its message."""


def target_of(request: Request, options: VercelOptions) -> Target:
    """Return the version of the client: ``X-AI-SDK-Version`` (which a page sets on its transport), else
    ``?target=``, else the option. Raises `HTTPError` 400."""
    told = request.headers.get("x-ai-sdk-version") or request.parameter("target")
    if told is None:
        return options.target
    try:
        return as_target(told)
    except InvalidInput:
        raise HTTPError(
            400, "invalid_query", "The version of the AI SDK must be 5, 6 or 7.", field="target"
        ) from None


async def _post(call: Call) -> Response:
    options = call.endpoints.options.vercel
    target = target_of(call.request, options)
    key = idempotency_key(call.request)
    body = await call.endpoints.read_json(call.request, VercelBody)
    try:
        return await _streaming(call, lambda: _begin(call, body, key or idempotency_key_of(body), target))
    except NothingNew as over:
        return _rest(call, over, body, target)
    except (RunOver, ConversationBusy):
        if target != "v5" or answered_in(body).role != "assistant":
            raise
        return _nothing_to_add(body)


def _rest(call: Call, over: NothingNew, body: VercelBody, target: Target) -> Response:
    """What a page lacks of an answer that is over; its ``sendAutomaticallyWhen`` may hold for half of it."""
    encoder = _wire(call, (over.run_id, over.message_id), target).encoder
    chunks = rest_of(over.known, answered_in(body).parts, encoder, over.message_id)
    if chunks is None:
        return _nothing_to_add(body)
    return _at_once(chunks, over.known[-1].id, ("x-run-id", over.run_id))


def _at_once(chunks: Sequence[Chunk], id: str, *headers: tuple[str, str]) -> Response:
    # The id is on the last chunk: a transport that resumes takes an error without one for a connection's end.
    sent = [("content-type", MEDIA_TYPE), *STREAM_HEADERS, *HEADERS, *headers]
    return Response(200, frames(chunks, id) + DONE, sent)


def _nothing_to_add(body: VercelBody) -> Response:
    """An error in a step of its own, after which no tool's result comes last.

    Old versions (5.0.60) ask again at once, and for ever, when ``sendAutomaticallyWhen`` still holds after an
    error.
    """
    chunks: list[Chunk] = [
        {"type": "start", "messageId": answered_in(body).id},
        {"type": "start-step"},
        # A step alone is not kept; the page gets an empty part of data.
        {"type": "data-run-over", "data": {}},
        {"type": "finish-step"},
        {"type": "error", "errorText": "There is nothing to add to this answer. Resume to see all of it."},
    ]
    return _at_once(chunks, "over.0")


async def _begin(call: Call, body: VercelBody, key: str | None, target: Target) -> _Opening:
    chat, principal = call.endpoints.chat, call.principal
    # The conversation is looked at only where the page speaks of something in the middle of it.
    somewhere = body.messageId is not None or body.trigger != "submit-message"
    wanted = wanted_of(body, await messages_of(chat, body.id, principal) if somewhere else ())
    begun = await carry_out(
        chat,
        body.id,
        wanted,
        principal,
        idempotency_key=key if isinstance(wanted, NewMessage) else None,
        client_id=client_id(call.request),
        on_disconnect=call.endpoints.options.vercel.on_disconnect,
    )
    if isinstance(wanted, Answers):
        return _going_on(call, begun, wanted, answered_in(body), target)
    known = [] if begun.new else await chat.whole_log(begun.run_id, principal)
    return _replaying(call, (begun.run_id, begun.message_id), known, target)


async def _resume(call: Call) -> Response:
    """Replay the run that is active, or has just ended; 204 where there is none, as for another's chat."""
    target, cursor = _asked_to_resume(call)
    found = await _log_to_resume(call, cursor)
    if found is None:
        return Response(204)
    ids, known, at = found

    async def opening() -> _Opening:
        if cursor is not None and at:
            wire = _wire(call, ids, target)
            if wire.tail(known[:at], cursor):
                return _Opening(ids[0], wire, wire.begin(""), known[at - 1].id)
        return _replaying(call, ids, known, target)

    return await _streaming(call, opening)


async def _resume_head(call: Call) -> Response:
    found = await _log_to_resume(call, _asked_to_resume(call)[1])
    if found is None:
        return Response(204)
    return Response(200, b"", _stream_headers(found[0][0]))


def _asked_to_resume(call: Call) -> tuple[Target, str | None]:
    return target_of(call.request, call.endpoints.options.vercel), last_event_id(call.request)


async def _log_to_resume(call: Call, cursor: str | None) -> tuple[_Ids, list[StoredEvent], int] | None:
    """The run to resume, its log, and how much of that the client has; None where it has all there is."""
    try:
        ids = await _run_to_resume(call)
        if ids is None:
            return None
        known = await call.endpoints.chat.whole_log(ids[0], call.principal)
    except (ConversationNotFound, RunNotFound):
        return None
    at = events_up_to(known, cursor)
    return None if at and known[at - 1].type == TERMINAL else (ids, known, at)


async def _run_to_resume(call: Call) -> _Ids | None:
    chat = call.endpoints.chat
    run = await chat.find(call.id, call.principal)
    if run is not None:
        return run.run_id, run.message_id
    conversation = await chat.conversation(call.id, call.principal)
    oldest = (time.time() - call.endpoints.options.vercel.replay_seconds) * 1000
    if conversation.updated_at < oldest:
        return None
    run_id = await run_of_message(chat, call.id, conversation.leaf_id, call.principal)
    return run_id, conversation.leaf_id or ""


async def _messages(call: Call) -> Response:
    """What a page opens a chat with: the messages up to the active one that are final, as UI messages."""
    options = call.endpoints.options.vercel
    target = target_of(call.request, options)
    chat = call.endpoints.chat
    conversation = await chat.conversation(call.id, call.principal)
    rows = conversation_path(await messages_of(chat, call.id, call.principal), conversation.leaf_id)
    shown = [
        ui_message(row.message_id, row.role, parse_content(row.content), target, dynamic=options.dynamic)
        for row in rows
        if row.status != "pending"
    ]
    return json_response(200, {"messages": shown})


async def _stop(call: Call) -> Response:
    """Cancel what is active in a chat; nothing is there to be said where nothing is, or it is another's."""
    chat = call.endpoints.chat
    run = await chat.find(call.id, call.principal)
    if run is None:
        return Response(204)
    try:
        await chat.cancel(run.run_id, call.principal, reason="stopped")
    except RunNotFound:
        return Response(204)
    return json_response(202, {"run_id": run.run_id})


# Responses.


class _Opening:
    """A response about to begin: the run, what is sent at once, and the cursor to read on from."""

    def __init__(self, run_id: str, wire: VercelWire, first: bytes, after: str | None) -> None:
        self.run_id = run_id
        self.wire = wire
        self.first = first
        self.after = after


def _wire(call: Call, ids: _Ids, target: Target) -> VercelWire:
    options = call.endpoints.options.vercel
    return VercelWire(
        target,
        run_id=ids[0],
        message_id=ids[1],
        progress=options.progress,
        dynamic=options.dynamic,
        hold_steps=options.hold_steps,
    )


def _replaying(call: Call, ids: _Ids, known: Sequence[StoredEvent], target: Target) -> _Opening:
    """The whole run from its start, what is known of it in few chunks."""
    wire = _wire(call, ids, target)
    if not known or known[0].seq > 1:  # of a log without its beginning there is a snapshot
        return _Opening(ids[0], wire, wire.begin(""), None)
    return _Opening(ids[0], wire, wire.begin("") + wire.replay(known), known[-1].id)


def _going_on(call: Call, begun: Begun, answers: Answers, copy: VercelMessage, target: Target) -> _Opening:
    """What follows on answers; the client has the message as far as it shows it, else up to where they were
    asked for."""
    wire = _wire(call, (begun.run_id, begun.message_id), target)
    place = place_of(begun.known, copy.parts) if copy.role == "assistant" else None
    if place is not None:
        first = wire.go_on(place.had, place.rest, begun.known, first=place.first)
    else:
        at = _asked_at(begun.known, {*answers.shown, *(each.call for each in answers.given)})
        shows = sum(part.get("type") == "step-start" for part in copy.parts)
        # A page that has answered, shows more steps only if it has some of them twice.
        told = begun.took or shows <= sum(stored.type == "step_started" for stored in begun.known[:at])
        if not at or not told:
            raise ConversationBusy(
                f"run {begun.run_id} is at work and has asked for nothing that is missing here",
                active_run_id=begun.run_id,
            )
        first = wire.resume(begun.known[:at], after_end=True) + b"".join(wire.events(begun.known[at:]))
    if begun.waits:  # it has not moved, and will not by this request
        first += _asked_again(wire, begun, target)
    return _Opening(begun.run_id, wire, wire.begin("") + first, begun.known[-1].id)


def _asked_again(wire: VercelWire, begun: Begun, target: Target) -> bytes:
    """What a run still waits for: a page that believes otherwise would send the same again, for ever."""
    asked = {wait.approval_id: wait.call_id for wait in begun.waits if wait.kind == "approval"}
    events = [
        event
        for event in (stored.event for stored in begun.known)
        if (isinstance(event, ApprovalRequested) and event.approval_id in asked)
        or (target == "v5" and isinstance(event, ToolCallEvent) and event.call_id in asked.values())
    ]
    chunks = [
        chunk
        for event in (*events, Suspended(waits=tuple(begun.waits)))
        for chunk in wire.encoder.encode(event)
    ]
    return frames(chunks)


def _asked_at(known: Sequence[StoredEvent], calls: Collection[str | None]) -> int:
    """How many events there are up to the pause in which one of these calls waited, else to the last one."""
    last = 0
    for count, stored in reversed(list(enumerate(known, 1))):
        if isinstance(paused := stored.event, Suspended):
            if any(wait.call_id in calls or wait.approval_id in calls for wait in paused.waits):
                return count
            last = last or count
    return last


class _Response:
    """What `AnswerStream` writes by: the wire, and how it ends where the run does not."""

    def __init__(self, wire: VercelWire) -> None:
        self._wire = wire

    @property
    def finished(self) -> bool:
        return self._wire.done

    def encode(self, events: Iterable[StoredEvent]) -> bytes:
        return b"".join(map(self._wire.event, events)) + self.paused()

    def reset(self, reset: HistoryReset) -> bytes:
        return self._wire.reset(reset) + self.paused()

    def fail(self, failure: Failure) -> bytes:
        return self._wire.close()

    def paused(self) -> bytes:
        """What ends a response whose run waits for this very client; for a job, it stays open."""
        encoder = self._wire.encoder
        return self._wire.close() if encoder.suspended and encoder.answerable else b""


async def _streaming(call: Call, opening: Callable[[], Awaitable[_Opening]]) -> Response:
    endpoints = call.endpoints
    chat = endpoints.chat
    let_go, lifetime = await endpoints.take_place(call)
    try:
        opened = await opening()
        subscription = await chat.attach(
            opened.run_id, opened.after, call.principal, client_id=client_id(call.request)
        )
    except BaseException:
        let_go()
        raise
    response = _Response(opened.wire)
    stream = AnswerStream(
        subscription,
        response,
        endpoints.options,
        lambda: chat.draining,
        let_go,
        lifetime,
        first=opened.first + response.paused(),
    )
    return Response(200, stream, _stream_headers(opened.run_id))


def _stream_headers(run_id: str) -> list[tuple[str, str]]:
    return [("content-type", MEDIA_TYPE), *STREAM_HEADERS, *HEADERS, ("x-run-id", run_id)]


ROUTES = (
    Route("POST", "/vercel", _post),
    Route("GET", "/vercel/{id}/stream", _resume, head=_resume_head),
    Route("GET", "/vercel/{id}/messages", _messages),
    Route("POST", "/vercel/{id}/stop", _stop),
)
