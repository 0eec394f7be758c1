"""Approvals, client-side tools and jobs through the service: from any worker, after restarts, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from streamchat import (
    EventBuffer,
    Principal,
    Resource,
    RunOptions,
    ServiceLimits,
    StreamChat,
    StreamChatError,
    ToolContext,
    ToolRegistry,
    check_log,
    owns,
)
from streamchat.buffers.base import NewEvent
from streamchat.buffers.shared import now_ms
from streamchat.core.answers import Answer
from streamchat.errors import AnswerConflict, InvalidInput, RunNotFound, RunOver, WaitNotFound
from streamchat.service.answers import decision, tool_result
from streamchat.testing import Call, ScriptedModel, Step
from streamchat.tools import Deferred
from tests.buffers.backends import BACKENDS, Backend
from tests.buffers.redis_backend import Valkey

from .support import Mortal, WatchedBuffer, drain, log_of

pytestmark = pytest.mark.anyio

STORES: dict[str, type[Backend]] = {
    **{name: BACKENDS[name] for name in ("memory", "sqlite", "postgresql")},
    "valkey": Valkey,
}


@pytest.fixture(params=STORES)
async def buffer(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EventBuffer]:
    """What wakes a run is the store's doing, so these tests run over one of each sort."""
    kind = STORES[request.param]
    backend = kind(tmp_path, request.getfixturevalue(kind.service) if kind.service else "")
    backend.clock = now_ms if request.param == "memory" else None
    async with backend.open() as made:
        yield made


class Shop:
    """Tools that wait for somebody, and what they really did."""

    def __init__(self) -> None:
        self.paid: list[int] = []
        self.jobs: list[str] = []
        self.tools = ToolRegistry()

        @self.tools.tool(requires_approval=True)
        async def pay(amount: int) -> str:
            self.paid.append(amount)
            return f"paid {amount}"

        @self.tools.tool(client_side=True)
        def locate() -> str:
            """Where the user is."""
            raise AssertionError

        @self.tools.tool(deferred=True)
        async def render(ctx: ToolContext) -> Deferred:
            self.jobs.append(ctx.job_id)
            return Deferred("Rendering.")

    def chat(self, buffer: Any, *steps: Any, **more: Any) -> StreamChat:
        more.setdefault("allow_anonymous", "authorize" not in more)
        more.setdefault("limits", ServiceLimits(look_every=0.05))
        return StreamChat(model=ScriptedModel([*steps, "Done."]), tools=self.tools, buffer=buffer, **more)


def asks(*calls: Call) -> Step:
    return Step("Let me see. ", calls=calls)


PAY = Call("pay", {"amount": 7}, id="p")


async def suspended(chat: StreamChat, run_id: str) -> list[tuple[str, str]]:
    """Wait until the run is suspended in the store; return what it waits for."""
    while (await chat.buffer.get(run_id)).status != "suspended":
        await asyncio.sleep(0.01)
    status = await chat.status(run_id)
    return [(wait.kind, wait.call_id) for wait in status.state.waits]


async def until_over(chat: StreamChat, run_id: str) -> str:
    await drain(chat, run_id)
    check_log(await log_of(chat, run_id))
    return (await chat.status(run_id)).status


async def test_a_run_that_waits_for_a_person_holds_nothing_and_goes_on_when_they_have_decided(
    buffer: EventBuffer,
) -> None:
    shop = Shop()
    async with shop.chat(buffer, asks(PAY)) as chat:
        answer = await chat.reply(None, "pay")
        assert answer.status == "suspended"
        assert await suspended(chat, answer.run_id) == [("approval", "p")]
        record = await chat.buffer.get(answer.run_id)
        assert record.owner is None, "the lease is given up"
        assert record.wake_at is not None
        await chat.resolve_approval(answer.run_id, "p", True, reason="fine")
        assert await until_over(chat, answer.run_id) == "success"
    assert shop.paid == [7]


