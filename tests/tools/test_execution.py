from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import pytest
from anyio import CancelScope, Event

from streamchat.tools import (
    Deferred,
    OutcomeUnknown,
    ToolContext,
    ToolError,
    ToolOutcome,
    abandoned,
    run_attempt,
    run_reconcile,
    settle,
)
from streamchat.tools.values import CANCELLED
from tests.tools.support import LIMIT, Watched, make, on_both_loops, stubborn, told

pytestmark = [pytest.mark.anyio, on_both_loops]

SECRET = "postgres://user:hunter2@db"
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.fixture(autouse=True)
def _nothing_abandoned() -> Any:
    yield
    assert abandoned() == []


# ------------------------------------------------------------------------------------------ how tools are run


async def test_an_async_and_a_plain_function_give_their_result(watched: Watched) -> None:
    async def later(n: int) -> dict[str, int]:
        await anyio.lowlevel.checkpoint()
        return {"n": n}

    def plain(n: int) -> list[Any]:
        return [n, threading.current_thread() is threading.main_thread()]

    assert (await run_attempt(make(later), {"n": 1}, watched.context())).output == {"n": 1}
    outcome = await run_attempt(make(plain), {"n": 1}, watched.context())
    assert (outcome.outcome, outcome.output) == ("ok", [1, False])
    assert outcome.duration > 0


async def test_a_tool_gets_a_copy_of_the_context_variables(watched: Watched) -> None:
    def plain() -> str:
        seen = variable.get()
        variable.set("by the tool")
        return seen

    async def later() -> str:
        return plain()

    variable.set("by the caller")
    for function in (plain, later):
        assert (await run_attempt(make(function), {}, watched.context())).output == "by the caller"
        assert variable.get() == "by the caller"


async def test_wrappers_partials_and_callable_objects_run_as_what_they_are(watched: Watched) -> None:
    async def later(n: int, unit: str = "c") -> str:
        await anyio.lowlevel.checkpoint()
        return f"{n}{unit}"

    @functools.wraps(later)
    def plain_wrapper(*args: Any, **kwargs: Any) -> Any:
        return later(*args, **kwargs)

    class Callable_:
        async def __call__(self, n: int) -> str:
            return await later(n)

    async def numbers(n: int) -> AsyncIterator[Any]:
        yield 0
        yield f"{n}c"
        yield n

    @functools.wraps(numbers)
    def wrapped_generator(n: int) -> AsyncIterator[Any]:
        return numbers(n)

    kinds: list[tuple[Any, Any]] = [
        (plain_wrapper, "7c"),
        (functools.partial(later, unit="f"), "7f"),
        (Callable_(), "7c"),
        (wrapped_generator, 7),
    ]
    for function, wanted in kinds:
        outcome = await run_attempt(make(function), {"n": 7}, watched.context())
        assert (outcome.outcome, outcome.output) == ("ok", wanted)


async def test_arguments_that_do_not_fit_are_an_error_for_the_model_and_nothing_runs(
    watched: Watched,
) -> None:
    ran = []

    def tool(n: int) -> None:
        ran.append(n)

    outcome = await run_attempt(make(tool), {"n": "many"}, watched.context())
    assert (outcome.outcome, outcome.retryable) == ("error", False)
    assert "n: Input should be a valid integer" in told(outcome)
    assert not ran


# -------------------------------------------------------------------------------------------- what they raise


def raising(error: BaseException, how: str) -> Callable[..., Any]:
    def plain() -> None:
        raise error

    async def later() -> None:
        raise error

    async def generator() -> AsyncIterator[int]:
        yield 1
        raise error

    return {"thread": plain, "coroutine": later, "generator": generator}[how]


how_raised = pytest.mark.parametrize("how", ["thread", "coroutine", "generator"])


