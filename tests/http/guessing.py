"""Asks every endpoint of the OpenAPI document with what is another user's, and with what nobody has.

What is asked with comes from the document: each path segment, query parameter, header and text of a body is a
place where an id may be guessed. An endpoint that is added is asked too; where no acceptable body follows
from its schema, `BODIES` wants one.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import anyio

from streamchat import ServiceLimits, StreamChat, ToolContext, ToolRegistry, owns
from streamchat.http import Endpoints, HTTPOptions, Route
from streamchat.http.openapi import openapi_document
from streamchat.models.base import ModelRequest
from streamchat.testing import Call, ScriptedModel, Step
from streamchat.tools import Deferred
from tests.http.asking import Answer, ask, who

GUESS = "«guess»"
"""In a body of `BODIES`: one more place to guess in."""

OWN = "«own»"
"""In a body of `BODIES`: the user's own conversation."""

BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/runs/{id}/tool-results"): {"call_id": "locate", "output": None},
    ("POST", "/jobs/{id}"): {"result": 1},
    ("POST", "/v1/chat/completions"): {"model": "scripted", "messages": [{"role": "user", "content": "Hi"}]},
    ("POST", "/vercel"): {
        "id": OWN,
        "messages": [{"id": GUESS, "role": "user", "parts": [{"type": "text", "text": "Hi"}]}],
    },
    ("POST", "/ag-ui"): {
        "threadId": OWN,
        "runId": GUESS,
        "state": {},
        "messages": [{"id": GUESS, "role": "user", "content": "Hi"}],
        "tools": [],
        "context": [],
        "forwardedProps": {},
    },
}
"""Bodies of endpoints whose schema says too little for one to be made of it."""

MESSAGE = "Hi"


@dataclass(frozen=True)
class Belongings:
    """What a user has, by kind."""

    run: str
    suspended: str
    conversation: str
    message: str
    cursor: str
    key: str
    job: str
    job_secret: str
    call: str
    client: str

    def kinds(self) -> Iterator[tuple[str, str]]:
        yield from self.__dict__.items()


@dataclass(frozen=True)
class Asked:
    """A request, and where in it a guess may stand."""

    method: str
    path: str
    segment: str = ""
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None

    def with_guess(self, place: tuple[str, str], guess: str) -> Asked:
        where, name = place
        match where:
            case "path":
                return replace(self, segment=guess)
            case "query":
                return replace(self, query={**self.query, name: guess})
            case "header":
                return replace(self, headers={**self.headers, name: guess})
            case "marked":
                return replace(self, body=put(self.body, GUESS, guess))
            case _:
                return replace(self, body={**self.body, name: guess})

    async def send(self, endpoints: Endpoints, user: str) -> Answer:
        query = "&".join(f"{name}={value}" for name, value in self.query.items())
        target = self.path.replace("{id}", self.segment) + (f"?{query}" if query else "")
        more = {} if self.body is None else {"json": put(self.body, GUESS, secrets.token_hex(16))}
        with anyio.fail_after(20):
            return await ask(endpoints, self.method, target, headers=self.headers, user=user, **more)


def put(value: Any, marker: str, text: str) -> Any:
    """Put a text where a marker stands, anywhere in JSON values."""
    return json.loads(json.dumps(value, ensure_ascii=False).replace(marker, text))


@asynccontextmanager
async def guessed(routes: Iterable[Route] = (), **chat: Any) -> AsyncIterator[Endpoints]:
    """Endpoints, for users who are named, over a service with all that can be waited for."""
    async with make_chat(**{"authorize": owns, **chat}) as service:
        options = HTTPOptions(suspended_linger=0.01)
        yield Endpoints(service, principal=who, options=options, routes=routes)


def make_chat(**chat: Any) -> StreamChat:
    """A service whose answers are short, and wait for one of each sort where the message is ``wait``."""

    def step(request: ModelRequest) -> Step | str:
        if request.messages[-1].role == "user" and request.messages[-1].content == "wait":
            names = ("pay", "locate", "render")
            return Step(calls=[Call(name, {}, id=f"{name}-{secrets.token_hex(16)}") for name in names])
        return "Hi."

    return StreamChat(
        model=ScriptedModel(step, strict=False, batch=100),
        tools=_tools(),
        limits=ServiceLimits(drain_seconds=0, look_every=0.05),
        job_secret="s3cret",
        **chat,
    )


def _tools() -> ToolRegistry:
    tools = ToolRegistry()

    @tools.tool(requires_approval=True)
    async def pay() -> str:
        return "paid"

    @tools.tool(client_side=True)
    def locate() -> str | None:
        """Where the user is."""

    @tools.tool(deferred=True)
    async def render(ctx: ToolContext) -> Deferred:
        return Deferred()

    return tools


async def settle(endpoints: Endpoints, user: str | None) -> Belongings:
    """Let a user have one of each kind."""
    key = secrets.token_hex(16)
    named = {"Idempotency-Key": key, "X-Client-Id": f"tab-{secrets.token_hex(8)}"}
    run = await ask(endpoints, "POST", "/runs/reply", json={"message": MESSAGE}, headers=named, user=user)
    assert run.status == 200, run.body
    told = run.json()
    waiting = await ask(endpoints, "POST", "/runs/reply", json={"message": "wait"}, user=user)
    assert waiting.json()["status"] == "suspended", waiting.body
    calls = {wait["kind"]: wait["call_id"] for wait in waiting.json()["waits"]}
    job = f"{waiting.json()['run_id']}:{calls['job']}"
    return Belongings(
        run=told["run_id"],
        suspended=waiting.json()["run_id"],
        conversation=told["conversation_id"],
        message=told["message_id"],
        cursor=told["cursor"],
        key=key,
        job=job,
        job_secret=endpoints.chat.job_secret(job),
        call=calls["approval"],
        client=named["X-Client-Id"],
    )


