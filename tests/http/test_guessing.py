"""Who guesses what is another's is answered as if it did not exist: on every endpoint, whatever is
guessed."""

from __future__ import annotations

import asyncio
import json
import math
import re
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import anyio
import pytest

from streamchat import Principal
from streamchat.http import Call, ClientGone, Endpoints, HTTPError, Response, Route
from streamchat.http.bodies import JobBody
from streamchat.http.requests import json_response
from streamchat.http.websocket import WebSocketSession
from streamchat.http.websocket_messages import Incoming
from tests.http.asking import Answer, ask, make_request
from tests.http.guessing import (
    OWN,
    Asked,
    Belongings,
    body_of,
    guessed,
    likely,
    nobodys,
    operations,
    places_of,
    plain,
    put,
    settle,
)

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

_OWN = {"/conversations/": "conversation", "/jobs/": "job", "/vercel/": "conversation"}


@dataclass
class Difference:
    """Two answers that tell a guess that hit from one that missed."""

    method: str
    path: str
    place: tuple[str, str]
    kind: str
    hit: Any
    missed: Any


class Prober:
    """Sends an operation's requests for a user, about things of their own that are as they were before."""

    def __init__(
        self, endpoints: Endpoints, user: str, method: str, path: str, operation: Any, body: Any
    ) -> None:
        self.endpoints = endpoints
        self.user = user
        self.request = Asked(method, path, body=body)
        self.kind = next((kind for prefix, kind in _OWN.items() if path.startswith(prefix)), "run")
        if path.endswith(("/approvals", "/tool-results")):
            self.kind = "suspended"
        self.secret = "X-Job-Secret" in {each["name"] for each in operation["parameters"]}
        self.own: Belongings | None = None

    async def send(self, place: tuple[str, str] | None, guess: str) -> Answer:
        if self.own is None:
            self.own = await settle(self.endpoints, self.user)
        body = put(self.request.body, OWN, self.own.conversation)
        request = replace(self.request, segment=getattr(self.own, self.kind), body=body)
        if self.secret:
            request = replace(request, headers={"X-Job-Secret": self.own.job_secret})
        if place is not None:
            request = request.with_guess(place, guess)
        answer = await request.send(self.endpoints, self.user)
        if request.method not in ("GET", "HEAD") and answer.status < 400:
            self.own = None  # it is not as it was
        return answer


@dataclass
class Findings:
    """What gave away that a guess hit, which endpoints refuse what is in order, how many were compared."""

    told: list[Difference] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    compared: int = 0


async def guess(
    endpoints: Endpoints, ann: Belongings, *, thorough: bool = False, only: str = "", kind: str | None = None
) -> Findings:
    """Guess in every place of every endpoint; ``thorough``: also with what is no id of the place's kind."""
    found = Findings()
    for number, (method, path, operation, schemas) in enumerate(operations(endpoints)):
        if not re.search(only, f"{method} {path}"):
            continue
        body, texts = body_of(method, path, operation, schemas)
        # Another user for each, as keys that were guessed are theirs from then on.
        prober = Prober(endpoints, f"bob-{number}", method, path, operation, body)
        right = await prober.send(None, "")
        if right.status in (400, 405, 415, 422, 500):
            found.refused.append(f"{method} {path}: {right.status} {right.body[:200]!r}")
            continue
        for place in places_of(operation, body, texts):
            for name, value in ann.kinds():
                if kind not in (None, name) or not (thorough or likely(place, name)):
                    continue
                missing = nobodys(name, value)
                hit = plain(await prober.send(place, value), value)
                missed = plain(await prober.send(place, missing), missing)
                found.compared += 1
                if hit != missed:
                    found.told.append(Difference(method, path, place, name, hit, missed))
    return found


async def snapshot(endpoints: Endpoints, user: str) -> Any:
    """All that a user sees of what is theirs."""
    seen: dict[str, Any] = {}
    listed = await ask(endpoints, "GET", "/conversations?limit=1000", user=user)
    for conversation in listed.json()["conversations"]:
        path = f"/conversations/{conversation['id']}/messages"
        messages = (await ask(endpoints, "GET", path, user=user)).json()
        runs = {message["run_id"] for message in messages["messages"]}
        logs = {run: (await ask(endpoints, "GET", f"/runs/{run}/events", user=user)).json() for run in runs}
        seen[conversation["id"]] = (conversation, messages, logs)
    return seen


