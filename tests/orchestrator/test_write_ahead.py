"""Write-ahead by back-pressure: a tool runs only when the event after its start is asked for."""

from __future__ import annotations

from contextlib import aclosing

import anyio
import pytest

from streamchat.core.conclude import conclude
from streamchat.core.lifecycle import BARRIERS, HELD, check_log
from streamchat.orchestration.context import RunContext
from streamchat.orchestration.options import RunOptions
from streamchat.orchestrator import orchestrate
from streamchat.testing import Call, ScriptedModel, Step
from streamchat.testing.scripted import ScriptedStep
from streamchat.tools import ToolError, ToolRegistry
from tests.orchestrator.support import FAST, assert_whole, play, until_blocked

pytestmark = pytest.mark.anyio


class Recorder:
    """Tools that note when they ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.tools = ToolRegistry()

        @self.tools.tool
        async def note(name: str) -> str:
            self.ran.append(name)
            return name

        @self.tools.tool
        def threaded(name: str) -> str:
            self.ran.append(name)
            return name

        @self.tools.tool(idempotent=True, retries=2, retry_wait=0.0)
        async def flaky(name: str) -> str:
            self.ran.append(name)
            if len(self.ran) < 3:
                raise ToolError("not yet", retry=True)
            return name


def call(tool: str, name: str) -> Call:
    return Call(tool, {"name": name})


@pytest.mark.parametrize("tool", ["note", "threaded"])
async def test_a_tool_does_not_run_before_the_event_after_its_start_is_asked_for(tool):
    recorder = Recorder()
    model = ScriptedModel([Step(calls=[call(tool, "a")]), "Done."])
    async with aclosing(orchestrate(model, "hi", tools=recorder.tools, options=FAST)) as events:
        async for event in events:
            if event.type == "tool_started":
                break
        await until_blocked()
        assert recorder.ran == []
        assert (await anext(events)).type == "tool_result"
        assert recorder.ran == ["a"]


async def test_starts_that_are_ready_together_go_together_and_run_after_the_last():
    recorder = Recorder()
    context = RunContext()
    names = "abcdefgh"
    model = ScriptedModel([Step(calls=[call("note", name) for name in names]), "Done."])
    seen = []
    events = orchestrate(model, "hi", tools=recorder.tools, context=context, options=FAST)
    async with aclosing(events):
        async for event in events:
            if event.type == "tool_started":
                seen.append((event.call_id, context.more))
                await until_blocked()
                assert recorder.ran == []
    assert [more for _, more in seen] == [True] * 7 + [False]
    assert [call_id for call_id, _ in seen] == [f"call_1_{n}" for n in range(8)], "in the model's order"
    assert sorted(recorder.ran) == list(names)


async def test_a_call_that_waits_for_its_permit_is_not_started():
    recorder = Recorder()
    model = ScriptedModel([Step(calls=[call("note", "a"), call("note", "b")]), "Done."])
    options = RunOptions(max_concurrent_tools=1, grace=0.2)
    log = await play(model, tools=recorder.tools, options=options)
    kinds = log.types("tool_started", "tool_result")
    assert kinds == ["tool_started", "tool_result", "tool_started", "tool_result"]
    assert recorder.ran == ["a", "b"]


async def test_every_attempt_is_claimed_under_the_same_idempotency_key_before_it_runs():
    recorder = Recorder()
    model = ScriptedModel([Step(calls=[call("flaky", "a")]), "Done."])
    attempts = []
    async with aclosing(orchestrate(model, "hi", tools=recorder.tools, options=FAST)) as events:
        async for event in events:
            if event.type == "tool_started":
                await until_blocked()
                attempts.append((event.attempt, event.idempotency_key, len(recorder.ran)))
    assert [(attempt, before) for attempt, _, before in attempts] == [(1, 0), (2, 1), (3, 2)]
    assert len({key for _, key, _ in attempts}) == 1


async def test_the_next_request_waits_until_the_results_were_taken():
    recorder = Recorder()
    model = ScriptedModel([Step(calls=[call("note", "a")]), "Done."])
    async with aclosing(orchestrate(model, "hi", tools=recorder.tools, options=FAST)) as events:
        async for event in events:
            if event.type == "tool_result":
                await until_blocked()
                assert len(model.requests) == 1
                break


async def test_more_holds_together_what_is_stored_in_one_batch():
    recorder = Recorder()
    calls = [call("note", "a"), call("nope", "b"), call("note", "c")]
    log = await play(ScriptedModel([Step("x", calls=calls), "Done."], batch=3), tools=recorder.tools)
    batches = [log.events[a:b] for a, b in zip([0, *log.borders], log.borders, strict=False)]
    assert sum(len(batch) for batch in batches) == len(log.events)
    for batch in batches:
        kinds = [event.type for event in batch]
        for position, kind in enumerate(kinds):
            if kind in HELD:
                assert HELD[kind] in kinds[position:], f"{kind} is stored with its {HELD[kind]}"
    assert_whole(log.events)


async def test_a_log_that_ends_at_any_border_can_be_concluded():
    recorder = Recorder()
    calls = [call("note", "a"), call("threaded", "b"), call("nope", "c")]
    steps: list[ScriptedStep] = [
        Step("Hello you", reasoning="hm", calls=calls),
        Step("x", error="connection", error_after=1),
        "Done.",
    ]
    log = await play(ScriptedModel(steps), tools=recorder.tools)
    assert log.status == "success"
    for border in log.borders:
        assert check_log([*log.events[:border], *conclude(log.events[:border], "worker_lost")]) == "over"


async def test_nothing_is_done_between_the_events_of_one_batch():
    """Whoever makes a batch durable may ask for all of it first: nothing of it takes effect meanwhile."""
    recorder = Recorder()
    context = RunContext()
    model = ScriptedModel([Step("Look:", calls=[call("note", "a"), call("note", "b")]), "Done."], batch=4)
    events = orchestrate(model, "hi", tools=recorder.tools, context=context, options=FAST)
    async with aclosing(events):
        async for _ in events:
            while context.more:
                before = (len(model.requests), list(recorder.ran))
                with anyio.CancelScope() as scope:
                    # Had the generator to wait for anything, it would end here.
                    scope.cancel()
                    await anext(events)
                assert (len(model.requests), recorder.ran) == before


async def test_a_barrier_ends_what_may_be_asked_for_before_it_is_durable():
    """Between a start and the run of its tool stands an event border, for every start of a run."""
    recorder = Recorder()
    steps: list[ScriptedStep] = [
        Step(calls=[call("flaky", "a"), call("note", "b")]),
        Step(calls=[call("threaded", "c")]),
        "Done.",
    ]
    ran_at: dict[int, int] = {}

    def note(log):
        ran_at[len(log.events)] = len(recorder.ran)

    log = await play(ScriptedModel(steps), tools=recorder.tools, after_each=note)
    started = 0
    for position, event in enumerate(log.events, 1):
        started += event.type == "tool_started"
        assert ran_at[position] <= started, f"something ran that had not been claimed at event {position}"
    assert "tool_started" in BARRIERS
