"""The endpoints under ``/v1``: the agent as a model, for whatever talks to OpenAI's Chat Completions API."""

from __future__ import annotations

import time
from collections.abc import Collection, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from streamchat.core.jsontext import decode_json
from streamchat.errors import InvalidInput
from streamchat.events import StoredEvent, StreamEvent, Suspended
from streamchat.http.answer_stream import AnswerStream
from streamchat.http.errors import HTTPError
from streamchat.http.openai_errors import failure_response, in_openai_shape
from streamchat.http.openai_options import OpenAIOptions
from streamchat.http.openai_requests import ChatCompletionBody, NewTurn, ToolAnswers, UserMessage, read_turn
from streamchat.http.openai_whole import WholeAnswer
from streamchat.http.requests import Response, json_response
from streamchat.http.routing import Call, Route
from streamchat.http.runs import client_id, idempotency_key
from streamchat.http.streams import STREAM_HEADERS
from streamchat.service.answers import tool_result
from streamchat.service.attachments import check_attachments
from streamchat.service.chat import StreamChat
from streamchat.service.hub import Subscription
from streamchat.service.request import user_content
from streamchat.wire.compact import compact
from streamchat.wire.openai_answer import Answer
from streamchat.wire.openai_chat import ChatCompletionEncoder, chat_completion

__all__ = ["ROUTES"]


@dataclass(frozen=True, slots=True)
class _Begun:
    """A run to read from ``after`` on; ``headers`` tell the client which it is. ``known`` is what was said
    before, of a response that is asked for once more; with ``behind`` the response begins in mid-run."""

    run_id: str
    after: str | None
    headers: list[tuple[str, str]]
    known: Sequence[StreamEvent] = ()
    behind: bool = False


class _NotTheServers(Container[str]):
    """The names of the tools that this client carries out: those that it declared, and all that are no tools
    of the application's, which it must have declared earlier in the run."""

    def __init__(self, declared: Collection[str], chat: StreamChat) -> None:
        self._declared = declared
        self._tools = chat.tools

    def __contains__(self, name: object) -> bool:
        return name in self._declared or name not in self._tools


async def _complete(call: Call) -> Response:
    endpoints = call.endpoints
    options = endpoints.options.openai
    key = idempotency_key(call.request)
    body = await endpoints.read_json(call.request, ChatCompletionBody)
    _check_model(body.model, _names(options, endpoints.chat))
    turn = read_turn(body, options, takes_system=endpoints.chat.takes_system_messages)
    if body.stream:
        return await _stream(call, body, turn, key)
    return await endpoints.while_connected(call.request, _whole(call, body, turn, key))


async def _stream(
    call: Call, body: ChatCompletionBody, turn: NewTurn | ToolAnswers, key: str | None
) -> Response:
    endpoints = call.endpoints
    let_go, lifetime = await endpoints.take_place(call)
    try:
        begun = await _begin(call, body, turn, key)
        subscription = await _attach(call, begun)
    except BaseException:
        let_go()
        raise
    encoder = ChatCompletionEncoder(
        _answer(call, body, begun),
        model=body.model,
        created=int(time.time()),
        include_usage=body.include_usage,
    )
    stream = AnswerStream(
        subscription,
        encoder,
        endpoints.options,
        lambda: endpoints.chat.draining,
        let_go,
        lifetime,
        first=encoder.encode(begun.known) if begun.known else b"",
    )
    return Response(200, stream, [("content-type", encoder.media_type), *STREAM_HEADERS, *begun.headers])


