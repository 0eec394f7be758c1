"""schemathesis against the real application: what its description allows or forbids is answered as said."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.specs.openapi.checks import (
    negative_data_rejection,
    positive_data_acceptance,
    response_schema_conformance,
)

from streamchat.adapters.asgi import asgi_app
from streamchat.core.sse import SSEDecoder
from streamchat.http import HTTPOptions
from streamchat.http.schemas import StreamedEvent
from tests.adapters.serving import fetch, serve
from tests.http.guessing import Belongings, make_chat, settle

# (of what schemathesis does with hypothesis)
pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning")

# What no schema says, and is judged behind it: that content is base64, that of two fields one is given, that
# a page, a message or a call was there, that a key came with another body.
# The messages of other protocols are judged when they are used.
_JUDGED = ("The value of ", "after must be", "body: ", "The idempotency key was used", "messages.")

_NO_MATTER = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


class Served:
    """The application on a server with a loop of its own, as generated requests are sent from none."""

    def __init__(self) -> None:
        self.port = 0
        self.document: Any = None
        self.own: Belongings | None = None
        self.up = threading.Event()
        self.down: Any = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread = threading.Thread(target=asyncio.run, args=(self._run(),), daemon=True)

    async def _run(self) -> None:
        self.loop, self.down = asyncio.get_running_loop(), asyncio.Event()
        options = HTTPOptions(suspended_linger=0.01)
        app = asgi_app(make_chat(allow_anonymous=True), options=options)
        async with serve(app) as port:
            self.port = port
            self.own = await settle(app.endpoints, None)
            _, self.document = await fetch(port, "GET", "/openapi.json")
            self.up.set()
            await self.down.wait()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    served = Served()
    served.thread.start()
    assert served.up.wait(30)
    yield served
    assert served.loop is not None
    served.loop.call_soon_threadsafe(served.down.set)
    served.thread.join()


@pytest.mark.parametrize(
    "examples", [3, pytest.param(40, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_every_request_that_can_be_made_up_is_answered_as_described(served: Served, examples: int) -> None:
    schema = schemathesis.openapi.from_dict(served.document)
    failures: list[str] = []
    asked = 0
    with requests.Session() as session:
        for found in schema.get_all_operations():
            for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
                with suppress(Unsatisfiable):  # there is nothing in this operation that could be wrong
                    try:
                        asked += ask(served, found.ok(), mode, session, examples)
                    except BaseExceptionGroup as error:
                        each = "\n".join(map(str, error.exceptions))
                        failures.append(f"{found.ok().label}, {mode.value}: {error}\n{each}")
    assert not failures, "\n\n".join(failures)
    assert asked > 100


def ask(served: Served, operation: Any, mode: Any, session: requests.Session, examples: int) -> int:
    """Send an operation so many requests; returns how many were sent."""
    assert served.own is not None
    own = st.sampled_from([served.own.run, served.own.suspended, served.own.conversation, served.own.job])
    asked = 0

    @settings(max_examples=examples, suppress_health_check=_NO_MATTER)
    @given(case=operation.as_strategy(mode), real=st.none() | own)
    def send(case: Any, real: str | None) -> None:
        nonlocal asked
        if real is not None and "id" in case.path_parameters:
            case.path_parameters["id"] = real
        asked += 1
        check(case, case.call(base_url=f"http://127.0.0.1:{served.port}", session=session, timeout=20))

    send()
    return asked


def check(case: Any, answer: Any) -> None:
    excluded: list[Any] = []
    if answer.status_code in (400, 422) and answer.json()["error"]["message"].startswith(_JUDGED):
        excluded.append(positive_data_acceptance)
    if any(value == "" for given in (case.query, case.headers) for value in (given or {}).values()):
        excluded.append(negative_data_rejection)  # what is empty counts as not given
    if answer.headers.get("content-type", [""])[0].startswith("text/event-stream"):
        # The description is of an event's data; schemathesis holds it against the frame.
        excluded.append(response_schema_conformance)
        if case.path.startswith(("/runs", "/conversations")):
            for frame in SSEDecoder().feed(answer.content):
                if frame.data:
                    StreamedEvent.model_validate_json(frame.data)
    case.validate_response(answer, excluded_checks=excluded)