@pytest.mark.parametrize("thorough", [False, pytest.param(True, marks=pytest.mark.slow)])
async def test_a_guess_that_hits_is_answered_as_one_that_misses_and_changes_nothing(thorough: bool) -> None:
    async with guessed(client_conversation_ids=False) as endpoints:
        ann = await settle(endpoints, "ann")
        before = await snapshot(endpoints, "ann")
        found = await guess(endpoints, ann, thorough=thorough)
        assert not found.refused, "give a body in tests.http.guessing.BODIES:\n" + "\n".join(found.refused)
        assert not found.told, "\n".join(map(str, found.told))
        assert found.compared > 100
        assert len(before) == 2
        assert await snapshot(endpoints, "ann") == before


async def test_where_clients_choose_ids_a_taken_one_is_refused_and_told_no_more_of() -> None:
    async with guessed() as endpoints:
        ann = await settle(endpoints, "ann")
        found = await guess(endpoints, ann, kind="conversation", only=r"^POST /[^{]*$")
        assert {each.path for each in found.told} >= {"/runs", "/runs/stream", "/runs/reply"}
        unknown = await ask(endpoints, "GET", f"/conversations/{ann.message}/messages", user="bob")
        for each in found.told:
            assert (each.method, each.hit[0]) == ("POST", 404)
            if each.path.startswith("/runs"):
                assert each.hit == plain(unknown, ann.message)
            assert each.missed[0] in (200, 201)


async def test_an_endpoint_that_tells_would_be_found() -> None:
    async def tells(call: Call) -> Response:
        """As one that was written in a hurry: it looks, and then asks whose it is."""
        run = await call.endpoints.chat.buffer.get(call.id)
        if run.principal != call.principal:
            raise HTTPError(403, "forbidden", "Not yours.")
        return json_response(200, {})

    async with guessed([Route("GET", "/told/{id}", tells)]) as endpoints:
        ann = await settle(endpoints, "ann")
        found = await guess(endpoints, ann, only="/told/")
        assert {each.kind for each in found.told} == {"run", "suspended"}


async def test_an_endpoint_whose_requests_cannot_be_made_up_is_named() -> None:
    async def needs_a_body(call: Call) -> Response:
        await call.endpoints.read_json(call.request, JobBody)
        return json_response(200, {})

    async with guessed([Route("POST", "/undescribed", needs_a_body)]) as endpoints:
        found = await guess(endpoints, await settle(endpoints, "ann"), only="/undescribed")
        assert found.refused[0].startswith("POST /undescribed: 415")


# Over a WebSocket there are messages in place of endpoints.


class Wire:
    """A WebSocket whose client sends one message and reads until that is dealt with."""

    def __init__(self, message: bytes) -> None:
        self.sent: list[bytes] = []
        self._waiting: list[bytes] = [message]
        self._done = asyncio.Event()

    async def receive(self) -> bytes:
        if self._waiting:
            return self._waiting.pop()
        await self._done.wait()
        raise ClientGone("it has its answer")

    async def send(self, text: bytes) -> None:
        self.sent.append(text)
        if json.loads(text.splitlines()[0])["type"] in ("error", "end", "accepted", "detached"):
            self._done.set()

    async def close(self, code: int) -> None:
        pass


async def said(endpoints: Endpoints, user: str, message: dict[str, Any]) -> Answer:
    wire = Wire(json.dumps(message).encode())
    call = Call(endpoints, make_request("GET", "/ws"), Principal(user))
    with anyio.fail_after(20):
        await WebSocketSession(call, wire, math.inf).run()
    return Answer(0, {}, b"\n".join(wire.sent))


def message_of(model: Any, own: Belongings) -> dict[str, Any]:
    """A message of this kind in which all is in order."""
    known = {"run_id": own.run, "message": "Hi", "call_id": own.call, "approved": True, "output": None}
    fields: dict[str, Any] = {"type": get_args(model.model_fields["type"].annotation)[0]}
    return {**fields, **{name: value for name, value in known.items() if name in model.model_fields}}


@pytest.mark.parametrize("model", get_args(Incoming), ids=lambda model: model.__name__)
async def test_a_guess_over_a_websocket_is_answered_in_the_same_way(model: Any) -> None:
    async with guessed(client_conversation_ids=False) as endpoints:
        ann, bob = await settle(endpoints, "ann"), await settle(endpoints, "bob")
        before = await snapshot(endpoints, "ann")
        message = message_of(model, bob)
        assert b'"invalid_input"' not in (await said(endpoints, "bob", message)).body
        places = [("body", name) for name in model.model_fields if name != "type"]
        compared = 0
        for place in places:
            for kind, value in ann.kinds():
                if likely(place, kind):
                    bob = await settle(endpoints, "bob")
                    missing = nobodys(kind, value)
                    hit, missed = [
                        plain(
                            await said(endpoints, "bob", {**message_of(model, bob), place[1]: guess}), guess
                        )
                        for guess in (value, missing)
                    ]
                    assert hit == missed, (place, kind)
                    compared += 1
        assert compared
        assert await snapshot(endpoints, "ann") == before