async def _whole(
    call: Call, body: ChatCompletionBody, turn: NewTurn | ToolAnswers, key: str | None
) -> Response:
    endpoints = call.endpoints
    begun = await _begin(call, body, turn, key)
    whole = WholeAnswer(_answer(call, body, begun, hold=True))
    whole.encode(begun.known)
    reading = AnswerStream(
        await _attach(call, begun),
        whole,
        endpoints.options,
        lambda: endpoints.chat.draining,
        _nothing,
    )
    try:
        async for _ in reading:
            pass
    finally:
        await reading.aclose()
    if whole.answer.failure is not None:
        return failure_response(whole.answer.failure, begun.headers)
    answer = chat_completion(whole.answer, whole.said, model=body.model, created=int(time.time()))
    return json_response(200, answer, begun.headers)


def _answer(call: Call, body: ChatCompletionBody, begun: _Begun, *, hold: bool = False) -> Answer:
    options = call.endpoints.options.openai
    return Answer(
        begun.run_id,
        client_tools=_NotTheServers({tool.name for tool in body.declared}, call.endpoints.chat),
        hold_steps=hold or options.hold_steps,
        reasoning_field=options.reasoning_field,
        separator=options.separator,
        behind=begun.behind,
    )


async def _attach(call: Call, begun: _Begun) -> Subscription:
    return await call.endpoints.chat.attach(
        begun.run_id, begun.after, call.principal, client_id=client_id(call.request)
    )


# What a request begins, or goes on with.


async def _begin(
    call: Call, body: ChatCompletionBody, turn: NewTurn | ToolAnswers, key: str | None
) -> _Begun:
    if isinstance(turn, ToolAnswers):
        return await _bring_results(call, body, turn)
    chat, options = call.endpoints.chat, call.endpoints.options.openai
    metadata = {name: value for name, value in (body.metadata or {}).items() if name != "conversation_id"}
    _check_history(body, chat)
    try:
        started = await chat.start(
            _conversation_id(call, body),
            turn.content,
            call.principal,
            idempotency_key=key,
            metadata=metadata or None,
            system_message=turn.system_message,
            client_id=client_id(call.request),
            on_disconnect=options.on_disconnect,
            history=turn.history[-chat.limits.max_history_messages :],
            client_tools=_declared(body, chat),
        )
    except InvalidInput as error:
        if error.field is not None and error.field.partition(".")[0] == "message":
            error.field = f"messages.{turn.position}{error.field.removeprefix('message')}"
        raise
    headers = _told(started.run_id, started.conversation_id)
    if started.new:
        return _Begun(started.run_id, None, headers)
    log = await chat.whole_log(started.run_id, call.principal)
    return _once_more(started.run_id, log, [*headers, ("idempotent-replayed", "true")])


def _once_more(run_id: str, log: Sequence[StoredEvent], headers: list[tuple[str, str]]) -> _Begun:
    """Answer with what stands of ``log``: what was withdrawn would only end this response as well."""
    if not log or log[0].seq != 1:
        return _Begun(run_id, None, headers)  # its beginning is gone: there is a snapshot
    return _Begun(run_id, log[-1].id, headers, compact(log))


async def _bring_results(call: Call, body: ChatCompletionBody, turn: ToolAnswers) -> _Begun:
    """Hand over what the client's tools came to; the answer goes on behind where they were asked for.

    The same results again change nothing, so a request that is repeated is answered as the first one was.
    """
    chat = call.endpoints.chat
    status = await chat.status(turn.run_id, call.principal)
    log = await chat.whole_log(turn.run_id, call.principal)
    asked = _asked(log, turn.results[0][0])
    waits = () if asked is None else asked[1].waits
    takes = {wait.call_id for wait in waits if wait.kind == "tool_result"}
    if asked is None or not {call_id for call_id, _ in turn.results} <= takes:
        raise HTTPError(400, "unknown_tool_call", "No such call was made here.", field="messages")
    names = {part.call_id: part.name for part in status.state.calls}
    own = _NotTheServers({tool.name for tool in body.declared}, chat)
    answered = {call_id for call_id, _ in turn.results}
    for wait in waits:
        ours = wait.kind == "tool_result" and names.get(wait.call_id, "") in own
        if ours and wait.call_id not in answered:
            raise HTTPError(
                400,
                "missing_tool_result",
                "Each call of an answer needs a result: one tool message for each of its tool_calls.",
                field="messages",
            )
    # A tool that the application has declared may want more than text.
    answers = [
        tool_result(call_id, _read_json(text) if names.get(call_id) in chat.tools else text)
        for call_id, text in turn.results
    ]
    await chat.submit_answers(turn.run_id, answers, call.principal)
    known = compact(log[asked[0] :])
    headers = _told(turn.run_id, status.conversation_id)
    return _Begun(turn.run_id, log[-1].id, headers, known, behind=True)


