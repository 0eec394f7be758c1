"""Approvals, results of the page's own tools, and jobs over HTTP: 202, 404, 409 and 422 where they belong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, get_args, get_type_hints

import pytest
from pydantic import BaseModel
from typing_extensions import TypeAliasType

from streamchat import RunOptions, ServiceLimits, StreamChat, ToolContext, ToolRegistry
from streamchat.http import Endpoints
from streamchat.http.ag_ui_input import ResumeEntry
from streamchat.http.bodies import ApprovalBody
from streamchat.http.openai_requests import UserMessage
from streamchat.http.openapi import OPERATIONS
from streamchat.http.vercel_input import VercelApproval
from streamchat.http.websocket_messages import Approve, Incoming
from streamchat.testing import Call, ScriptedModel, Step
from streamchat.tools import Deferred
from tests.http.asking import ask

pytestmark = pytest.mark.anyio


def make_tools() -> ToolRegistry:
    tools = ToolRegistry()

    @tools.tool(requires_approval=True)
    async def pay(amount: int) -> str:
        return f"paid {amount}"

    @tools.tool(client_side=True)
    def locate() -> str | None:
        """Where the user is."""

    @tools.tool(deferred=True)
    async def render(ctx: ToolContext) -> Deferred:
        return Deferred()

    return tools


@asynccontextmanager
async def waiting(**more: Any) -> AsyncIterator[tuple[Endpoints, str]]:
    """Endpoints, and a run that waits for one of each sort."""
    calls = [Call("pay", {"amount": 7}, id="p"), Call("locate", id="l"), Call("render", id="r")]
    chat = StreamChat(
        model=ScriptedModel([Step(calls=calls), "Done."]),
        tools=make_tools(),
        allow_anonymous=True,
        limits=ServiceLimits(look_every=0.05),
        job_secret="s3cret",
        **more,
    )
    async with chat:
        endpoints = Endpoints(chat)
        answer = await ask(endpoints, "POST", "/runs/reply", json={"message": "go"})
        assert answer.json()["status"] == "suspended"
        assert {wait["kind"] for wait in answer.json()["waits"]} == {"approval", "tool_result", "job"}
        yield endpoints, answer.json()["run_id"]


async def over(endpoints: Endpoints, run_id: str) -> dict[str, Any]:
    while True:
        answer = await ask(endpoints, "GET", f"/runs/{run_id}")
        if answer.json()["status"] in ("success", "error", "cancelled"):
            told: dict[str, Any] = answer.json()
            return told
        await asyncio.sleep(0.01)


NOT_TRUE_OR_FALSE: list[Any] = ["yes", "on", "true", "True", "1", "t", "y", 1, 1.0, 0, "no", None, [True], {}]


async def test_each_wait_is_answered_and_the_run_ends() -> None:
    async with waiting() as (endpoints, run_id):
        body: dict[str, Any] = {"call_id": "p", "approved": True, "arguments": {"amount": 5}}
        answer = await ask(endpoints, "POST", f"/runs/{run_id}/approvals", json=body)
        assert (answer.status, answer.json()) == (202, {"run_id": run_id})
        body = {"call_id": "l", "output": None}
        answer = await ask(endpoints, "POST", f"/runs/{run_id}/tool-results", json=body)
        assert (answer.status, answer.json()) == (202, {"run_id": run_id})
        job_id = f"{run_id}:r"
        secret = {"X-Job-Secret": endpoints.chat.job_secret(job_id)}
        answer = await ask(endpoints, "POST", f"/jobs/{job_id}", json={"result": [1]}, headers=secret)
        assert (answer.status, answer.json()) == (202, {"job_id": job_id})
        told = await over(endpoints, run_id)
        assert told["status"] == "success"
        calls = [part for part in told["message"]["content"] if part["type"] == "tool_call"]
        assert [call.get("output") for call in calls] == ["paid 5", None, [1]]


async def test_the_same_again_is_202_another_409_and_what_was_never_asked_404() -> None:
    async with waiting() as (endpoints, run_id):
        path = f"/runs/{run_id}/approvals"
        no = {"call_id": "p", "approved": False, "reason": "no"}
        assert (await ask(endpoints, "POST", path, json=no)).status == 202
        for after_the_end in (False, True):
            if after_the_end:
                await ask(endpoints, "POST", f"/runs/{run_id}/cancel")
                await over(endpoints, run_id)
            assert (await ask(endpoints, "POST", path, json=no)).status == 202
            other = await ask(endpoints, "POST", path, json={"call_id": "p", "approved": True})
            assert (other.status, other.error["code"]) == (409, "answer_conflict")
            never = await ask(endpoints, "POST", path, json={"call_id": "l", "approved": True})
            assert (never.status, never.error["code"]) == (404, "wait_not_found")
        late = await ask(
            endpoints, "POST", f"/runs/{run_id}/tool-results", json={"call_id": "l", "output": "x"}
        )
        assert late.status == 409, "a first answer to a run that is over"
        unknown = await ask(endpoints, "POST", "/runs/nope/approvals", json=no)
        assert (unknown.status, unknown.error["code"]) == (404, "run_not_found")


@pytest.mark.parametrize(
    ("what", "body", "field"),
    [
        (
            "approvals",
            {"call_id": "p", "approved": True, "arguments": {"amount": "lots"}},
            "arguments.amount",
        ),
        ("approvals", {"call_id": "p", "approved": True, "arguments": {}}, "arguments.amount"),
        (
            "approvals",
            {"call_id": "p", "approved": True, "arguments": {"amount": 1, "tip": 2}},
            "arguments.tip",
        ),
        ("approvals", {"call_id": "p", "approved": True, "arguments": []}, "arguments"),
        ("approvals", {"call_id": "p", "approved": "yes?"}, "approved"),
        ("approvals", {"call_id": "p", "approved": False, "arguments": {}}, "arguments"),
        *[("approvals", {"call_id": "p", "approved": wrong}, "approved") for wrong in NOT_TRUE_OR_FALSE],
        ("approvals", {"call_id": 7, "approved": True}, "call_id"),
        ("approvals", {"approved": True}, "call_id"),
        ("tool-results", {"call_id": "l", "output": 5}, "output"),
        ("tool-results", {"call_id": "l"}, None),
        ("tool-results", {"call_id": "l", "output": 1, "error": "x"}, None),
        ("tool-results", {"call_id": "l", "more": 1}, "more"),
    ],
)
async def test_what_does_not_fit_is_422_with_the_field(what: str, body: Any, field: str | None) -> None:
    async with waiting() as (endpoints, run_id):
        answer = await ask(endpoints, "POST", f"/runs/{run_id}/{what}", json=body)
        assert answer.status == 422, answer.body
        if field is not None:
            assert answer.error["field"] == field
        assert await endpoints.chat.buffer.inputs(run_id) == []


async def test_a_retry_takes_the_number_of_a_step_and_nothing_like_one() -> None:
    async with waiting() as (endpoints, run_id):
        for wrong in ("1", True, 1.5, [1]):
            answer = await ask(endpoints, "POST", f"/runs/{run_id}/retry", json={"from_step": wrong})
            assert (answer.status, answer.error["field"]) == (422, "from_step")
        for written in (1, 1.0):  # one number in JSON, and in the schema's words
            answer = await ask(endpoints, "POST", f"/runs/{run_id}/retry", json={"from_step": written})
            assert (answer.status, answer.error["code"]) == (409, "not_retryable")


def models_in(kind: Any, found: dict[type[BaseModel], None]) -> dict[type[BaseModel], None]:
    """All models that a type is made of."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        if kind not in found:
            found[kind] = None
            for hint in get_type_hints(kind, include_extras=True).values():
                models_in(hint, found)
    elif isinstance(kind, TypeAliasType):
        models_in(kind.__value__, found)
    for inside in get_args(kind):
        models_in(inside, found)
    return found


