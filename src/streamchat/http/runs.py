"""The endpoints under ``/runs``: start a run, stream it, read it, cancel it."""

from __future__ import annotations

from typing import Any

from streamchat.core.cursor import MAX_SEQ, parse_cursor
from streamchat.http.bodies import CancelBody, StartBody
from streamchat.http.errors import HTTPError
from streamchat.http.requests import Request, Response, json_response
from streamchat.http.routing import Call, Route
from streamchat.service.hub import Subscription
from streamchat.service.status import Started

__all__ = ["ROUTES", "client_id", "last_event_id"]


def last_event_id(request: Request) -> str | None:
    """Return the cursor that the client has: the ``Last-Event-ID`` header, else ``?last_event_id=``.

    Raises `CursorInvalid` where either is no cursor, before anything is done.
    """
    cursors = (request.headers.get("last-event-id") or None, request.parameter("last_event_id"))
    for cursor in cursors:
        if cursor is not None:
            parse_cursor(cursor)
    return cursors[0] or cursors[1]


def idempotency_key(request: Request) -> str | None:
    """Return the ``Idempotency-Key`` header; raises `HTTPError` 400 for what is none."""
    key = request.headers.get("idempotency-key")
    if key is not None and not (0 < len(key) <= 255 and key.isascii() and key.isprintable()):
        raise HTTPError(
            400,
            "invalid_idempotency_key",
            "The idempotency key must be 1 to 255 printable ASCII characters.",
            field="idempotency-key",
        )
    return key


def client_id(request: Request, body: StartBody | None = None) -> str | None:
    """Return what the client calls itself: in the body, in ``X-Client-Id``, or (for an ``EventSource``, which
    sends no headers of its own) in ``?client_id=``; at most 200 characters."""
    named = body.client_id if body is not None else None
    named = named or request.headers.get("x-client-id") or request.parameter("client_id")
    return named[:200] if named else None


def _asked(call: Call, body: StartBody, key: str | None) -> dict[str, Any]:
    """What `StreamChat.start` and `reply` are asked for, beside the message."""
    return {
        "idempotency_key": key,
        "metadata": body.metadata,
        "system_message": body.system_message,
        "client_id": client_id(call.request, body),
        "edits": body.edits,
    }


async def _begin(call: Call, body: StartBody, key: str | None) -> Started:
    asked = _asked(call, body, key)
    return await call.endpoints.chat.start(body.conversation_id, body.content(), call.principal, **asked)


def _replayed(started: Started) -> list[tuple[str, str]]:
    return [] if started.new else [("idempotent-replayed", "true")]


def started_response(call: Call, started: Started) -> Response:
    """Answer with a run that was made durable, and where to stream it."""
    answer: dict[str, Any] = {
        "run_id": started.run_id,
        "message_id": started.message_id,
        "conversation_id": started.conversation_id,
        "stream_url": call.request.url("runs", started.run_id, "stream"),
    }
    if started.enqueued:
        answer["enqueued"] = True
    location = ("location", call.request.url("runs", started.run_id))
    return json_response(201, answer, [location, *_replayed(started)])


async def _start(call: Call) -> Response:
    key = idempotency_key(call.request)
    body = await call.endpoints.read_json(call.request, StartBody)
    return started_response(call, await _begin(call, body, key))


async def _start_stream(call: Call) -> Response:
    cursor = last_event_id(call.request)
    key = idempotency_key(call.request)
    body = await call.endpoints.read_json(call.request, StartBody)
    headers: list[tuple[str, str]] = []

    async def attach() -> Subscription:
        started = await _begin(call, body, key)
        # Where to go on if this connection drops: a GET, which can be repeated.
        headers.append(("content-location", call.request.url("runs", started.run_id, "stream")))
        headers.extend(_replayed(started))
        return await call.endpoints.chat.attach(
            started.run_id, cursor, call.principal, client_id=client_id(call.request, body)
        )

    return await call.endpoints.stream(call, attach, headers=headers)


async def _reply(call: Call) -> Response:
    key = idempotency_key(call.request)
    body = await call.endpoints.read_json(call.request, StartBody)

    async def wait() -> Response:
        status = await call.endpoints.chat.reply(
            body.conversation_id, body.content(), call.principal, **_asked(call, body, key)
        )
        return json_response(200, status.as_json())

    return await call.endpoints.while_connected(call.request, wait())


async def _status(call: Call) -> Response:
    status = await call.endpoints.chat.status(call.id, call.principal)
    return json_response(200, status.as_json())


async def _stream(call: Call) -> Response:
    cursor, name = last_event_id(call.request), client_id(call.request)
    return await call.endpoints.stream(
        call, lambda: call.endpoints.chat.attach(call.id, cursor, call.principal, client_id=name)
    )


async def _stream_head(call: Call) -> Response:
    """Say whether there is something to stream, without attaching: a reader that leaves has a meaning."""
    last_event_id(call.request)
    await call.endpoints.refuse_streams(call)
    await call.endpoints.chat.events(call.id, call.principal, limit=1)
    return Response(200, b"", [("content-type", "text/event-stream; charset=utf-8")])


async def _events(call: Call) -> Response:
    """A page of the log. ``next`` is the next page's ``after``, null once the terminal event was given."""
    endpoints, chat = call.endpoints, call.endpoints.chat
    after = endpoints.number(call.request, "after", 0, 0, MAX_SEQ)
    limit = endpoints.page_limit(call.request, 100)
    page = await chat.events(call.id, call.principal, after=after, limit=limit)
    following: int | None = page.events[-1].seq if page.events else min(after, page.last_seq)
    over = page.closed
    if not page.events and page.last_seq:
        # Asked behind the end: whether something may follow is told by the last event itself.
        last = await chat.events(call.id, call.principal, after=page.last_seq - 1, limit=1)
        over = last.closed
    if over:
        following = None
    body = b'{"events":[%b],"next":%b,"first_seq":%d,"last_seq":%d}' % (
        b",".join([event.public_json() for event in page.events]),
        b"null" if following is None else b"%d" % following,
        page.first_seq,
        page.last_seq,
    )
    return json_response(200, body)


async def _presence(call: Call) -> Response:
    """Who is connected, since when (milliseconds since the epoch), and the last id that they were sent."""
    clients = [
        {
            "client_id": presence.client_id,
            "principal": presence.principal_id,
            "since": presence.since,
            "last_event_id": presence.cursor,
        }
        for presence in await call.endpoints.chat.presence(call.id, call.principal)
    ]
    return json_response(200, {"run_id": call.id, "clients": clients})


async def _cancel(call: Call) -> Response:
    body = await call.endpoints.read_json(call.request, CancelBody, optional=True)
    await call.endpoints.chat.cancel(call.id, call.principal, reason=body.reason)
    return json_response(202, {"run_id": call.id})


ROUTES = (
    Route("POST", "/runs", _start),
    Route("POST", "/runs/stream", _start_stream),
    Route("POST", "/runs/reply", _reply),
    Route("GET", "/runs/{id}", _status),
    Route("GET", "/runs/{id}/stream", _stream, head=_stream_head),
    Route("GET", "/runs/{id}/events", _events),
    Route("GET", "/runs/{id}/presence", _presence),
    Route("POST", "/runs/{id}/cancel", _cancel),
)
