"""The OpenAPI 3.1 description of the endpoints: what each takes and answers, the event union included."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from streamchat.core.cursor import MAX_SEQ
from streamchat.http.ag_ui_input import RunAgentInput, StreamedAGUIEvent
from streamchat.http.bodies import (
    ApprovalBody,
    CancelBody,
    JobBody,
    RetryBody,
    StartBody,
    ToolResultBody,
)
from streamchat.http.openai_requests import ChatCompletionBody
from streamchat.http.openai_schemas import ChatCompletionAnswer, ModelAnswer, ModelsAnswer
from streamchat.http.routing import Route
from streamchat.http.schemas import (
    AnswerAccepted,
    CancelAccepted,
    Conversations,
    EnqueuedRuns,
    ErrorAnswer,
    EventsPage,
    Health,
    JobAccepted,
    Messages,
    RunAnswer,
    RunPresence,
    RunStartedAnswer,
    StreamedEvent,
)
from streamchat.http.vercel_input import VercelBody, VercelChunk, VercelMessages

__all__ = [
    "ERRORS",
    "OPERATIONS",
    "Operation",
    "Parameter",
    "openapi_document",
    "operation_id",
    "operation_of",
]

ERRORS: Mapping[int, str] = {
    400: "A cursor, a key or a query parameter is malformed.",
    401: "Nobody is signed in.",
    403: "This is not allowed, or not to pages of this origin.",
    404: "There is no such thing, or it is somebody else's.",
    408: "The body did not arrive in time.",
    409: "It is busy, was answered before, or is over.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    422: "The body is not what is expected; `field` says where.",
    429: "You have too much open; `Retry-After` says when to come back.",
    501: "This server cannot stream (Django under WSGI).",
    502: "The answer was begun and could not be finished.",
    503: "There is too much to do, or the store is away; `Retry-After` says when to come back.",
}
"""What each status of a failure means; all have the same body."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter in the query or in a header, never required; ``schema`` says what is taken."""

    name: str
    description: str
    where: str = "query"
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})

    def described(self) -> dict[str, Any]:
        """Return it as OpenAPI says it."""
        return {
            "name": self.name,
            "in": self.where,
            "required": False,
            "description": self.description,
            "schema": dict(self.schema),
        }


@dataclass(frozen=True, slots=True)
class Operation:
    """What one endpoint takes and answers. ``events`` says that the answer is a stream, ``nothing`` when it
    is 204."""

    summary: str
    answer: type[BaseModel] | None = None
    status: int = 200
    body: type[BaseModel] | None = None
    body_required: bool = True
    events: bool = False
    nothing: str | None = None
    parameters: tuple[Parameter, ...] = ()
    errors: tuple[int, ...] = ()
    tag: str = "runs"

    @property
    def media_type(self) -> str:
        """Of the answer."""
        return "text/event-stream" if self.events else "application/json"

    @property
    def failures(self) -> tuple[int, ...]:
        """The statuses with which it can fail, all with the same JSON body."""
        return (*self.errors, 501) if self.events else self.errors

    def responses(self) -> dict[int | str, dict[str, Any]]:
        """Return the answers for a framework that makes the schemas of models itself (FastAPI)."""
        answers: dict[int | str, dict[str, Any]] = {}
        if self.answer is not None:
            answers[self.status] = {"model": self.answer, "description": self.summary}
        if self.nothing is not None:
            answers[204] = {"description": self.nothing}
        for status in self.failures:
            answers[status] = {"description": ERRORS[status]}
            if self.events:
                # A model would be described under the media type of the stream.
                schema = _whole(ErrorAnswer.model_json_schema(mode="serialization"))
                answers[status]["content"] = {"application/json": {"schema": schema}}
            else:
                answers[status]["model"] = ErrorAnswer
        return answers

    def request(self, path: str) -> dict[str, Any]:
        """Return parameters and body for such a framework, which has not read them itself."""
        described: dict[str, Any] = {"parameters": _parameters(path, self)}
        if self.body is not None:
            described["requestBody"] = {
                "required": self.body_required,
                "content": {"application/json": {"schema": _whole(self.body.model_json_schema())}},
            }
        return described


_EVENT_ID = {"type": "string", "pattern": r"^[a-z0-9_-]{1,64}\.(0|[1-9][0-9]{0,14})$"}
_KEY = {"type": "string", "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"}
_SEQ = {"type": "integer", "minimum": 0, "maximum": MAX_SEQ}
_CURSOR = (
    Parameter("Last-Event-ID", "The last id that the client has; exclusive.", "header", _EVENT_ID),
    Parameter("last_event_id", "The same, for clients that cannot set headers.", schema=_EVENT_ID),
)
_START = (
    Parameter("Idempotency-Key", "The same key with the same body starts one run.", "header", _KEY),
    Parameter("X-Client-Id", "What the client calls itself, for presence.", "header"),
)
_VERSION = {"type": "string", "pattern": "^v?[567]([.][0-9.]+)?$"}
_AI_SDK = (
    Parameter("X-AI-SDK-Version", "The version of the `ai` package that reads.", "header", _VERSION),
    Parameter("target", "The same, for clients that cannot set headers.", schema=_VERSION),
)
_LIMIT = Parameter("limit", "How many at most.", schema={"type": "integer", "minimum": 1, "maximum": 1000})
_PAGE = (Parameter("after", "What the page before ended with; exclusive."), _LIMIT)
_LOG_PAGE = (Parameter("after", "The last seq of the page before; exclusive.", schema=_SEQ), _LIMIT)
_ANSWERING = (401, 403, 404, 408, 409, 413, 415, 422, 503)
_STARTING = (400, *_ANSWERING, 429)

OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("POST", "/runs"): Operation(
        "Start a run, durable before the answer",
        RunStartedAnswer,
        201,
        StartBody,
        parameters=_START,
        errors=_STARTING,
    ),
    ("POST", "/runs/stream"): Operation(
        "Start a run and stream it",
        StreamedEvent,
        200,
        StartBody,
        events=True,
        parameters=(*_START, *_CURSOR),
        errors=_STARTING,
    ),
    ("POST", "/runs/reply"): Operation(
        "Start a run and wait for the whole answer",
        RunAnswer,
        200,
        StartBody,
        parameters=_START,
        errors=_STARTING,
    ),
    ("GET", "/runs/{id}"): Operation("What the run amounts to", RunAnswer, errors=(401, 404, 503)),
    ("GET", "/runs/{id}/stream"): Operation(
        "Stream the run from a cursor",
        StreamedEvent,
        events=True,
        nothing="The run is over and the client has all of it.",
        parameters=_CURSOR,
        errors=(400, 401, 404, 409, 429, 503),
    ),
    ("GET", "/runs/{id}/events"): Operation(
        "The log as pages", EventsPage, parameters=_LOG_PAGE, errors=(400, 401, 404, 503)
    ),
    ("GET", "/runs/{id}/presence"): Operation(
        "Who is connected to the run", RunPresence, errors=(401, 404, 503)
    ),
    ("POST", "/runs/{id}/cancel"): Operation(
        "Ask the run to stop; idempotent",
        CancelAccepted,
        202,
        CancelBody,
        body_required=False,
        errors=(401, 403, 404, 408, 413, 415, 422, 503),
    ),
    ("POST", "/runs/{id}/retry"): Operation(
        "Do a run that is over anew: whole, from a step, or one failed call alone",
        RunStartedAnswer,
        201,
        RetryBody,
        body_required=False,
        parameters=_START[:1],
        errors=_STARTING,
    ),
    ("POST", "/runs/{id}/approvals"): Operation(
        "Decide on a call that waits for approval; the same again changes nothing",
        AnswerAccepted,
        202,
        ApprovalBody,
        errors=_ANSWERING,
    ),
    ("POST", "/runs/{id}/tool-results"): Operation(
        "Bring the result of a tool that the page runs; the same again changes nothing",
        AnswerAccepted,
        202,
        ToolResultBody,
        errors=_ANSWERING,
    ),
    ("POST", "/jobs/{id}"): Operation(
        "Bring the result of a background job; the same again changes nothing",
        JobAccepted,
        202,
        JobBody,
        parameters=(Parameter("X-Job-Secret", "The job's own secret; a wrong one is 404.", "header"),),
        errors=(403, 404, 408, 409, 413, 415, 422, 503),
        tag="jobs",
    ),
    ("GET", "/conversations"): Operation(
        "The principal's conversations",
        Conversations,
        parameters=_PAGE,
        errors=(400, 401, 503),
        tag="conversations",
    ),
    ("GET", "/conversations/{id}/messages"): Operation(
        "What was said", Messages, parameters=_PAGE, errors=(400, 401, 404, 503), tag="conversations"
    ),
    ("GET", "/conversations/{id}/enqueued"): Operation(
        "What waits until the runs before it are over",
        EnqueuedRuns,
        errors=(401, 404, 503),
        tag="conversations",
    ),
    ("GET", "/conversations/{id}/stream"): Operation(
        "Stream the newest run that is not over",
        StreamedEvent,
        events=True,
        nothing="Nothing is at work, or there is no such conversation.",
        parameters=_CURSOR,
        errors=(400, 401, 409, 429, 503),
        tag="conversations",
    ),
    ("DELETE", "/conversations/{id}"): Operation(
        "Delete a conversation; what is active in it is stopped first",
        status=204,
        errors=(401, 403, 404, 503),
        tag="conversations",
    ),
    ("POST", "/v1/chat/completions"): Operation(
        "Ask the agent as OpenAI's models are asked; a stream of chunks, or one answer",
        ChatCompletionAnswer,
        200,
        ChatCompletionBody,
        parameters=_START,
        errors=(400, 401, 403, 404, 408, 409, 413, 415, 429, 501, 502, 503),
        tag="openai",
    ),
    ("GET", "/v1/models"): Operation(
        "The names that the agent is offered by", ModelsAnswer, errors=(401,), tag="openai"
    ),
    ("GET", "/v1/models/{id}"): Operation("One of them", ModelAnswer, errors=(401, 404), tag="openai"),
    ("POST", "/ag-ui"): Operation(
        "Begin a run, go on with one, or join it, as AG-UI's clients do; a stream of AG-UI events",
        StreamedAGUIEvent,
        200,
        RunAgentInput,
        events=True,
        parameters=_START[1:],
        errors=_STARTING,
        tag="ag-ui",
    ),
    ("POST", "/vercel"): Operation(
        "Say something in a chat of the Vercel AI SDK, or answer what is asked in it; a UI message stream",
        VercelChunk,
        200,
        VercelBody,
        events=True,
        parameters=(*_START, *_AI_SDK),
        errors=_STARTING,
        tag="vercel",
    ),
    ("GET", "/vercel/{id}/stream"): Operation(
        "Resume the answer that is being written in a chat, as a UI message stream",
        VercelChunk,
        events=True,
        nothing="Nothing is at work, or there is no such chat.",
        parameters=(*_CURSOR, *_AI_SDK),
        errors=(400, 401, 409, 429, 503),
        tag="vercel",
    ),
    ("GET", "/vercel/{id}/messages"): Operation(
        "What was said in a chat, as a page of the Vercel AI SDK opens with it",
        VercelMessages,
        parameters=_AI_SDK,
        errors=(400, 401, 404, 503),
        tag="vercel",
    ),
    ("POST", "/vercel/{id}/stop"): Operation(
        "Stop what is being written in a chat; idempotent",
        CancelAccepted,
        202,
        nothing="Nothing is at work, or there is no such chat.",
        errors=(401, 403, 503),
        tag="vercel",
    ),
    ("GET", "/health/live"): Operation("The process answers", Health, tag="health"),
    ("GET", "/health/ready"): Operation("The process takes requests", Health, errors=(503,), tag="health"),
    ("GET", "/openapi.json"): Operation("This description", tag="description"),
}
"""Every endpoint of this package; routes of the application's own are described by their method and path."""