async def test_a_decision_is_taken_by_another_worker_after_a_restart(buffer: EventBuffer) -> None:
    class Shared(WatchedBuffer):
        pass

    shop = Shop()
    async with shop.chat(Shared(buffer), asks(PAY)) as chat:
        run_id = (await chat.reply(None, "pay")).run_id
        await suspended(chat, run_id)
    again = Shop()
    async with again.chat(Shared(buffer)) as other:
        await other.resolve_approval(run_id, "p", True, arguments={"amount": 5})
        assert await until_over(other, run_id) == "success"
        resumed = [event for event in await log_of(other, run_id) if event.type == "run_resumed"]
    assert [event.reason for event in resumed] == ["approval"]  # type: ignore[union-attr]
    assert (shop.paid, again.paid) == ([], [5])


async def test_the_row_of_an_answer_is_consumed_with_the_event_that_takes_it_in(buffer: EventBuffer) -> None:
    watched = WatchedBuffer(buffer)
    shop = Shop()
    async with shop.chat(watched, asks(PAY, Call("locate", id="l"))) as chat:
        run_id = (await chat.reply(None, "pay")).run_id
        await suspended(chat, run_id)

        async def after(batch: Sequence[NewEvent]) -> None:
            if any(event.type == "approval_resolved" for event in batch):
                assert await buffer.inputs(run_id) == []

        watched.after = after
        await chat.resolve_approval(run_id, "p", True)
        await asyncio.sleep(0)
        assert await suspended(chat, run_id)
        while await suspended(chat, run_id) != [("tool_result", "l")]:
            await asyncio.sleep(0.01)
        await chat.submit_tool_result(run_id, "l", "Oslo")
        assert await until_over(chat, run_id) == "success"
    assert shop.paid == [7]


async def test_the_same_answer_again_changes_nothing_and_another_is_refused(buffer: EventBuffer) -> None:
    shop = Shop()
    async with shop.chat(buffer, asks(PAY)) as chat:
        run_id = (await chat.reply(None, "pay")).run_id
        await chat.resolve_approval(run_id, "p", False, reason="no")
        await chat.resolve_approval(run_id, "p", False, reason="no")
        with pytest.raises(AnswerConflict):
            await chat.resolve_approval(run_id, "p", True)
        assert await until_over(chat, run_id) == "success"
        await chat.resolve_approval(run_id, "p", False, reason="no")
        with pytest.raises(AnswerConflict):
            await chat.resolve_approval(run_id, "p", True)
        with pytest.raises(WaitNotFound):
            await chat.resolve_approval(run_id, "q", True)
        told = chat.model.requests[-1].messages[-1].content  # type: ignore[attr-defined]
    assert shop.paid == []
    assert told == "The user did not allow this call. no"


async def test_what_does_not_fit_is_refused_and_the_run_waits_on(buffer: EventBuffer) -> None:
    shop = Shop()
    async with shop.chat(buffer, asks(PAY, Call("locate", id="l"))) as chat:
        run_id = (await chat.reply(None, "pay")).run_id
        with pytest.raises(InvalidInput):
            await chat.resolve_approval(run_id, "p", True, arguments={"amount": "lots"})
        with pytest.raises(InvalidInput):
            await chat.submit_tool_result(run_id, "l", {"not": "text"})
        with pytest.raises(InvalidInput):
            await chat.submit_tool_result(run_id, "l", object())
        for wrong in ([1], "amount", 7):
            with pytest.raises(InvalidInput, match="arguments") as refused:
                await chat.resolve_approval(run_id, "p", True, arguments=cast(Any, wrong))
            assert refused.value.field == "arguments"
        with pytest.raises(InvalidInput, match="job_id"):
            await chat.complete_job(cast(Any, None), 1)
        with pytest.raises(RunNotFound):
            await chat.complete_job("nonsense", 1)
        with pytest.raises(WaitNotFound):
            await chat.complete_job(f"{run_id}:p", 1)
        assert len(await suspended(chat, run_id)) == 2
        assert await buffer.inputs(run_id) == []


