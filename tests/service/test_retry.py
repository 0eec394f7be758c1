"""Doing a run anew: whole, from a step, or one failed call alone, beside the answer that stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from streamchat import EventBuffer, Principal, StoredEvent, StreamChat, ToolContext, ToolRegistry, fold, owns
from streamchat.errors import (
    Busy,
    ConversationBusy,
    IdempotencyConflict,
    InvalidInput,
    NotRetryable,
    RunNotFound,
)
from streamchat.testing import Call, ScriptedModel, Stall, Step

from .support import WatchedBuffer

pytestmark = pytest.mark.anyio

ANN = Principal("ann")


class Tools:
    """Two tools that count, one of which fails until it is told not to."""

    def __init__(self) -> None:
        self.registry = ToolRegistry()
        self.counts: Counter[str] = Counter()
        self.broken = True

        @self.registry.tool
        async def render(name: str) -> str:
            """Render a video."""
            self.counts["render"] += 1
            return f"rendered {name}"

        @self.registry.tool
        async def publish(name: str) -> str:
            """Publish a video."""
            self.counts["publish"] += 1
            if self.broken:
                raise RuntimeError("no disk")
            return f"published {name}"


MakeChat = Callable[..., StreamChat]


@pytest.fixture
def make_chat(any_store: EventBuffer) -> MakeChat:
    """Make a service over one sort of store after the other, with a model that says these steps."""

    def make(tools: Tools, *steps: Step) -> StreamChat:
        watched: Any = WatchedBuffer(any_store)
        return StreamChat(model=ScriptedModel(steps), tools=tools.registry, authorize=owns, buffer=watched)

    return make


RENDER = Step("First, ", calls=[Call("render", {"name": "a"}, id="r")])
PUBLISH = Step("then ", calls=[Call("publish", {"name": "a"}, id="p")])


async def log_of(chat: StreamChat, run_id: str) -> list[StoredEvent]:
    return [
        event async for event in chat.attach(run_id, principal=ANN).events() if isinstance(event, StoredEvent)
    ]


async def first_run(chat: StreamChat) -> str:
    started = await chat.start(None, "Publish it", ANN)
    await log_of(chat, started.run_id)
    return started.run_id


async def test_one_failed_call_is_done_again_and_the_model_goes_on_from_its_result(
    make_chat: MakeChat,
) -> None:
    tools = Tools()
    async with make_chat(tools, RENDER, PUBLISH, Step("it failed."), Step("it worked.")) as chat:
        run_id = await first_run(chat)
        assert fold(await log_of(chat, run_id)).calls[1].outcome == "error"
        tools.broken = False
        again = await chat.retry(run_id, ANN, call_id="p")
        log = await log_of(chat, again.run_id)
    state = fold(log)
    assert state.parent_run_id == run_id
    assert state.text == "First, then it worked."
    assert [call.outcome for call in state.calls] == ["ok", "ok"]
    assert tools.counts == {"render": 1, "publish": 2}
    assert [event.event.reason for event in log if event.type == "run_resumed"] == ["retry"]


async def test_a_call_that_is_done_again_is_started_under_the_key_it_had_and_pays_once(
    make_chat: MakeChat,
) -> None:
    tools, payments, asked = Tools(), dict[str, int](), list[tuple[str, str]]()

    @tools.registry.tool
    async def pay(amount: int, ctx: ToolContext) -> str:
        """Pay."""
        asked.append((ctx.run_id, ctx.idempotency_key))
        payments.setdefault(ctx.idempotency_key, amount)
        if tools.broken:
            raise ConnectionError("the bank's answer was lost")
        return "paid"

    steps = [
        Step("First, ", calls=[Call("pay", {"amount": 5}, id="p")]),
        *[Step("sorry.")] * 2,
        Step("done."),
    ]
    async with make_chat(tools, *steps) as chat:
        run_id = await first_run(chat)
        second = await chat.retry(run_id, ANN, call_id="p")
        log = await log_of(chat, second.run_id)
        assert b"idempotency" not in next(event.data for event in log if event.type == "tool_call")
        tools.broken = False
        third = await chat.retry(second.run_id, ANN, call_id="p")
        log = await log_of(chat, third.run_id)
    assert asked == [(each, f"{run_id}:p") for each in (run_id, second.run_id, third.run_id)]
    assert payments == {f"{run_id}:p": 5}
    assert [e.event.idempotency_key for e in log if e.type == "tool_started"] == [f"{run_id}:p"]
    assert fold(log).calls[0].outcome == "ok"


async def test_from_a_step_on_the_steps_before_it_stand(make_chat: MakeChat) -> None:
    tools = Tools()
    async with make_chat(tools, RENDER, PUBLISH, Step("it failed."), Step("or else not.")) as chat:
        run_id = await first_run(chat)
        again = await chat.retry(run_id, ANN, from_step=2)
        state = fold(await log_of(chat, again.run_id))
    assert state.text == "First, or else not."
    assert tools.counts == {"render": 1, "publish": 1}


async def test_the_whole_run_is_done_anew_beside_the_first_and_the_conversation_goes_on_from_it(
    make_chat: MakeChat,
) -> None:
    tools = Tools()
    async with make_chat(tools, Step("One."), Step("Two."), Step("Three.")) as chat:
        run_id = await first_run(chat)
        again = await chat.retry(run_id, ANN)
        log = await log_of(chat, again.run_id)
        assert fold(log).text == "Two."
        assert "run_resumed" not in [event.type for event in log]
        messages = await chat.history(again.conversation_id, ANN)
        assert [message.role for message in messages] == ["user", "assistant", "assistant"]
        assert messages[1].parent_id == messages[2].parent_id == messages[0].message_id
        assert (await chat.buffer.conversation(again.conversation_id)).leaf_id == messages[2].message_id
        await chat.reply(again.conversation_id, "And then?", ANN)
        asked = chat.model.requests[-1].messages  # type: ignore[attr-defined]
    assert [message.content for message in asked] == ["Publish it", "Two.", "And then?"]


async def test_what_cannot_be_done_again_is_refused_with_the_reason(make_chat: MakeChat) -> None:
    tools, stall = Tools(), Stall()
    steps = (RENDER, PUBLISH, Step("it failed."), Step("Wait", stall_after=1, stall=stall), Step("Again."))
    async with make_chat(tools, *steps) as chat:
        run_id = await first_run(chat)
        with pytest.raises(NotRetryable) as caught:
            await chat.retry(run_id, ANN, call_id="r")
        assert caught.value.reason == "call_succeeded"
        wrong: list[dict[str, Any]] = [
            {"call_id": "none"},
            {"from_step": 9},
            {"from_step": 2, "call_id": "p"},
        ]
        for arguments in wrong:
            with pytest.raises(InvalidInput):
                await chat.retry(run_id, ANN, **arguments)
        with pytest.raises(RunNotFound):
            await chat.retry(run_id, Principal("bob"))
        conversation = (await chat.buffer.get(run_id)).conversation_id
        busy = await chat.start(conversation, "Wait", ANN)
        await stall.reached()
        with pytest.raises(NotRetryable) as caught:
            await chat.retry(busy.run_id, ANN)
        assert caught.value.reason == "run_active"
        with pytest.raises(ConversationBusy):
            await chat.retry(run_id, ANN)
        stall.release()
        await log_of(chat, busy.run_id)
        await chat.buffer.trim(2**60)
        with pytest.raises(NotRetryable) as caught:
            await chat.retry(run_id, ANN, call_id="p")
        assert caught.value.reason == "history_trimmed"
        # The whole run needs no history.
        again = await chat.retry(run_id, ANN)
        assert fold(await log_of(chat, again.run_id)).text == "Again."


async def test_a_retry_that_is_asked_for_twice_under_one_key_is_one(make_chat: MakeChat) -> None:
    async with make_chat(Tools(), Step("One."), Step("Two.")) as chat:
        run_id = await first_run(chat)
        first = await chat.retry(run_id, ANN, idempotency_key="k")
        await log_of(chat, first.run_id)
        again = await chat.retry(run_id, ANN, idempotency_key="k")
        assert (again.run_id, again.new) == (first.run_id, False)
        with pytest.raises(IdempotencyConflict):
            await chat.retry(run_id, ANN, from_step=1, idempotency_key="k")
        await chat.drain(0)  # who repeats a request takes no room
        again = await chat.retry(run_id, ANN, idempotency_key="k")
        assert (again.run_id, again.new) == (first.run_id, False)
        with pytest.raises(Busy):
            await chat.retry(run_id, ANN, idempotency_key="other")


async def test_an_answer_whose_question_was_deleted_is_retried_where_it_stands_by_now(
    make_chat: MakeChat,
) -> None:
    async with make_chat(Tools(), *[Step(text) for text in ("1!", "2!", "2?", "2.", "3!")]) as chat:
        runs = [await chat.reply("home", text, ANN) for text in ("one", "two")]
        again = await chat.retry(runs[1].run_id, ANN)
        await log_of(chat, again.run_id)
        await chat.delete(principal=ANN, run_id=runs[1].run_id)
        third = await chat.retry(again.run_id, ANN)
        await log_of(chat, third.run_id)
        await chat.reply("home", "three", ANN)
        said = [message.content for message in chat.model.requests[-1].messages]  # type: ignore[attr-defined]
        assert said == ["one", "1!", "2.", "three"]
        known = {row.message_id for row in await chat.history("home", ANN)}
        rows = await chat.buffer.messages("home")
        assert {row.parent_id for row in rows} - {None} <= known | {again.message_id}
        await chat.delete(principal=ANN, run_id=third.run_id)
        with pytest.raises(RunNotFound):
            await chat.retry(third.run_id, ANN)


async def test_a_run_that_is_deleted_while_it_is_being_retried_is_not(make_chat: MakeChat) -> None:
    async with make_chat(Tools(), Step("1!")) as chat:
        run = await chat.reply("home", "one", ANN)
        watched: Any = chat.buffer
        create = watched.inner.create

        async def late(*given: Any, **named: Any) -> Any:
            await watched.inner.delete(run_id=run.run_id)
            return await create(*given, **named)

        watched.create = late
        with pytest.raises(RunNotFound):
            await chat.retry(run.run_id, ANN)
        assert await chat.history("home", ANN) == []


async def test_over_http_a_refusal_has_its_reason() -> None:
    from streamchat.adapters.asgi import asgi_app
    from tests.adapters.serving import fetch, serve

    tools = Tools()
    chat = StreamChat(
        model=ScriptedModel([RENDER, PUBLISH, Step("it failed."), Step("it worked.")]),
        tools=tools.registry,
        allow_anonymous=True,
    )
    async with serve(asgi_app(chat)) as port:

        async def post(path: str, body: Any = None) -> tuple[int, Any]:
            return await fetch(port, "POST", path, body)

        _, reply = await post("/runs/reply", {"message": "Publish it"})
        run = f"/runs/{reply['run_id']}"
        status, answer = await post(f"{run}/retry", {"call_id": "r"})
        assert (status, answer["error"]["code"], answer["error"]["reason"]) == (
            409,
            "not_retryable",
            "call_succeeded",
        )
        status, answer = await post(f"{run}/retry", {"from_step": 0})
        assert (status, answer["error"]["field"]) == (422, "from_step")
        assert (await post("/runs/none/retry"))[0] == 404
        tools.broken = False
        status, answer = await post(f"{run}/retry", {"call_id": "p"})
        assert status == 201
        assert answer["stream_url"] == f"/runs/{answer['run_id']}/stream"
