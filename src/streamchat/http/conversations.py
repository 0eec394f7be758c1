"""The endpoints under ``/conversations``: whose they are, what was said, and the stream of what is being
said."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from streamchat.buffers.base import MessageRecord
from streamchat.errors import InvalidInput, RunNotFound
from streamchat.events import dump_json
from streamchat.http.errors import HTTPError
from streamchat.http.requests import Response, json_response
from streamchat.http.routing import Call, Route
from streamchat.http.runs import client_id, last_event_id

__all__ = ["ROUTES"]


@contextmanager
def _page_behind() -> Iterator[None]:
    """A list that is asked for behind something that is not on it is a malformed query, as any other is."""
    try:
        yield
    except InvalidInput as error:
        if error.field != "after":
            raise
        raise HTTPError(
            400, "invalid_query", "after must be the `next` of a page before.", field="after"
        ) from error


async def _conversations(call: Call) -> Response:
    endpoints = call.endpoints
    limit = endpoints.page_limit(call.request, 50)
    # One more than is shown says whether there is another page.
    after = call.request.parameter("after")
    with _page_behind():
        found = await endpoints.chat.conversations(call.principal, after=after, limit=limit + 1)
    shown = found[:limit]
    listed = [
        {
            "id": conversation.conversation_id,
            "title": conversation.title,
            "updated_at": conversation.updated_at,
            "active_run_id": conversation.active_run_id,
        }
        for conversation in shown
    ]
    following = shown[-1].conversation_id if len(found) > limit else None
    return json_response(200, {"conversations": listed, "next": following})


async def _messages(call: Call) -> Response:
    endpoints = call.endpoints
    limit = endpoints.page_limit(call.request, 100)
    after = call.request.parameter("after")
    with _page_behind():
        found = await endpoints.chat.history(call.id, call.principal, after=after, limit=limit + 1)
    shown = found[:limit]
    following = shown[-1].message_id if len(found) > limit else None
    body = b'{"messages":[%b],"next":%b}' % (
        b",".join([_message(record) for record in shown]),
        dump_json(following),
    )
    return json_response(200, body)


def _message(record: MessageRecord) -> bytes:
    head = {
        "id": record.message_id,
        "role": record.role,
        "status": record.status,
        "kind": record.kind,
        "run_id": record.run_id,
        "parent_id": record.parent_id,
        "created_at": record.created_at,
    }
    # The content is JSON as it is stored: it goes through as it is.
    return b'%b,"content":%b}' % (dump_json(head)[:-1], record.content)


async def _enqueued(call: Call) -> Response:
    """What waits until the runs before it are over, the next one first."""
    runs = [
        {"run_id": run.run_id, "message_id": run.message_id, "created_at": run.created_at}
        for run in await call.endpoints.chat.enqueued(call.id, call.principal)
    ]
    return json_response(200, {"runs": runs})


async def _stream(call: Call) -> Response:
    """Stream the newest run that is not over; 204 where there is none, as for what is unknown or somebody
    else's."""
    cursor, name = last_event_id(call.request), client_id(call.request)
    chat = call.endpoints.chat
    await call.endpoints.refuse_streams(call)
    run = await chat.find(call.id, call.principal)
    if run is None:
        return Response(204)
    run_id = run.run_id
    location = ("content-location", call.request.url("runs", run_id, "stream"))
    try:
        return await call.endpoints.stream(
            call, lambda: chat.attach(run_id, cursor, call.principal, client_id=name), headers=[location]
        )
    except RunNotFound:
        return Response(204)  # deleted since it was found


async def _stream_head(call: Call) -> Response:
    last_event_id(call.request)
    await call.endpoints.refuse_streams(call)
    run = await call.endpoints.chat.find(call.id, call.principal)
    if run is None:
        return Response(204)
    return Response(200, b"", [("content-type", "text/event-stream; charset=utf-8")])


async def _delete(call: Call) -> Response:
    """Delete a conversation; what is active in it is stopped first."""
    await call.endpoints.chat.delete(call.id, call.principal)
    return Response(204)


ROUTES = (
    Route("GET", "/conversations", _conversations),
    Route("GET", "/conversations/{id}/messages", _messages),
    Route("GET", "/conversations/{id}/enqueued", _enqueued),
    Route("GET", "/conversations/{id}/stream", _stream, head=_stream_head),
    Route("DELETE", "/conversations/{id}", _delete),
)