async def test_of_several_answers_none_is_taken_where_one_cannot_be(buffer: EventBuffer) -> None:
    shop = Shop()
    calls = asks(PAY, Call("pay", {"amount": 8}, id="q"), Call("locate", id="l"))
    async with shop.chat(buffer, calls) as chat:
        run_id = (await chat.reply(None, "pay")).run_id
        yes = decision("p", True)
        refusals: list[tuple[type[Exception], Answer]] = [
            (InvalidInput, decision("q", True, arguments={"amount": "lots"})),
            (InvalidInput, tool_result("l", {"not": "text"})),
            (InvalidInput, Answer(cast(Any, "guess"), "q", {"approved": True})),
            (WaitNotFound, decision("l", True)),
            (AnswerConflict, decision("p", False)),
        ]
        for error, wrong in refusals:
            with pytest.raises(error):
                await chat.submit_answers(run_id, [yes, wrong])
        with pytest.raises(InvalidInput):
            await chat.submit_answers(run_id, cast(Any, ["yes"]))
        with pytest.raises(InvalidInput):
            await chat.check_answers(run_id, [refusals[0][1]])
        await chat.check_answers(run_id, [yes])
        await chat.submit_answers(run_id, [])
        assert await buffer.inputs(run_id) == []
        # One that was given is no obstacle; given otherwise, it is none to be half done with either.
        await chat.resolve_approval(run_id, "q", False)
        with pytest.raises(AnswerConflict):
            await chat.submit_answers(run_id, [yes, decision("q", True)])
        while not [e for e in await log_of(chat, run_id) if e.type == "approval_resolved"]:
            await asyncio.sleep(0.01)
        with pytest.raises(AnswerConflict):
            await chat.submit_answers(run_id, [yes, decision("q", True)])
        assert shop.paid == []
        await chat.submit_answers(run_id, [yes, yes, decision("q", False), tool_result("l", "Oslo")])
        assert await until_over(chat, run_id) == "success"
    assert shop.paid == [7]


async def test_who_may_answer_is_asked_for_each_verb(buffer: EventBuffer) -> None:
    ann, bob = Principal("ann"), Principal("bob")
    asked: list[tuple[str, str]] = []

    def authorize(principal: Principal | None, action: Any, resource: Resource) -> bool:
        asked.append((principal.id if principal else "", action))
        return (owns(principal, action, resource) and action != "approve") or principal == bob

    shop = Shop()
    calls = asks(PAY, Call("locate", id="l"), Call("render", id="r"))
    async with shop.chat(buffer, calls, authorize=authorize) as chat:
        run_id = (await chat.reply(None, "pay", ann)).run_id
        with pytest.raises(RunNotFound):
            await chat.resolve_approval(run_id, "p", True, principal=ann)
        with pytest.raises(RunNotFound):
            await chat.submit_answers(run_id, [tool_result("l", "Oslo"), decision("p", True)], ann)
        assert await buffer.inputs(run_id) == []
        await chat.resolve_approval(run_id, "p", True, principal=bob)
        await chat.submit_tool_result(run_id, "l", "Oslo", principal=ann)
        await chat.complete_job(f"{run_id}:r", "v.mp4", principal=ann)
        while not (await chat.status(run_id, ann)).state.over:
            await asyncio.sleep(0.01)
        resolved = [e for e in await log_of(chat, run_id) if e.type == "approval_resolved"]
    assert [event.by for event in resolved] == ["bob"]  # type: ignore[union-attr]
    assert {action for _, action in asked} >= {"approve", "submit_tool_result", "complete_job"}