@how_raised
async def test_an_exceptions_text_goes_to_the_log_and_its_class_to_the_model(
    watched: Watched, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    tool = make(raising(RuntimeError(SECRET), how), name="lookup")
    outcome = await run_attempt(tool, {}, watched.context(attempt=2))
    assert (outcome.outcome, outcome.retryable) == ("error", True)
    assert told(outcome) == "lookup failed (RuntimeError)."
    assert SECRET not in repr((outcome.error, outcome.output))
    assert SECRET in caplog.text
    assert outcome.correlation_id
    assert outcome.correlation_id in caplog.text
    assert "run run-1, call call-1" in caplog.text


@how_raised
@pytest.mark.parametrize("retry", [False, True])
async def test_a_tool_error_tells_the_model_in_its_own_words(watched: Watched, how: str, retry: bool) -> None:
    tool = make(raising(ToolError("There is no city \ud800 of that name.", retry=retry), how))
    outcome = await run_attempt(tool, {}, watched.context())
    assert (outcome.outcome, outcome.retryable) == ("error", retry)
    assert told(outcome) == "There is no city \ufffd of that name."


@pytest.mark.parametrize("how", ["thread", "coroutine"])
@pytest.mark.parametrize("error", [SystemExit(3), StopIteration(4)], ids=["exit", "stop"])
async def test_a_tool_cannot_end_the_server(watched: Watched, how: str, error: BaseException) -> None:
    outcome = await run_attempt(make(raising(error, how)), {}, watched.context())
    assert outcome.outcome == "error"


async def test_a_tool_error_from_a_task_group_of_the_tools_is_told(watched: Watched) -> None:
    async def child() -> None:
        raise ToolError("No seats are left.")

    async def tool() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(child)
            await anyio.sleep_forever()

    assert told(await run_attempt(make(tool), {}, watched.context())) == "No seats are left."


async def test_a_tool_that_cancels_itself_is_cancelled_and_its_caller_is_not(
    watched: Watched, anyio_backend: str
) -> None:
    async def tool() -> None:
        if anyio_backend == "asyncio":
            raise asyncio.CancelledError
        import trio

        raise trio.Cancelled._create(source="unknown")

    outcome = await run_attempt(make(tool), {}, watched.context())
    assert (outcome.outcome, told(outcome)) == ("cancelled", CANCELLED)


# ------------------------------------------------------------------------------------ time limits, cancelling


async def test_a_tool_that_hangs_is_cancelled_and_may_clean_up_to_the_end(watched: Watched) -> None:
    said = []

    async def slow() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with CancelScope(shield=True):  # trio needs it; asyncio's cancellation is not level-triggered
                for n in range(3):
                    await anyio.sleep(0.001)
                    said.append(n)

    outcome = await run_attempt(make(slow, timeout=LIMIT), {}, watched.context(), default_timeout=99)
    assert said == [0, 1, 2]
    assert (outcome.outcome, outcome.retryable, outcome.abandoned) == ("timeout", True, False)
    assert told(outcome) == "slow did not finish within 0.15 s; whether it took effect is not known."


async def test_the_default_time_limit_holds_only_where_the_tool_has_none(watched: Watched) -> None:
    async def slow(ctx: ToolContext) -> str:
        await anyio.sleep(0.03)
        return "done"

    async def outcome(**options: Any) -> str:
        tool = make(slow, **options)
        return (await run_attempt(tool, {}, watched.context(), default_timeout=0.005)).outcome

    assert await outcome() == "timeout"
    assert await outcome(timeout=None) == "ok"
    assert await outcome(timeout=30) == "ok"


async def test_a_tool_that_swallows_its_cancellation_is_abandoned_and_watched(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "streamchat.tools")
    release = Event()
    tool = make(stubborn(release), timeout=LIMIT, concurrency=1)
    outcome = await run_attempt(tool, {}, watched.context(), grace=0.01)
    assert (outcome.outcome, outcome.abandoned, outcome.retryable) == ("timeout", True, False)
    assert [(call.tool, call.call_id, call.in_thread) for call in abandoned()] == [("tool", "call-1", False)]
    assert "tool tool ignored its cancellation" in caplog.text
    assert tool.slots is not None
    assert tool.slots.try_acquire() is None, "it still counts"

    assert not await settle(0.01)
    release.set()
    assert await settle(30)
    assert outcome.work is not None
    assert outcome.work.done
    slot = tool.slots.try_acquire()
    assert slot is not None
    assert watched.events == [], "what it says after its result goes nowhere"
    assert "after it was abandoned" in caplog.text


async def test_a_thread_sees_its_time_run_out_and_returns(watched: Watched) -> None:
    def tool(ctx: ToolContext) -> str:
        while not ctx.cancelled:
            pause.wait(0.001)
        ended.set()
        return "late"

    pause, ended = threading.Event(), threading.Event()
    outcome = await run_attempt(make(tool, timeout=LIMIT), {}, watched.context())
    assert ended.is_set()
    assert (outcome.outcome, outcome.abandoned, outcome.output) == ("timeout", False, None)


async def test_a_thread_that_ignores_its_end_keeps_its_slot_until_it_returns(watched: Watched) -> None:
    release = threading.Event()

    def tool(ctx: ToolContext) -> str:
        release.wait()
        ctx.progress("late")
        return "late"

    made = make(tool, timeout=LIMIT, concurrency=1)
    outcome = await run_attempt(made, {}, watched.context(), grace=0.01)
    assert (outcome.outcome, outcome.abandoned) == ("timeout", True)
    assert [call.in_thread for call in abandoned()] == [True]
    assert made.slots is not None
    assert made.slots.in_use == 1
    release.set()
    assert outcome.work is not None
    await outcome.work.wait()
    assert made.slots.in_use == 0
    assert watched.events == []


async def test_a_cancelled_attempt_waits_for_the_tool_and_passes_the_cancellation_on(
    watched: Watched,
) -> None:
    order = []
    begun = Event()

    async def tool() -> None:
        try:
            begun.set()
            await anyio.sleep_forever()
        finally:
            with CancelScope(shield=True):
                await anyio.sleep(0.005)
            order.append("tool")

    async def call() -> None:
        try:
            await run_attempt(make(tool), {}, watched.context())
        except anyio.get_cancelled_exc_class():
            order.append("caller")
            raise

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await begun.wait()
        group.cancel_scope.cancel()
    assert order == ["tool", "caller"]


async def test_what_a_cancelled_tool_came_to_nevertheless_is_handed_over(watched: Watched) -> None:
    go_on = threading.Event()

    def returns(ctx: ToolContext) -> str:
        ctx.progress("begun")
        go_on.wait()
        return "paid"

    async def refuses(ctx: ToolContext) -> None:
        ctx.progress("begun")
        try:
            await anyio.sleep_forever()
        finally:
            raise ToolError("The card was declined.")

    async def fails(ctx: ToolContext) -> None:
        ctx.progress("begun")
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("an effect of being cancelled")

    def half(ctx: ToolContext) -> Iterator[int]:
        ctx.progress("begun")
        while True:
            yield 1

    async def ends(ctx: ToolContext) -> None:
        ctx.progress("begun")
        await anyio.sleep_forever()

    handed: list[ToolOutcome] = []
    for function in (returns, refuses, fails, half, ends):
        watched.events.clear()

        async def call(function: Any = function) -> None:
            await run_attempt(make(function), {}, watched.context(), late=handed.append)

        async with anyio.create_task_group() as group:
            group.start_soon(call)
            while not watched.events:
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
            go_on.set()
    assert [told(outcome) for outcome in handed] == ["paid", "The card was declined.", *[CANCELLED] * 3]


async def test_an_attempt_cancelled_before_it_began_leaves_nothing(watched: Watched) -> None:
    ran = []

    async def tool() -> None:
        ran.append(1)
        await anyio.sleep_forever()

    made = make(tool, concurrency=1)
    with CancelScope() as scope:
        scope.cancel()
        await run_attempt(made, {}, watched.context(), grace=0)
    assert scope.cancelled_caught
    assert made.slots is not None
    while abandoned():  # it was told to end and had no time to: it may use its next turn for that
        await settle(1)
    assert made.slots.in_use == 0


async def test_failures_beside_a_cancellation_do_not_hurt_the_loop(watched: Watched) -> None:
    async def child() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("cleanup failed")

    async def tool() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(child)
            await anyio.sleep_forever()

    outcome = await run_attempt(make(tool, timeout=LIMIT), {}, watched.context())
    assert (outcome.outcome, outcome.abandoned) == ("timeout", False)


async def test_a_function_that_finds_no_free_thread_in_time_never_starts(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamchat.tools.execution.MOST_THREADS", 1)
    release, entered, ran = threading.Event(), threading.Event(), []

    def first() -> None:
        entered.set()
        release.wait()

    def second() -> None:
        ran.append(2)

    async def occupy() -> None:
        await run_attempt(make(first), {}, watched.context())

    async with anyio.create_task_group() as group:
        group.start_soon(occupy)
        await anyio.to_thread.run_sync(entered.wait)
        outcome = await run_attempt(make(second, timeout=LIMIT), {}, watched.context())
        assert (outcome.outcome, outcome.abandoned) == ("timeout", False)
        release.set()
    assert ran == []
    assert (await run_attempt(make(second), {}, watched.context())).outcome == "ok"


async def test_a_thread_speaks_in_order_in_the_loops_thread_and_before_its_result(watched: Watched) -> None:
    threads = set()

    def tool(ctx: ToolContext) -> None:
        for n in range(50):
            ctx.progress(str(n))
        ctx.emit("done", {"at": {1, 2}})

    context = watched.context()
    publish = context.publish

    def note(event: Any) -> None:
        threads.add(threading.get_ident())
        publish(event)

    context.publish = note
    await run_attempt(make(tool), {}, context)
    assert [message for message, _, _ in watched.progress] == [str(n) for n in range(50)]
    assert watched.events[-1].type == "custom"
    assert threads == {threading.get_ident()}


async def test_the_tool_is_told_when_the_run_is_stopped(watched: Watched) -> None:
    def tool(ctx: ToolContext) -> bool:
        return ctx.cancelled

    context = watched.context(is_cancelled=lambda: True)
    assert (await run_attempt(make(tool), {}, context)).output is True


async def test_progress_that_is_not_json_is_the_tools_failure_and_not_the_logs(watched: Watched) -> None:
    def tool(ctx: ToolContext) -> None:
        ctx.progress(data={"handle": sys.stdout})

    outcome = await run_attempt(make(tool), {}, watched.context())
    assert outcome.error == "tool failed (OutputUnusable)."
    assert watched.events == []


# ------------------------------------------------------------------------------------- results of other kinds


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (object(), "a value of type object cannot be written as JSON"),
        (b"\xff\xfe", "bytes that are not UTF-8"),
        ([lambda: 1], "a value of type function cannot be written as JSON"),
        ({"n": 10**5000}, "a number that is too long"),
    ],
    ids=["object", "bytes", "function", "number"],
)
async def test_a_result_that_is_not_json_is_told_as_done_but_lost(
    watched: Watched, value: Any, said: str
) -> None:
    def tool() -> Any:
        return value

    outcome = await run_attempt(make(tool), {}, watched.context())
    assert (outcome.outcome, outcome.retryable, outcome.output) == ("error", False, None)
    assert "tool was carried out, but its result cannot be passed on" in told(outcome)
    assert said in told(outcome)


