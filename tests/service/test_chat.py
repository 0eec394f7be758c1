"""StreamChat: start, read, cancel, who may do what, and what the model is given."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from streamchat import (
    EventBuffer,
    Limits,
    ModelMessage,
    Principal,
    Resource,
    RunContext,
    RunSummary,
    ServiceLimits,
    StoredEvent,
    StreamChat,
    ToolContext,
    ToolRegistry,
    check_log,
    fold,
)
from streamchat.buffers.base import NewEvent, NewRun
from streamchat.errors import (
    BufferUnavailable,
    Busy,
    ConversationBusy,
    ConversationNotFound,
    CursorInvalid,
    IdempotencyConflict,
    InvalidInput,
    NotAuthorized,
    RunNotFound,
    StreamChatError,
)
from streamchat.testing import Call, ScriptedModel, Stall, Step

from .support import WatchedBuffer, drain, log_of

pytestmark = pytest.mark.anyio

ADA, BOB = Principal("ada"), Principal("bob")


def service(buffer: EventBuffer, model: ScriptedModel, **more: Any) -> StreamChat:
    watched: Any = WatchedBuffer(buffer)
    return StreamChat(model=model, buffer=watched, **{"allow_anonymous": True, **more})


async def test_without_authorize_construction_fails_unless_anonymous_use_is_allowed() -> None:
    with pytest.raises(StreamChatError, match="authorize"):
        StreamChat(model=ScriptedModel.text("hi"))


async def test_a_service_that_is_not_open_says_so(buffer: EventBuffer) -> None:
    with pytest.raises(StreamChatError, match="not open"):
        await service(buffer, ScriptedModel.text("hi")).start(None, "hello")


async def test_ask_gives_a_whole_legal_log_and_its_fold_is_the_answer(buffer: EventBuffer) -> None:
    async with service(buffer, ScriptedModel.text("Hello, how are you?")) as chat:
        seen = [event async for event in chat.ask(None, "hi") if isinstance(event, StoredEvent)]
    assert check_log(seen) == "over"
    assert fold(seen).text == "Hello, how are you?"
    assert [event.seq for event in seen] == list(range(1, len(seen) + 1))


async def test_start_makes_message_placeholder_and_run_durable_before_it_answers(buffer: EventBuffer) -> None:
    stall = Stall()
    model = ScriptedModel([Step("Hello", stall_after=0, stall=stall)])
    async with service(buffer, model) as chat:
        started = await chat.start(None, "hi", ADA)
        user, placeholder = await buffer.messages(started.conversation_id)
        assert (user.role, user.status, b'"hi"' in user.content) == ("user", "complete", True)
        assert (placeholder.message_id, placeholder.status) == (started.message_id, "pending")
        assert placeholder.parent_id == user.message_id
        assert (await buffer.read(started.run_id)).events[0].type == "run_started"
        stall.release()
        await drain_as(chat, started.run_id, ADA)
        assert [m.status for m in await chat.history(started.conversation_id, ADA)] == [
            "complete",
            "complete",
        ]


async def drain_as(chat: StreamChat, run_id: str, principal: Principal) -> None:
    async with await chat.attach(run_id, principal=principal) as subscription:
        while not subscription.finished:
            await subscription.next()


async def test_attaching_at_any_cursor_gives_exactly_what_follows_it(buffer: EventBuffer) -> None:
    async with service(buffer, ScriptedModel.text("one two three four five")) as chat:
        answer = await chat.reply(None, "hi")
        whole = await drain(chat, answer.run_id)
        for seen in range(len(whole) + 1):
            cursor = whole[seen - 1].id if seen else None
            async with await chat.attach(answer.run_id, cursor) as subscription:
                assert subscription.finished is (seen == len(whole))
            if seen < len(whole):
                assert await drain(chat, answer.run_id, cursor) == whole[seen:]


async def test_a_run_is_read_by_iterating_entering_or_awaiting(buffer: EventBuffer) -> None:
    async with service(buffer, ScriptedModel.text("one two three")) as chat:
        answer = await chat.reply(None, "hi")
        whole = await drain(chat, answer.run_id)
        assert [event async for event in chat.attach(answer.run_id)] == whole
        assert [event async for event in chat.attach(answer.run_id, after=whole[2].id)] == whole[3:]
        async with chat.attach(answer.run_id) as subscription:
            assert await subscription.next() == whole
        subscription = await chat.attach(answer.run_id)
        assert await subscription.next() == whole
        await subscription.close()


async def test_readers_and_askers_are_told_when_the_process_shuts_down(buffer: EventBuffer) -> None:
    stall = Stall()
    model = ScriptedModel([Step("one two", stall_after=1, stall=stall)])
    async with service(buffer, model) as chat:
        replying = asyncio.ensure_future(chat.reply(None, "hi"))
        await stall.reached()
        await chat.drain(0)
        with pytest.raises(Busy, match="shutting down"):
            await replying
        with pytest.raises(Busy, match="shutting down"):
            await chat.start(None, "hi")


async def test_a_malformed_cursor_is_refused_and_one_of_another_run_counts_as_none(
    buffer: EventBuffer,
) -> None:
    async with service(buffer, ScriptedModel.text("hi", repeat=True)) as chat:
        one, two = await chat.reply(None, "a"), await chat.reply(None, "b")
        with pytest.raises(CursorInvalid):
            await chat.attach(one.run_id, "nonsense")
        assert next(e.seq for e in await drain(chat, one.run_id, two.cursor)) == 1


async def test_the_next_turn_is_given_the_conversation_with_its_tool_results(buffer: EventBuffer) -> None:
    tools = ToolRegistry()

    @tools.tool
    async def now() -> str:
        """The time."""
        return "noon"

    model = ScriptedModel(
        [Step("Looking.", calls=[Call("now")]), Step("It is noon."), Step("You are welcome.")]
    )
    async with service(buffer, model, tools=tools, instructions="Be brief.") as chat:
        first = await chat.reply(None, "What time is it?")
        await chat.reply(first.conversation_id, "Thanks!")
    assert [(m.role, m.content) for m in model.requests[-1].messages] == [
        ("system", "Be brief."),
        ("user", "What time is it?"),
        ("assistant", "Looking."),
        ("tool", "noon"),
        ("assistant", "It is noon."),
        ("user", "Thanks!"),
    ]


async def test_of_a_long_conversation_the_model_is_given_the_newest_messages(buffer: EventBuffer) -> None:
    model = ScriptedModel(lambda request: f"answer {len(request.messages)}")
    async with service(buffer, model, limits=ServiceLimits(max_history_messages=3)) as chat:
        conversation_id = None
        for turn in range(4):
            conversation_id = (await chat.reply(conversation_id, f"question {turn}")).conversation_id
    assert [m.content for m in model.requests[-1].messages] == ["question 2", "answer 3", "question 3"]


async def test_instructions_and_prepare_messages_may_be_functions(buffer: EventBuffer) -> None:
    async def instructions(context: RunContext) -> str:
        return f"Speak with {context.principal.id if context.principal else 'nobody'}."

    def prepare(messages: list[ModelMessage], context: RunContext) -> list[ModelMessage]:
        return messages[:1] + messages[-1:]

    model = ScriptedModel.text("ok", repeat=True)
    async with service(buffer, model, instructions=instructions, prepare_messages=prepare) as chat:
        first = await chat.reply(None, "one", ADA)
        await chat.reply(first.conversation_id, "two", ADA)
    assert [m.content for m in model.requests[-1].messages] == ["Speak with ada.", "two"]


async def test_tools_find_the_principal_and_what_the_deps_factory_made(buffer: EventBuffer) -> None:
    tools, seen = ToolRegistry(), []

    @tools.tool
    async def look(ctx: ToolContext[str]) -> str:
        """Look."""
        seen.append((ctx.principal, ctx.deps, ctx.fence))
        return "ok"

    async def deps(context: RunContext) -> str:
        return f"database of {context.conversation_id}"

    model = ScriptedModel([Step(calls=[Call("look")]), Step("ok")])
    async with service(buffer, model, tools=tools, deps=deps) as chat:
        answer = await chat.reply(None, "hi", ADA)
    assert seen == [(ADA, f"database of {answer.conversation_id}", 1)]


async def test_a_run_whose_deps_cannot_be_made_ends_with_an_error_instead_of_being_tried_for_ever(
    buffer: EventBuffer,
) -> None:
    def deps(context: RunContext) -> object:
        raise RuntimeError("secret detail")

    summaries: list[RunSummary] = []
    model = ScriptedModel([])
    async with service(buffer, model, deps=deps, on_run_finished=summaries.append) as chat:
        answer = await chat.reply(None, "hi")
        log = await log_of(chat, answer.run_id)
    assert check_log(log) == "over"
    assert answer.status == "error"
    assert "secret" not in answer.state.model_dump_json()
    assert [summary.outcome for summary in summaries] == ["error"]


async def test_the_same_idempotency_key_gives_the_same_run_and_another_body_is_refused(
    buffer: EventBuffer,
) -> None:
    model = ScriptedModel.text("hi", repeat=True)
    async with service(buffer, model) as chat:
        first = await chat.start(None, "hello", ADA, idempotency_key="k")
        await drain_as(chat, first.run_id, ADA)
        again = await chat.start(None, "hello", ADA, idempotency_key="k")
        assert (again.run_id, again.new) == (first.run_id, False)
        with pytest.raises(IdempotencyConflict):
            await chat.start(None, "other", ADA, idempotency_key="k")
        other = await chat.start(None, "hello", BOB, idempotency_key="k")
        assert other.run_id != first.run_id
        await drain_as(chat, other.run_id, BOB)
    assert len(model.requests) == 2


async def test_a_conversation_has_one_active_run(buffer: EventBuffer) -> None:
    stall = Stall()
    model = ScriptedModel([Step("one", stall_after=0, stall=stall), Step("two")])
    async with service(buffer, model) as chat:
        first = await chat.start(None, "a")
        with pytest.raises(ConversationBusy) as busy:
            await chat.start(first.conversation_id, "b")
        assert busy.value.active_run_id == first.run_id
        found = await chat.find(first.conversation_id)
        assert found is not None
        assert found.run_id == first.run_id
        stall.release()
        await drain(chat, first.run_id)
        assert await chat.find(first.conversation_id) is None
        await chat.reply(first.conversation_id, "b")
        assert len(await chat.history(first.conversation_id)) == 4


async def test_what_belongs_to_another_looks_like_what_does_not_exist(buffer: EventBuffer) -> None:
    async with service(buffer, ScriptedModel.text("hi", repeat=True)) as chat:
        mine = await chat.reply(None, "hello", ADA)
        for run_id in (mine.run_id, "f" * 32):
            for refused in (
                chat.attach(run_id, None, BOB),
                chat.status(run_id, BOB),
                chat.events(run_id, BOB),
                chat.cancel(run_id, BOB),
                chat.status(run_id),
            ):
                with pytest.raises(RunNotFound):
                    await refused
        with pytest.raises(ConversationNotFound):
            await chat.history(mine.conversation_id, BOB)
        with pytest.raises(ConversationNotFound):
            await chat.start(mine.conversation_id, "hello", BOB)
        assert await chat.find(mine.conversation_id, BOB) is None
        assert await chat.conversations(BOB) == []
        assert [c.conversation_id for c in await chat.conversations(ADA)] == [mine.conversation_id]


async def test_authorize_is_asked_on_every_verb_and_only_true_is_a_yes(buffer: EventBuffer) -> None:
    asked: list[tuple[str, str | None]] = []
    answers: dict[str, Any] = {}

    async def authorize(principal: Principal | None, action: str, resource: Resource) -> Any:
        asked.append((action, resource.owner))
        return answers.get(action, True)

    model = ScriptedModel.text("hi", repeat=True)
    async with service(buffer, model, authorize=authorize, allow_anonymous=False) as chat:
        answer = await chat.reply(None, "hello", ADA)
        await chat.cancel(answer.run_id, BOB)
        assert {action for action, _ in asked} == {"start", "read", "cancel"}
        assert {owner for _, owner in asked} == {"ada"} | ({"bob"} if ("start", "bob") in asked else set())
        answers.update(start="yes", read=None, cancel=False)
        with pytest.raises(NotAuthorized):
            await chat.start(None, "hello", ADA)
        with pytest.raises(RunNotFound):
            await chat.status(answer.run_id, ADA)
        with pytest.raises(RunNotFound):
            await chat.cancel(answer.run_id, ADA)


@pytest.mark.parametrize("message", ["", [], [{"type": "text"}], [{"type": "zzz"}], "x" * 101, 7, [3]])
async def test_a_message_that_cannot_be_used_is_refused_and_nothing_is_written(
    buffer: EventBuffer, message: Any
) -> None:
    limits = ServiceLimits(max_message_chars=100)
    async with service(buffer, ScriptedModel.text("hi"), limits=limits) as chat:
        with pytest.raises(InvalidInput) as error:
            await chat.start(None, message, ADA)
        assert (error.value.field or "").startswith("message")
        assert await chat.conversations(ADA) == []


async def test_a_client_may_bring_a_system_message_only_where_that_is_allowed(buffer: EventBuffer) -> None:
    model = ScriptedModel.text("hi")
    async with service(buffer, model) as chat:
        with pytest.raises(InvalidInput, match="system"):
            await chat.start(None, "hello", system_message="Obey me.")
    async with service(buffer, model, allow_system_message=True) as chat:
        await chat.reply(None, "hello", system_message="Obey me.")
    assert model.requests[-1].messages[0].content == "Obey me."


async def test_a_full_queue_refuses_with_a_time_and_writes_nothing(buffer: EventBuffer) -> None:
    stall = Stall()
    model = ScriptedModel([Step("one", stall_after=0, stall=stall), *["ok"] * 2])
    limits = ServiceLimits(max_runs=1, max_queue=2)
    async with service(buffer, model, limits=limits) as chat:
        running = await chat.start(None, "a", ADA)
        await stall.reached()
        queued = [await chat.start(None, "b", ADA), await chat.start(None, "c", ADA)]
        with pytest.raises(Busy) as busy:
            await chat.start(None, "d", ADA)
        assert busy.value.retry_after > 0
        assert len(await chat.conversations(ADA)) == 3
        stall.release()
        for started in (running, *queued):
            await drain_as(chat, started.run_id, ADA)


async def test_a_request_that_comes_again_is_answered_with_its_run_however_busy_the_service_is(
    buffer: EventBuffer,
) -> None:
    stall = Stall()
    model = ScriptedModel([Step("one", stall_after=0, stall=stall)], repeat=True)
    async with service(buffer, model, limits=ServiceLimits(max_runs=1, max_queue=1)) as chat:
        first = await chat.start(None, "a", ADA, idempotency_key="key")
        await stall.reached()
        second = await chat.start("chosen", "b", ADA, idempotency_key="other")
        for _ in ("full", "draining"):
            again = await chat.start(None, "a", ADA, idempotency_key="key")
            assert (again.run_id, again.message_id, again.new) == (first.run_id, first.message_id, False)
            again = await chat.start("chosen", "b", ADA, idempotency_key="other")
            assert (again.run_id, again.conversation_id, again.new) == (second.run_id, "chosen", False)
            with pytest.raises(IdempotencyConflict):
                await chat.start(None, "another body", ADA, idempotency_key="key")
            for who, key in ((ADA, "new"), (BOB, "key"), (ADA, None)):
                with pytest.raises(Busy):
                    await chat.start(None, "a", who, idempotency_key=key)
            await chat.drain(0)


async def test_after_it_was_closed_a_service_is_busy_and_not_broken(buffer: EventBuffer) -> None:
    chat = service(buffer, ScriptedModel.text("hi", repeat=True))
    async with chat:
        answer = await chat.reply(None, "hello")
    for call in (
        chat.start(None, "hello"),
        chat.status(answer.run_id),
        chat.cancel(answer.run_id),
        chat.attach(answer.run_id).__aenter__(),
    ):
        with pytest.raises(Busy, match="closed"):
            await call
    async with chat:
        assert (await chat.reply(None, "hello")).text == "hi"


async def test_a_run_of_an_unknown_log_version_is_left_alone_and_told_of_once(
    buffer: EventBuffer, caplog: pytest.LogCaptureFixture
) -> None:
    begun = NewEvent("run_started", b'{"type":"run_started","run_id":"newer"}')
    newer = NewRun("newer", "conversation", "message", begun, log_version=99)
    await buffer.create(newer)
    limits = ServiceLimits(look_every=0.01)
    async with service(buffer, ScriptedModel.text("hi", repeat=True), limits=limits) as chat:
        for _ in range(3):
            await chat.reply(None, "hello")
            assert (await chat.status("newer")).status == "queued"
        await chat.cancel("newer")
    run = await buffer.get("newer")
    assert (run.status, run.fence, run.head_seq) == ("queued", 0, 1)
    told = [record.getMessage() for record in caplog.records if "log version 99" in record.getMessage()]
    assert len(told) == 1
    assert "run newer" in told[0]


async def test_starts_at_the_same_moment_do_not_overrun_the_queue(buffer: EventBuffer) -> None:
    stall = Stall()
    model = ScriptedModel([Step("one", stall_after=0, stall=stall), *["ok"] * 2])
    async with service(buffer, model, limits=ServiceLimits(max_runs=1, max_queue=2)) as chat:
        running = await chat.start(None, "a", ADA)
        await stall.reached()
        answers = await asyncio.gather(
            *(chat.start(None, "b", ADA) for _ in range(20)), return_exceptions=True
        )
        started = [answer for answer in answers if not isinstance(answer, BaseException)]
        assert len(started) == 2
        assert {type(answer) for answer in answers if isinstance(answer, BaseException)} == {Busy}
        stall.release()
        for each in (running, *started):
            await drain_as(chat, each.run_id, ADA)


async def test_the_limits_of_a_run_given_to_the_service_are_refused_with_the_remedy() -> None:
    limits: Any = Limits(max_steps=3)
    with pytest.raises(InvalidInput, match="RunOptions"):
        StreamChat(model=ScriptedModel([]), limits=limits, allow_anonymous=True)


# ---------------------------------------------------------------------------------------------------- cancel


async def test_cancel_while_the_model_speaks_keeps_what_was_said(buffer: EventBuffer) -> None:
    stall = Stall()
    async with service(buffer, ScriptedModel([Step("one two three", stall_after=2, stall=stall)])) as chat:
        started = await chat.start(None, "go", ADA)
        await stall.reached()
        await chat.cancel(started.run_id, ADA, reason="enough")
        await drain_as(chat, started.run_id, ADA)
        log = await log_of(chat, started.run_id)
        await chat.cancel(started.run_id, ADA)  # again, after the end
        rows = await chat.history(started.conversation_id, ADA)
    state = fold(log)
    assert check_log(log) == "over"
    assert (state.status, state.text) == ("cancelled", "one two")
    assert state.cancelled is not None
    assert (state.cancelled.by, state.cancelled.reason) == ("ada", "enough")
    assert rows[-1].status == "cancelled"


async def test_cancel_while_queued_ends_the_run_without_asking_the_model(buffer: EventBuffer) -> None:
    stall = Stall()
    model = ScriptedModel([Step("one", stall_after=0, stall=stall)])
    async with service(buffer, model, limits=ServiceLimits(max_runs=1)) as chat:
        running = await chat.start(None, "a")
        await stall.reached()
        queued = await chat.start(None, "b")
        await chat.cancel(queued.run_id)
        log = await log_of(chat, queued.run_id)
        assert check_log(log) == "over"
        assert fold(log).status == "cancelled"
        assert await chat.find(queued.conversation_id) is None
        stall.release()
        await drain(chat, running.run_id)
    assert len(model.requests) == 1


async def test_a_cancel_whose_batch_may_have_been_written_sends_no_other_in_its_place(
    buffer: EventBuffer,
) -> None:
    watched: Any = WatchedBuffer(buffer)
    sent: list[tuple[str, ...]] = []

    def answer_is_lost(events: Sequence[NewEvent]) -> None:
        raise BufferUnavailable("the answer was lost on the way")

    async with StreamChat(
        model=ScriptedModel(), buffer=watched, allow_anonymous=True, work=False, lease_ttl=0.1
    ) as chat:
        queued = await chat.start(None, "hi")
        watched.before = lambda events: sent.append(tuple(event.type for event in events))
        watched.after = answer_is_lost
        await chat.cancel(queued.run_id)
        assert len(set(sent)) == 1
        assert sent[0][-1] == "finalized"
        assert (await chat.status(queued.run_id)).status == "cancelled"


async def test_cancel_in_a_tool_gives_each_call_one_result_and_the_next_turn_works(
    buffer: EventBuffer,
) -> None:
    tools, begun, cleaned = ToolRegistry(), asyncio.Event(), []

    @tools.tool
    async def forever() -> str:
        """Takes for ever."""
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)
        return "never"

    @tools.tool
    async def quick() -> str:
        """Is quick."""
        return "ok"

    model = ScriptedModel([Step(calls=[Call("forever"), Call("quick")]), Step("Fine.")])
    async with service(buffer, model, tools=tools) as chat:
        started = await chat.start(None, "go")
        await begun.wait()
        await chat.cancel(started.run_id)
        await drain(chat, started.run_id)
        log = await log_of(chat, started.run_id)
        assert check_log(log) == "over"
        assert sorted(call.outcome or "" for call in fold(log).calls) == ["cancelled", "ok"]
        assert cleaned == [True]
        answer = await chat.reply(started.conversation_id, "go on")  # the scripted model is strict
    assert answer.text == "Fine."


# ------------------------------------------------------------------------------------------------- summaries


async def test_a_finished_run_is_told_of_in_numbers(
    buffer: EventBuffer, caplog: pytest.LogCaptureFixture
) -> None:
    summaries: list[RunSummary] = []
    told = asyncio.Event()

    async def finished(summary: RunSummary) -> None:
        summaries.append(summary)
        told.set()

    tools = ToolRegistry()

    @tools.tool
    async def now() -> str:
        """The time."""
        return "noon"

    model = ScriptedModel(
        [
            Step("Hm", calls=[Call("now"), Call("nope")]),
            Step("noon", error="stream_error", error_after=1),
            Step("It is noon."),
        ]
    )
    with caplog.at_level("INFO", "streamchat.service"):
        async with service(buffer, model, tools=tools, on_run_finished=finished) as chat:
            answer = await chat.reply(None, "time?")
            await told.wait()
    (summary,) = summaries
    assert (summary.run_id, summary.outcome) == (answer.run_id, "success")
    assert (summary.steps, summary.retries, summary.tool_calls) == (2, 1, 2)
    assert summary.tool_outcomes == {"ok": 1, "error": 1}
    assert summary.usage is not None
    assert summary.usage.total_tokens > 0
    assert summary.events == answer.state.events - 1  # `run_started` was written by create
    assert None not in (summary.queued, summary.first_token, summary.duration)
    assert len([r for r in caplog.records if answer.run_id in r.getMessage() and r.levelname == "INFO"]) == 1


async def test_a_failed_run_names_the_phase_of_its_failure(buffer: EventBuffer) -> None:
    summaries: list[RunSummary] = []
    async with service(
        buffer, ScriptedModel([Step(error="authentication")]), on_run_finished=summaries.append
    ) as chat:
        answer = await chat.reply(None, "hi")
    assert answer.status == "error"
    assert (summaries[0].outcome, summaries[0].failed_phase, summaries[0].failed_code) == (
        "error",
        "model",
        "authentication",
    )
    assert summaries[0].correlation_id is not None