async def test_a_job_is_completed_by_the_applications_own_code_and_gives_up_the_slot_meanwhile(
    buffer: EventBuffer,
) -> None:
    shop = Shop()
    model = ScriptedModel([asks(Call("render", id="r")), "Something else.", "Here it is."])
    async with StreamChat(
        model=model, tools=shop.tools, buffer=buffer, authorize=owns, limits=ServiceLimits(look_every=0.05)
    ) as chat:
        ann = Principal("ann")
        first = await chat.reply("c1", "render", ann)
        while (await buffer.get(first.run_id)).status != "suspended":
            await asyncio.sleep(0.01)
        # The conversation goes on, and the model sees that the job is at work.
        second = await chat.reply("c1", "what else?", ann)
        assert second.text == "Something else."
        told = [message.content for message in model.requests[1].messages]
        assert told == ["render", "Let me see. ", "Rendering.", "what else?"]
        await chat.complete_job(shop.jobs[0], {"url": "v.mp4"})
        while not (await chat.status(first.run_id, ann)).state.over:
            await asyncio.sleep(0.01)
        status = await chat.status(first.run_id, ann)
        assert status.text == "Let me see. Here it is."
        history = await chat.history("c1", ann)
        assert [row.status for row in history] == ["complete"] * 4
        with pytest.raises(AnswerConflict):
            await chat.complete_job(shop.jobs[0], error="no")
        await chat.complete_job(shop.jobs[0], {"url": "v.mp4"})


async def test_what_nobody_decides_in_time_is_denied_by_the_stores_clock(buffer: EventBuffer) -> None:
    shop = Shop()
    options = RunOptions(approval_timeout=0.2)
    async with shop.chat(buffer, asks(PAY), options=options) as chat:
        run_id = (await chat.reply(None, "pay")).run_id
        assert await until_over(chat, run_id) == "success"
        log = await log_of(chat, run_id)
        assert [event.outcome for event in log if event.type == "tool_result"] == ["denied"]  # type: ignore[union-attr]
        assert [event.reason for event in log if event.type == "run_resumed"] == ["expired"]  # type: ignore[union-attr]
        with pytest.raises(RunOver):
            await chat.resolve_approval(run_id, "p", True)
    assert shop.paid == []


async def test_an_answer_after_its_time_is_refused_as_too_late_before_anybody_has_noted_the_expiry(
    buffer: EventBuffer,
) -> None:
    shop, mortal = Shop(), Mortal(buffer)
    watched = WatchedBuffer(cast(EventBuffer, mortal))
    brief = {
        "options": RunOptions(approval_timeout=0.2),
        "limits": ServiceLimits(look_every=0.05, drain_seconds=0.0),
    }

    def die(batch: Sequence[NewEvent]) -> None:
        mortal.dead = mortal.dead or any(event.type == "suspended" for event in batch)

    watched.after = die
    async with shop.chat(watched, asks(PAY), **brief) as chat:
        run_id = (await chat.start(None, "pay")).run_id
        async with shop.chat(WatchedBuffer(buffer), work=False) as door:
            assert await suspended(door, run_id) == [("approval", "p")]
            await asyncio.sleep(0.3)
            for _ in range(2):
                with pytest.raises(AnswerConflict, match="time to answer"):
                    await door.resolve_approval(run_id, "p", True)
    async with shop.chat(WatchedBuffer(buffer)) as chat:
        assert await until_over(chat, run_id) == "success"
        log = await log_of(chat, run_id)
        assert [event.outcome for event in log if event.type == "tool_result"] == ["denied"]  # type: ignore[union-attr]
    assert shop.paid == []


async def test_an_answer_that_comes_while_the_run_is_being_suspended_is_not_lost(buffer: EventBuffer) -> None:
    """The store refuses to suspend a run with unread inputs: the holder goes on with them."""
    watched = WatchedBuffer(buffer)
    shop = Shop()
    made: list[Any] = []

    async with shop.chat(watched, asks(PAY), deps=lambda context: made.append(context)) as chat:
        posted = asyncio.Event()

        async def before(batch: Sequence[NewEvent]) -> None:
            if batch and batch[-1].type == "suspended" and not posted.is_set():
                posted.set()
                await chat.resolve_approval(started.run_id, "p", True)

        watched.before = before
        started = await chat.start(None, "pay")
        assert await until_over(chat, started.run_id) == "success"
        log = await log_of(chat, started.run_id)
    assert posted.is_set()
    assert shop.paid == [7]
    assert [event.type for event in log if event.type in ("suspended", "run_resumed")] == []
    assert len(made) == 1, "one holder, one set of dependencies"