def nobodys(kind: str, value: str) -> str:
    """Something of the same shape that nobody has."""
    run, colon, call = value.partition(":")
    if colon:
        return f"{secrets.token_hex(len(run) // 2)}:{call}"
    if kind == "call":
        return f"pay-{secrets.token_hex(16)}"
    if kind == "cursor":
        generation, _, seq = value.partition(".")
        return f"{secrets.token_hex(32)[: len(generation)]}.{seq}"
    if kind == "client":
        return f"tab-{secrets.token_hex(8)}"
    return secrets.token_hex(len(value) // 2)


# Requests, from the document.


def operations(endpoints: Endpoints) -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    """Each method and path of the document, with its description and all schemas."""
    document = openapi_document(endpoints.routes)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation, document["components"]["schemas"]
            if method == "get":
                yield "HEAD", path, operation, document["components"]["schemas"]


def body_of(
    method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]
) -> tuple[Any, list[str]]:
    """A body that the endpoint takes, and the names in it that hold text."""
    content = operation.get("requestBody", {}).get("content", {})
    if not content:
        return BODIES.get((method, path)), []
    schema = _resolved(next(iter(content.values()))["schema"], schemas)
    texts = [name for name, each in schema.get("properties", {}).items() if _takes_text(each, schemas)]
    known = BODIES.get((method, path))
    return (_example(schema, schemas) if known is None else known), texts


def _resolved(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    return schema


def _takes_text(schema: dict[str, Any], schemas: dict[str, Any]) -> bool:
    schema = _resolved(schema, schemas)
    choices = schema.get("anyOf", schema.get("oneOf", []))
    free = schema.get("type") == "string" and "enum" not in schema
    return free or any(_takes_text(choice, schemas) for choice in choices)


def _example(schema: dict[str, Any], schemas: dict[str, Any]) -> Any:
    schema = _resolved(schema, schemas)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for choice in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())):
        return _example(choice, schemas)
    match schema.get("type"):
        case "object":
            properties = schema.get("properties", {})
            return {name: _example(properties[name], schemas) for name in schema.get("required", ())}
        case "array":
            return [_example(schema.get("items", {}), schemas)] * schema.get("minItems", 0)
        case "boolean":
            return True
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "string":
            return MESSAGE
    return None


def places_of(operation: dict[str, Any], body: Any, texts: list[str]) -> list[tuple[str, str]]:
    """Where in a request of this operation something may be guessed."""
    described = [(each["in"], each["name"]) for each in operation["parameters"]]
    marked = [("marked", GUESS)] if GUESS in json.dumps(body, ensure_ascii=False) else []
    return [*described, *(("body", name) for name in texts), *marked]


_LIKELY = {
    "idempotency": ("key",),
    "client": ("client",),
    "event": ("cursor", "run"),
    "secret": ("job_secret",),
    "call": ("call",),
    "message": ("message",),
    "conversation": ("conversation",),
    "thread": ("conversation",),
    "chat": ("conversation",),
    "run": ("run", "suspended"),
}


_LOOKED_UP = ("run", "suspended", "conversation", "message", "job", "call")


def likely(place: tuple[str, str], kind: str) -> bool:
    """Whether this kind is worth a try in this place: by its name, and most kinds where that says nothing."""
    where, name = place
    if where == "body" and not name.lower().endswith(("id", "ids", "key", "secret", "token")):
        return False  # text that nothing is looked up by
    kinds = next((kinds for word, kinds in _LIKELY.items() if word in name.lower()), None)
    return kind in (kinds or _LOOKED_UP)


# Answers, without what is different each time.

_NOISE = (
    (re.compile(r"(?<![0-9a-z])[0-9]{13}(?![0-9a-z])"), "<time>"),
    (re.compile(r'"(created)":\s*\d+'), r'"\1":0'),
    (re.compile(r'"(duration|time_to_first_token|timeToFirstToken)":\s*[0-9.e-]+'), r'"\1":0'),
    (re.compile(r"retry: \d+"), "retry: 0"),
    (re.compile(r"(?<![.0-9a-z_-])[a-z0-9_-]{8,64}\.\d+(?![0-9a-z])"), "<cursor>"),
    (re.compile(r"(?<![0-9a-z])[0-9a-f]{32}(?![0-9a-z])"), "<id>"),
    (re.compile(r"(?<![0-9a-z])[0-9a-f]{16}(?![0-9a-z])"), "<correlation>"),
)


def plain(answer: Answer, guess: str) -> tuple[int, dict[str, str], str]:
    """An answer as who guesses can tell it from another: without ids, times, and what was guessed itself."""

    def without(text: str) -> str:
        for pattern, kept in ((re.compile(re.escape(guess)), "<guess>"), *_NOISE):
            text = pattern.sub(kept, text)
        return text

    headers = {name: without(value) for name, value in answer.headers.items() if name != "content-length"}
    return answer.status, headers, without(answer.body.decode())
