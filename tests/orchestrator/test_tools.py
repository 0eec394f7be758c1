"""Tools at work: side by side, in time, with progress, retries and failures; one result for each call."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time

import anyio
import pytest

from streamchat.orchestration.context import RunContext
from streamchat.orchestration.options import Hooks, Limits, RunOptions
from streamchat.principal import Principal
from streamchat.testing import Call, ScriptedModel, Step
from streamchat.tools import Progress, ToolContext, ToolError, ToolRegistry, abandoned
from tests.orchestrator.support import Stubborn, assert_whole, asyncio_only, play

pytestmark = pytest.mark.anyio

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


def two_steps(*calls: Call) -> ScriptedModel:
    return ScriptedModel([Step(calls=list(calls)), "Done."])


async def test_results_are_handed_out_as_they_come():
    tools, gate = ToolRegistry(), anyio.Event()

    @tools.tool
    async def slow() -> str:
        await gate.wait()
        return "slow"

    @tools.tool
    async def quick() -> str:
        return "quick"

    def release(log):
        if log.of("tool_result"):
            gate.set()  # so slow ends only after quick's result was handed out

    with anyio.fail_after(5):
        log = await play(two_steps(Call("slow"), Call("quick")), tools=tools, after_each=release)
    assert [event.output for event in log.of("tool_result")] == ["quick", "slow"]
    assert_whole(log.events)


async def test_calls_of_one_step_run_at_once_up_to_the_limit():
    tools, running, most = ToolRegistry(), 0, 0

    @tools.tool
    async def work(n: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        running -= 1
        return n

    calls = [Call("work", {"n": n}) for n in range(7)]
    log = await play(two_steps(*calls), tools=tools, options=RunOptions(max_concurrent_tools=3))
    assert most == 3
    assert sorted(event.output for event in log.of("tool_result")) == list(range(7))
    # The model is told in the order of its calls, whatever order they ended in.
    assert [part.arguments["n"] for part in log.of("message_completed")[0].content[:7]] == list(range(7))


async def test_a_sequential_tool_runs_alone_and_in_its_turn():
    tools, order = ToolRegistry(), []

    async def body(name: str) -> None:
        order.append(f"+{name}")
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        order.append(f"-{name}")

    @tools.tool
    async def free(name: str) -> None:
        await body(name)

    @tools.tool(sequential=True)
    async def alone(name: str) -> None:
        await body(name)

    calls = [
        Call(tool, {"name": name})
        for tool, name in [("free", "a"), ("alone", "b"), ("alone", "c"), ("free", "d")]
    ]
    log = await play(two_steps(*calls), tools=tools)
    assert order == ["+a", "-a", "+b", "-b", "+c", "-c", "+d", "-d"]
    assert_whole(log.events)


async def test_a_tools_own_concurrency_holds_over_runs():
    tools, running, most = ToolRegistry(), 0, 0

    @tools.tool(concurrency=1)
    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        running -= 1

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(lambda: play(two_steps(Call("work"), Call("work")), tools=tools))
    assert most == 1


async def test_a_tool_that_raises_is_told_to_the_model_and_the_run_goes_on():
    tools = ToolRegistry()

    @tools.tool
    async def broken() -> None:
        raise RuntimeError("the password is hunter2")

    @tools.tool
    async def refuses() -> None:
        raise ToolError("There is no such page.")

    with two_steps(Call("broken"), Call("refuses")) as model:
        log = await play(model, tools=tools)
    assert log.outcomes() == ["error", "error"]
    assert "hunter2" not in repr(log.events)
    assert [m.content for m in model.requests[1].messages[-2:]] == [
        "Error: broken failed (RuntimeError).",
        "Error: There is no such page.",
    ]
    assert log.status == "success"
    assert_whole(log.events)


async def test_a_tool_that_hangs_ends_by_its_timeout():
    tools, cleaned = ToolRegistry(), []

    @tools.tool(timeout=0.05)
    async def hang() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cleaned.append(True)

    log = await play(two_steps(Call("hang")), tools=tools)
    assert (log.outcomes(), cleaned, log.status) == (["timeout"], [True], "success")
    assert_whole(log.events)


async def test_the_runs_timeout_holds_for_tools_that_set_none():
    tools = ToolRegistry()
    tools.add(anyio.sleep_forever, name="hang", description="hangs")
    log = await play(two_steps(Call("hang")), tools=tools, options=RunOptions(tool_timeout=0.05, grace=0.2))
    assert log.outcomes() == ["timeout"]


@pytest.mark.leaves_tasks
async def test_a_tool_that_swallows_its_cancellation_is_abandoned_and_the_run_goes_on():
    tools, stubborn = ToolRegistry(), Stubborn()
    tools.add(stubborn, name="stubborn", description="d", timeout=0.05)
    with anyio.fail_after(10):
        log = await play(two_steps(Call("stubborn")), tools=tools, options=RunOptions(grace=0.05))
        assert (log.outcomes(), log.status) == (["timeout"], "success")
        assert [call.tool for call in abandoned()] == ["stubborn"]
        assert_whole(log.events)
        stubborn.gate.set()
        await stubborn.left.wait()


async def test_a_thread_that_hangs_is_told_to_stop():
    tools, told = ToolRegistry(), threading.Event()

    @tools.tool(timeout=0.05)
    def hang(ctx: ToolContext) -> None:
        while not ctx.cancelled:
            time.sleep(0.005)
        told.set()

    log = await play(two_steps(Call("hang")), tools=tools, options=RunOptions(grace=5))
    assert (log.outcomes(), told.is_set()) == (["timeout"], True)


async def test_sync_tools_run_in_threads():
    tools = ToolRegistry()
    here = threading.get_ident()

    @tools.tool
    def where() -> bool:
        return threading.get_ident() != here

    log = await play(two_steps(Call("where")), tools=tools)
    assert log.results()["call_1_0"].output is True


async def test_only_an_idempotent_tool_is_tried_again_and_only_so_often():
    tools, tries, once_ran = ToolRegistry(), [], []

    @tools.tool(idempotent=True, retries=2, retry_wait=0.0)
    async def again(ctx: ToolContext) -> None:
        tries.append((ctx.attempt, ctx.idempotency_key))
        raise ToolError("no", retry=True)

    @tools.tool
    async def once() -> None:
        once_ran.append(True)
        raise ToolError("no", retry=True)

    log = await play(two_steps(Call("again"), Call("once")), tools=tools)
    assert once_ran == [True]
    assert [attempt for attempt, _ in tries] == [1, 2, 3]
    assert len({key for _, key in tries}) == 1
    started = [event.attempt for event in log.of("tool_started") if event.call_id == "call_1_0"]
    assert started == [1, 2, 3]
    assert log.outcomes().count("error") == 2
    assert_whole(log.events)


async def test_an_error_that_is_final_is_not_tried_again():
    tools = ToolRegistry()

    @tools.tool(idempotent=True, retries=2, retry_wait=0.0)
    async def refuses() -> None:
        raise ToolError("never")

    log = await play(two_steps(Call("refuses")), tools=tools)
    assert len(log.of("tool_started")) == 1


async def test_progress_is_seen_while_the_tool_works():
    tools, gate = ToolRegistry(), anyio.Event()

    @tools.tool
    async def render():
        yield Progress("half", 0.5)
        await gate.wait()
        yield {"url": "x"}

    def release(log):
        if log.of("tool_progress"):
            gate.set()

    with anyio.fail_after(5):
        log = await play(two_steps(Call("render")), tools=tools, after_each=release)
    assert log.types("tool_started", "tool_progress", "tool_result") == [
        "tool_started",
        "tool_progress",
        "tool_result",
    ]
    assert log.of("tool_progress")[0].fraction == 0.5
    assert_whole(log.events)


async def test_a_thread_speaks_in_order_and_before_its_result():
    tools = ToolRegistry()

    @tools.tool
    def work(ctx: ToolContext) -> str:
        for n in range(20):
            ctx.progress(str(n))
        ctx.emit("done", {"n": 20})
        return "x"

    log = await play(two_steps(Call("work")), tools=tools)
    assert [event.message for event in log.of("tool_progress")] == [str(n) for n in range(20)]
    assert log.types("custom", "tool_result") == ["custom", "tool_result"]
    assert_whole(log.events)


async def test_a_result_is_behind_what_others_say_in_the_same_batch():
    """So that whoever makes batches durable sees by the last event that there is something to wait for."""
    tools = ToolRegistry()

    @tools.tool
    async def quick() -> None:
        pass

    @tools.tool
    def talk(ctx: ToolContext) -> None:
        for n in range(50):
            ctx.progress(str(n))
            ctx.emit("more", n)

    @tools.tool
    async def talk_here(ctx: ToolContext) -> None:
        for n in range(50):
            ctx.progress(str(n))
            await anyio.lowlevel.checkpoint()

    calls = [Call(name) for name in ("quick", "talk", "talk_here", "quick", "talk", "quick")]
    log = await play(two_steps(*calls), tools=tools, options=RunOptions(max_concurrent_tools=3))
    assert_whole(log.events)  # and each batch was looked at in `play`


async def test_a_flood_of_progress_is_thinned_and_never_queued_without_bound():
    tools = ToolRegistry()

    @tools.tool
    async def flood(ctx: ToolContext) -> None:
        for n in range(10_000):
            ctx.progress(fraction=n / 10_000)

    log = await play(two_steps(Call("flood")), tools=tools)
    assert 0 < len(log.of("tool_progress")) <= 300
    assert_whole(log.events)


async def test_what_is_said_of_a_call_before_its_start_or_after_its_result_is_dropped():
    """The log has no place for it."""
    contexts = []

    def early(context, call):
        context.progress("early")
        contexts.append(context)

    def after(context, call, outcome):
        contexts[0].progress("during")

    tools = ToolRegistry()
    tools.add(lambda: "x", name="quick", description="d")
    log = await play(
        two_steps(Call("quick")),
        tools=tools,
        options=RunOptions(hooks=Hooks(before_tool=early, after_tool=after)),
    )
    contexts[0].progress("late")
    contexts[0].emit("late")
    assert [event.message for event in log.of("tool_progress")] == ["during"]
    assert_whole(log.events)


async def test_a_tool_is_given_its_context():
    tools, seen = ToolRegistry(), []

    @tools.tool
    async def look(ctx: ToolContext) -> None:
        seen.append(ctx)

    context = RunContext(run_id="r", conversation_id="c", principal=Principal("u"), deps={"db": 1}, fence=7)
    await play(two_steps(Call("look", id="x")), tools=tools, context=context)
    (ctx,) = seen
    assert (ctx.run_id, ctx.conversation_id, ctx.call_id, ctx.job_id) == ("r", "c", "x", "r:x")
    assert (ctx.principal, ctx.deps, ctx.fence, ctx.attempt, ctx.step) == (Principal("u"), {"db": 1}, 7, 1, 1)
    assert ctx.idempotency_key == "r:x"
    assert not ctx.cancelled


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_tools_get_a_copy_of_the_context_variables(kind):
    tools, seen = ToolRegistry(), []

    def look() -> None:
        seen.append(variable.get())
        variable.set("by the tool")

    async def look_async() -> None:
        look()

    tools.add(look if kind == "thread" else look_async, name="look", description="d")
    variable.set("by the caller")
    await play(two_steps(Call("look"), Call("look")), tools=tools)
    assert seen == ["by the caller", "by the caller"]
    assert variable.get() == "by the caller"


async def test_output_that_is_too_large_is_cut():
    tools = ToolRegistry()
    tools.add(lambda: "x" * 5000, name="long", description="d")
    options = RunOptions(limits=Limits(max_tool_output_bytes=100))
    log = await play(two_steps(Call("long")), tools=tools, options=options)
    assert len(log.results()["call_1_0"].output) <= 100


@asyncio_only
async def test_a_tool_that_cancels_itself_has_a_result():
    """On asyncio a `CancelledError` may come from anything that was cancelled elsewhere."""
    tools = ToolRegistry()

    @tools.tool
    async def odd() -> None:
        raise asyncio.CancelledError

    with anyio.fail_after(5):
        log = await play(two_steps(Call("odd")), tools=tools)
    assert (log.outcomes(), log.status) == (["cancelled"], "success")
    assert_whole(log.events)


async def test_an_exception_group_of_a_tool_is_a_failure_of_the_tool():
    tools = ToolRegistry()

    @tools.tool
    async def grouped() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 0)
            raise ValueError("x")

    log = await play(two_steps(Call("grouped")), tools=tools)
    assert (log.outcomes(), log.status) == (["error"], "success")


async def test_a_hundred_calls_at_once_each_have_their_result():
    tools = ToolRegistry()

    @tools.tool
    async def echo(n: int) -> int:
        await anyio.lowlevel.checkpoint()
        return n

    options = RunOptions(limits=Limits(max_tool_calls_per_step=None))
    log = await play(two_steps(*[Call("echo", {"n": n}) for n in range(100)]), tools=tools, options=options)
    outputs = {event.call_id: event.output for event in log.of("tool_result")}
    assert outputs == {f"call_1_{n}": n for n in range(100)}
    assert_whole(log.events)