async def test_a_cancel_while_it_waits_ends_it_and_the_next_turn_is_taken_by_a_strict_provider(
    buffer: EventBuffer,
) -> None:
    shop = Shop()
    calls = asks(PAY, Call("locate", id="l"), Call("render", id="r"))
    async with shop.chat(buffer, calls) as chat:
        answer = await chat.reply("c1", "pay")
        await suspended(chat, answer.run_id)
        await chat.cancel(answer.run_id, reason="enough")
        assert await until_over(chat, answer.run_id) == "cancelled"
        with pytest.raises(RunOver):
            await chat.resolve_approval(answer.run_id, "p", True)
        with pytest.raises(RunOver):
            await chat.submit_tool_result(answer.run_id, "l", "Oslo")
        again = await chat.reply("c1", "go on")
        assert again.text == "Done."
        assert chat.model.problems == []  # type: ignore[attr-defined]
    assert shop.paid == []


async def test_an_answer_posted_by_another_process_reaches_the_holder_at_work(buffer: EventBuffer) -> None:
    shop = Shop()
    gate = asyncio.Event()

    @shop.tools.tool
    async def slow() -> str:
        await gate.wait()
        return "slow"

    async with (
        shop.chat(WatchedBuffer(buffer), asks(PAY, Call("slow"))) as holder,
        shop.chat(WatchedBuffer(buffer), work=False) as other,
    ):
        run_id = (await holder.start(None, "pay")).run_id
        async with holder.attach(run_id) as reading:
            seen: list[str] = []
            while "approval_requested" not in seen:
                seen += [event.type for event in cast(Any, await reading.next()) or ()]
        await other.resolve_approval(run_id, "p", True)
        while not shop.paid:
            await asyncio.sleep(0.01)
        gate.set()
        assert await until_over(holder, run_id) == "success"
        log = await log_of(holder, run_id)
    assert "suspended" not in [event.type for event in log], "it never paused"
    assert shop.paid == [7]


async def test_a_cancel_and_an_answer_at_once_leave_nothing_open(buffer: EventBuffer) -> None:
    shop = Shop()
    async with shop.chat(buffer, asks(PAY)) as chat:
        answer = await chat.reply("c1", "pay")
        await suspended(chat, answer.run_id)
        await asyncio.gather(
            chat.resolve_approval(answer.run_id, "p", True),
            chat.cancel(answer.run_id),
            return_exceptions=True,
        )
        assert await until_over(chat, answer.run_id) in ("cancelled", "success")
        status = await chat.status(answer.run_id)
        assert [call.state for call in status.state.calls] == ["done"]


async def test_a_job_has_a_secret_of_its_own() -> None:
    chat = StreamChat(model=ScriptedModel.text("x"), allow_anonymous=True, job_secret="s3cret")
    same = StreamChat(model=ScriptedModel.text("x"), allow_anonymous=True, job_secret="s3cret")
    other = StreamChat(model=ScriptedModel.text("x"), allow_anonymous=True, job_secret="other")
    none = StreamChat(model=ScriptedModel.text("x"), allow_anonymous=True)
    secret = chat.job_secret("run:a")
    assert same.knows_job_secret("run:a", secret)
    assert not chat.knows_job_secret("run:b", secret)
    assert not other.knows_job_secret("run:a", secret)
    assert not none.knows_job_secret("run:a", "")
    with pytest.raises(StreamChatError, match="job_secret="):
        none.job_secret("run:a")