def test_no_body_turns_one_type_into_another() -> None:
    """Where "no" can become false, "yes" is a person's consent."""
    bodies = [each.body for each in OPERATIONS.values() if each.body is not None]
    found: dict[type[BaseModel], None] = {}
    for kind in [*bodies, *get_args(Incoming)]:
        models_in(kind, found)
    assert {ApprovalBody, VercelApproval, Approve, UserMessage, ResumeEntry} <= set(found)
    assert [kind.__name__ for kind in found if not kind.model_config.get("strict")] == []


async def test_an_output_that_is_too_large_is_422() -> None:
    from streamchat import Limits

    async with waiting(options=RunOptions(limits=Limits(max_tool_output_bytes=100))) as (endpoints, run_id):
        job_id = f"{run_id}:r"
        secret = {"X-Job-Secret": endpoints.chat.job_secret(job_id)}
        answer = await ask(endpoints, "POST", f"/jobs/{job_id}", json={"result": ["x" * 200]}, headers=secret)
        assert answer.status == 422


async def test_a_job_without_its_own_secret_is_not_there() -> None:
    async with waiting() as (endpoints, run_id):
        job_id = f"{run_id}:r"
        others = endpoints.chat.job_secret("another:r")
        for headers in ({}, {"X-Job-Secret": "x"}, {"X-Job-Secret": others}, {"X-Job-Secret": "é"}):
            answer = await ask(endpoints, "POST", f"/jobs/{job_id}", json={"result": 1}, headers=headers)
            assert (answer.status, answer.error["code"]) == (404, "job_not_found")
        secret = {"X-Job-Secret": endpoints.chat.job_secret(f"{run_id}:p")}
        answer = await ask(endpoints, "POST", f"/jobs/{run_id}:p", json={"result": 1}, headers=secret)
        assert (answer.status, answer.error["code"]) == (404, "wait_not_found")