async def test_the_tools_own_output_limit_goes_before_the_runs(watched: Watched) -> None:
    def tool() -> str:
        return "x" * 1000

    async def size(**options: Any) -> int:
        outcome = await run_attempt(make(tool, **options), {}, watched.context(), max_output_bytes=100)
        return len(outcome.output)

    assert await size() == 100
    assert await size(max_output_bytes=200) == 200
    assert await size(max_output_bytes=2000) == 1000


async def test_a_deferred_tool_may_say_that_its_result_comes_later(watched: Watched) -> None:
    def render(ctx: ToolContext) -> Deferred:
        return Deferred(f"Job {ctx.job_id}.", expires_in=60)

    outcome = await run_attempt(make(render, deferred=True), {}, watched.context())
    assert (outcome.outcome, told(outcome)) == ("deferred", "Job run-1:call-1.")
    assert outcome.deferred == Deferred("Job run-1:call-1.", 60)
    undeclared = await run_attempt(make(render), {}, watched.context())
    assert undeclared.outcome == "error"


# -------------------------------------------------------------------------------------------------- reconcile


async def test_reconcile_says_what_came_of_a_call_that_was_cut_off(watched: Watched) -> None:
    async def pay(amount: int) -> str:
        raise AssertionError("must not run again")

    async def found(ctx: ToolContext) -> dict[str, str]:
        return {"receipt": ctx.idempotency_key}

    def by_arguments(ctx: ToolContext, arguments: dict[str, Any]) -> int:
        return int(arguments["amount"])

    def refused(ctx: ToolContext) -> None:
        raise ToolError("The card was declined.")

    def not_found(ctx: ToolContext) -> None:
        raise OutcomeUnknown("the bank does not answer")

    def broken(ctx: ToolContext) -> None:
        raise RuntimeError(SECRET)

    async def hangs(ctx: ToolContext) -> None:
        await anyio.sleep_forever()

    async def ask(hook: Any, **options: Any) -> tuple[str, Any, str]:
        context = watched.context(idempotency_key="key-1")
        outcome = await run_reconcile(make(pay, reconcile=hook, **options), {"amount": 5}, context)
        return outcome.outcome, outcome.output, told(outcome)

    assert await ask(found) == ("ok", {"receipt": "key-1"}, '{"receipt": "key-1"}')
    assert await ask(by_arguments) == ("ok", 5, "5")
    assert await ask(refused) == ("error", None, "The card was declined.")
    for hook in (not_found, broken, None):
        outcome, output, text = await ask(hook)
        assert (outcome, output) == ("unknown", None)
        assert SECRET not in text
    assert (await ask(hangs, timeout=LIMIT))[0] == "unknown"