def _asked(log: Iterable[StoredEvent], call_id: str) -> tuple[int, Suspended] | None:
    """Return where a run began to wait for a call's result: how many events that took, and all that it
    waited for.

    It may have been woken and suspended again meanwhile, so the first place counts.
    """
    for count, stored in enumerate(log, 1):
        if stored.type == "suspended":
            event = stored.event
            if isinstance(event, Suspended) and any(
                wait.kind == "tool_result" and wait.call_id == call_id for wait in event.waits
            ):
                return count, event
    return None


def _read_json(text: str) -> Any:
    try:
        return decode_json(text)
    except ValueError:
        return text


def _conversation_id(call: Call, body: ChatCompletionBody) -> str | None:
    header = call.request.headers.get(call.endpoints.options.openai.conversation_header.lower())
    named = header or body.conversation_id
    if named is not None and ("/" in named or named in (".", "..")):  # as `ConversationId`
        message = "A conversation's id stands in a path: it has no slash, and is neither . nor .. alone."
        raise HTTPError(422, "invalid_input", message, field="conversation_id")
    return named


def _check_history(body: ChatCompletionBody, chat: StreamChat) -> None:
    """Hold what the client says was said before to the same bounds as a message."""
    for position, message in enumerate(body.messages[:-1]):
        if isinstance(message, UserMessage):
            content = message.content
            try:
                parts = user_content(
                    content
                    if isinstance(content, str)
                    else [part.model_dump(exclude_none=True) for part in content],
                    chat.limits.max_message_chars,
                )
                check_attachments(parts, chat.limits, file_ids=chat.takes_file_ids)
            except InvalidInput as error:
                error.field = f"messages.{position}"
                raise


def _declared(body: ChatCompletionBody, chat: StreamChat) -> list[dict[str, Any]]:
    """The tools that the client brings; one that the application has declared for its clients is there."""
    brought: list[dict[str, Any]] = []
    for function in body.declared:
        known = chat.tools.get(function.name)
        if known is None or not known.client_side:
            brought.append(function.model_dump(exclude_none=True))
    return brought


def _told(run_id: str, conversation_id: str) -> list[tuple[str, str]]:
    return [("x-run-id", run_id), ("x-conversation-id", conversation_id)]


def _nothing() -> None:
    return None


# The models.


def _names(options: OpenAIOptions, chat: StreamChat) -> Collection[str]:
    return options.models or (chat.model.name,)


def _check_model(name: str, names: Collection[str]) -> None:
    if name not in names:
        raise HTTPError(
            404, "model_not_found", "There is no such model here; GET /v1/models names them.", field="model"
        )


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "streamchat"}


async def _models(call: Call) -> Response:
    names = _names(call.endpoints.options.openai, call.endpoints.chat)
    return json_response(200, {"object": "list", "data": [_model(name) for name in names]})


async def _one_model(call: Call) -> Response:
    _check_model(call.id, _names(call.endpoints.options.openai, call.endpoints.chat))
    return json_response(200, _model(call.id))


ROUTES = (
    Route("POST", "/v1/chat/completions", _complete, errors=in_openai_shape),
    Route("GET", "/v1/models", _models, errors=in_openai_shape),
    Route("GET", "/v1/models/{id}", _one_model, errors=in_openai_shape),
)