_REF = "#/components/schemas/{model}"


def openapi_document(
    routes: Iterable[Route], *, title: str = "streamchat", version: str = "1", prefix: str = ""
) -> dict[str, Any]:
    """Return the description of ``routes``, mounted at ``prefix``, as JSON values."""
    described = [(route, operation_of(route)) for route in routes]
    models: list[type[BaseModel]] = [ErrorAnswer]
    for _, operation in described:
        models += [model for model in (operation.body, operation.answer) if model is not None]
    inputs = {operation.body for _, operation in described}
    references, components = models_json_schema(
        [(model, "validation" if model in inputs else "serialization") for model in dict.fromkeys(models)],
        ref_template=_REF,
    )
    schemas = {model: schema for (model, _), schema in references.items()}
    paths: dict[str, dict[str, Any]] = {}
    for route, operation in described:
        paths.setdefault(prefix + route.path, {})[route.method.lower()] = _operation(
            route, operation, schemas
        )
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": {"schemas": components.get("$defs", {})},
    }


def _operation(route: Route, operation: Operation, schemas: Mapping[Any, dict[str, Any]]) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": operation.summary}
    if operation.answer is not None:
        answer["content"] = {operation.media_type: {"schema": schemas[operation.answer]}}
    responses = {str(operation.status): answer}
    if operation.nothing is not None:
        responses["204"] = {"description": operation.nothing}
    for status in operation.failures:
        responses[str(status)] = {
            "description": ERRORS[status],
            "content": {"application/json": {"schema": schemas[ErrorAnswer]}},
        }
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": operation_id(route),
        "tags": [operation.tag],
        "parameters": _parameters(route.path, operation),
        "responses": responses,
    }
    if operation.body is not None:
        described["requestBody"] = {
            "required": operation.body_required,
            "content": {"application/json": {"schema": schemas[operation.body]}},
        }
    return described


def _parameters(path: str, operation: Operation) -> list[dict[str, Any]]:
    segment = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    described = [parameter.described() for parameter in operation.parameters]
    return [segment, *described] if "{id}" in path else described


def _whole(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema with its definitions put in where they are referred to (none refers to itself)."""
    definitions = schema.pop("$defs", {})

    def put_in(value: Any) -> Any:
        if isinstance(value, dict):
            reference = value.get("$ref", "")
            if reference.startswith("#/$defs/"):
                return put_in(definitions[reference.removeprefix("#/$defs/")])
            return {key: put_in(item) for key, item in value.items() if key != "discriminator"}
        return [put_in(item) for item in value] if isinstance(value, list) else value

    whole: dict[str, Any] = put_in(schema)
    return whole


def operation_of(route: Route) -> Operation:
    """Return what ``route`` takes and answers; little is known of the application's own."""
    return OPERATIONS.get((route.method, route.path)) or Operation(f"{route.method} {route.path}")


def operation_id(route: Route) -> str:
    """Return a name for generated clients, such as ``post_runs_id_cancel``."""
    words = [word.strip("{}") for word in route.path.split("/") if word]
    return "_".join([route.method.lower(), *words]).replace("-", "_")
