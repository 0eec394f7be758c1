"""What an application gives: arguments that cannot be meant are refused at once, with their name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pydantic import BaseModel

from streamchat import Principal, StreamChat
from streamchat.buffers import buffer_for
from streamchat.buffers.memory import MemoryEventBuffer
from streamchat.buffers.redis import RedisEventBuffer
from streamchat.buffers.sql import SQLEventBuffer
from streamchat.core.cursor import parse_cursor
from streamchat.errors import ConversationNotFound, CursorInvalid, InvalidInput, RunNotFound, WaitNotFound
from streamchat.models.fallback import FallbackModel
from streamchat.models.openai_chat import OpenAIChatModel
from streamchat.models.retry import RetryPolicy
from streamchat.orchestration.options import Hooks, Limits, RunOptions
from streamchat.service.limits import ServiceLimits
from streamchat.testing import ScriptedModel

MODEL = ScriptedModel.text("Hello.", repeat=True)


class Answer(BaseModel):
    text: str


def refused(field: str | None, make: Callable[..., Any], *given: Any, **options: Any) -> str:
    with pytest.raises(InvalidInput) as refusal:
        make(*given, **options)
    assert refusal.value.field == field, refusal.value
    assert "hunter2" not in str(refusal.value)
    return str(refusal.value)


def service(**given: Any) -> StreamChat:
    return StreamChat(**{"model": MODEL, "allow_anonymous": True, **given})


# ------------------------------------------------------------------------------------------- StreamChat


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", None),
        ("model", "gpt-5"),
        ("tools", [print]),
        ("tools", print),
        ("buffer", "postgresql://user:hunter2@host/db"),
        ("buffer", MemoryEventBuffer),
        ("authorize", 5),
        ("allow_anonymous", "yes"),
        ("instructions", 5),
        ("instructions", ["Be nice."]),
        ("prepare_messages", "cut"),
        ("title", "A title"),
        ("options", Limits()),
        ("options", {"grace": 5}),
        ("output_types", Answer),
        ("output_types", ["Answer"]),
        ("deps", {}),
        ("limits", Limits()),
        ("on_run_finished", 5),
        ("message_store", print),
        ("on_disconnect", "stop"),
        ("on_busy", 5),
        ("allow_system_message", 1),
        ("allow_file_ids", 1),
        ("client_conversation_ids", None),
        ("streaming", "no"),
        ("work", "yes"),
        ("worker", 5),
        ("worker", "w" * 192),
        ("job_secret", b"hunter2"),
        ("lease_ttl", 0),
        ("lease_ttl", -1),
        ("lease_ttl", "15"),
        ("lease_ttl", float("nan")),
        ("lease_ttl", float("inf")),
    ],
    ids=repr,
)
def test_a_service_of_what_cannot_be_meant_is_not_made(field: str, value: Any) -> None:
    refused(field, service, **{field: value})


def test_what_to_give_is_said() -> None:
    assert "buffer_for(url)" in refused("buffer", service, buffer="sqlite://")
    assert "ToolRegistry" in refused("tools", service, tools=[print])
    assert "OpenAIChatModel" in refused("model", service, model=None)


def test_a_service_of_all_that_can_be_meant_is_made() -> None:
    service(
        instructions=lambda context: None, streaming=lambda who: True, lease_ttl=1, output_types=(Answer,)
    )


# -------------------------------------------------------------------------------- options and limits


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (ServiceLimits, "max_runs", "x"),
        (ServiceLimits, "max_runs", 1.5),
        (ServiceLimits, "max_queue", -1),
        (ServiceLimits, "max_runs_per_principal", -1),
        (ServiceLimits, "max_body_bytes", None),
        (ServiceLimits, "drain_seconds", "5"),
        (ServiceLimits, "retention", "30d"),
        (ServiceLimits, "presence_ttl", True),
        (Limits, "max_steps", "x"),
        (Limits, "max_steps", 1.5),
        (Limits, "deadline", "soon"),
        (RunOptions, "limits", None),
        (RunOptions, "limits", ServiceLimits()),
        (RunOptions, "hooks", print),
        (RunOptions, "model_options", [("temperature", 1)]),
        (RunOptions, "grace", "x"),
        (RunOptions, "max_step_restarts", 0.5),
        (RunOptions, "max_concurrent_tools", "x"),
        (RunOptions, "max_concurrent_tools", 0),
        (RunOptions, "tool_timeout", -1),
        (RunOptions, "cost", 1.0),
        (RunOptions, "output_type", []),
        (RunOptions, "output_type", 5),
        (Hooks, "after_run", "x"),
        (Hooks, "before_tool", 5),
        (RetryPolicy, "attempts", "x"),
        (RetryPolicy, "attempts", 0),
        (RetryPolicy, "deadline", -1),
    ],
    ids=repr,
)
def test_options_that_cannot_be_meant_are_refused(kind: Any, field: str, value: Any) -> None:
    refused(field, kind, **{field: value})


# ---------------------------------------------------------------------------------------------- buffers


@pytest.mark.parametrize("value", [None, 5, b"sqlite://", b"postgresql://user:hunter2@host/db", object()])
@pytest.mark.parametrize("kind", [SQLEventBuffer, buffer_for, RedisEventBuffer])
def test_what_is_no_url_is_refused_at_construction(kind: Any, value: Any) -> None:
    options = {"prefix": "chat"} if kind is RedisEventBuffer else {}
    told = refused("url", kind, value, **options)
    assert type(value).__name__ in told
    assert "URL" in told


@pytest.mark.parametrize("url", ["", "chat.db", "postgresql://user:hunter2@host:port/db"])
def test_text_that_is_no_url_is_refused_at_construction(url: str) -> None:
    refused("url", SQLEventBuffer, url)
    refused("url", buffer_for, url)


@pytest.mark.parametrize(
    ("make", "field", "value"),
    [
        (MemoryEventBuffer, "max_runs", "x"),
        (MemoryEventBuffer, "max_runs", 0),
        (MemoryEventBuffer, "max_bytes", 1.5),
        (MemoryEventBuffer, "retention", -1),
        (MemoryEventBuffer, "retention", float("inf")),
        (lambda **given: SQLEventBuffer("sqlite://", **given), "prefix", None),
        (lambda **given: SQLEventBuffer("sqlite://", **given), "readers", 0),
        (lambda **given: SQLEventBuffer("sqlite://", **given), "busy_seconds", "x"),
        (lambda **given: SQLEventBuffer("sqlite://", **given), "create_tables", "no"),
        (lambda **given: SQLEventBuffer("sqlite://", **given), "codec", 5),
        (lambda **given: RedisEventBuffer("redis://", **{"prefix": "a", **given}), "prefix", 5),
        (lambda **given: RedisEventBuffer("redis://", **{"prefix": "a", **given}), "timeout", 0),
    ],
)
def test_a_buffer_of_what_cannot_be_meant_is_not_made(make: Any, field: str, value: Any) -> None:
    refused(field, make, **{field: value})


# ----------------------------------------------------------------------------------------------- models


def test_models_that_are_none_are_refused() -> None:
    refused("models", FallbackModel, [])
    refused("models", FallbackModel, MODEL)
    refused("models", FallbackModel, [MODEL, "gpt-5"])
    refused("when", FallbackModel, [MODEL], when="always")
    refused("client", OpenAIChatModel, None, "gpt-5")
    refused("client", OpenAIChatModel, "key", "gpt-5")


# ------------------------------------------------------------------------------------------- the verbs


@pytest.mark.anyio
@pytest.mark.parametrize("backend", ["memory:", "sqlite://"])
async def test_a_start_of_what_cannot_be_meant_writes_nothing(backend: str) -> None:
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("conversation_id", {"conversation_id": 5}),
        ("conversation_id", {"conversation_id": ""}),
        ("message", {"message": 5}),
        ("message", {"message": [{"type": "file", "file": {"file_data": object()}}]}),
        ("principal", {"principal": "bob"}),
        ("principal.id", {"principal": Principal("p" * 192)}),
        ("principal.tenant", {"principal": Principal("ann", "t\0")}),
        ("principal.claims", {"principal": Principal("ann", claims={"a": object()})}),
        ("metadata", {"metadata": {"a": object()}}),
        ("metadata", {"metadata": "text"}),
        ("idempotency_key", {"idempotency_key": 5}),
        ("client_id", {"client_id": 5}),
        ("branch_at", {"branch_at": 5}),
        ("history", {"history": 5}),
        ("history.0", {"history": [5]}),
        ("metadata", {"metadata": {5: 5}}),
        ("tools", {"client_tools": [{"name": "a", "parameters": {"a": object()}}]}),
        ("output_type", {"output_type": 5}),
        ("on_busy", {"on_busy": []}),
        ("on_busy", {"on_busy": {}}),
        ("on_busy", {"on_busy": ""}),
        ("on_disconnect", {"on_disconnect": ""}),
    ]
    async with service(buffer=buffer_for(backend), model=MODEL) as chat:
        for field, given in wrong:
            with pytest.raises(InvalidInput) as refusal:
                await chat.start(**{"conversation_id": None, "message": "Hello.", **given})
            assert refusal.value.field == field, (given, refusal.value)
        assert await chat.conversations() == []
        lists: list[tuple[str, dict[str, Any]]] = [
            ("limit", {"limit": "x"}),
            ("limit", {"limit": 0}),
            ("after", {"after": "\0"}),
            ("principal", {"principal": "bob"}),
        ]
        for field, given in lists:
            with pytest.raises(InvalidInput) as refusal:
                await chat.conversations(**given)
            assert refusal.value.field == field
        with pytest.raises(InvalidInput):
            await chat.history("c", principal="bob")  # type: ignore[arg-type]
        with pytest.raises(InvalidInput):
            await chat.cancel("r", reason=5)  # type: ignore[arg-type]
        with pytest.raises(InvalidInput):
            await chat.retry("r", idempotency_key=5)  # type: ignore[arg-type]


@pytest.mark.anyio
@pytest.mark.parametrize("backend", ["memory:", "sqlite://"])
async def test_where_to_read_on_is_a_cursor_as_text_or_the_number_of_an_event(backend: str) -> None:
    async with service(buffer=buffer_for(backend)) as chat:
        run_id = (await chat.reply(None, "Hi")).run_id
        for wrong in (5, b"a.5", True, ["a.5"]):
            with pytest.raises(InvalidInput) as refusal:
                await chat.attach(run_id, wrong)  # type: ignore[arg-type]
            assert refusal.value.field == "after"
            with pytest.raises(CursorInvalid):
                parse_cursor(wrong)  # type: ignore[arg-type]
        for field, given in (("after", "5"), ("after", -1), ("after", 1.5), ("limit", "5"), ("limit", 0)):
            page: dict[str, Any] = {field: given}
            with pytest.raises(InvalidInput) as refusal:
                await chat.events(run_id, **page)
            assert refusal.value.field == field


@pytest.mark.anyio
@pytest.mark.parametrize("backend", ["memory:", "sqlite://"])
async def test_an_id_that_cannot_be_stored_is_not_found(backend: str) -> None:
    wrong: list[Any] = ["\0", "a\0b", "\ud800", "x" * 192, 5, b"a", [], {}]
    async with service(buffer=buffer_for(backend)) as chat:
        of_a_run: tuple[Callable[[Any], Awaitable[object]], ...] = (
            chat.status,
            chat.cancel,
            chat.retry,
            chat.presence,
            chat.events,
            chat.attach,
            lambda name: chat.delete(run_id=name),
            lambda name: chat.resolve_approval(name, "c", approved=True),
            lambda name: chat.submit_tool_result(name, "c", "sunny"),
        )
        of_a_conversation = (chat.history, chat.conversation, chat.enqueued, chat.delete)
        for name in wrong:
            for verb in of_a_run:
                with pytest.raises(RunNotFound):
                    await verb(name)
            for look in of_a_conversation:
                with pytest.raises(ConversationNotFound):
                    await look(name)
            assert await chat.find(name) is None


@pytest.mark.anyio
@pytest.mark.parametrize("wrong", [5, b"a", None, [], {}], ids=repr)
async def test_a_call_that_is_no_text_is_not_found(wrong: Any) -> None:
    async with service() as chat:
        run_id = (await chat.reply(None, "Hi")).run_id
        with pytest.raises(WaitNotFound):
            await chat.resolve_approval(run_id, wrong, approved=True)
        with pytest.raises(WaitNotFound):
            await chat.submit_tool_result(run_id, wrong, "sunny")
        if wrong is not None:
            with pytest.raises(InvalidInput):
                await chat.retry(run_id, call_id=wrong)
            with pytest.raises(InvalidInput):
                await chat.retry(run_id, from_step=wrong)


@pytest.mark.parametrize("wrong", [5, b"a", None, [], {}], ids=repr)
def test_the_secret_of_what_is_no_job_is_neither_made_nor_known(wrong: Any) -> None:
    chat = service(job_secret="s3cret")
    refused("job_id", chat.job_secret, wrong)
    refused("job_id", chat.knows_job_secret, wrong, "secret")
    for each in (chat, service()):
        refused("secret", each.knows_job_secret, "run:call", wrong)
        refused("secret", each.knows_job_secret, "run:call", b"hunter2")
