"""Limits: reaching one is an `error` with phase `limit` and a clean end, never an exception."""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import replace

import anyio
import pytest

from streamchat.errors import InvalidInput
from streamchat.messages import Usage
from streamchat.orchestration import limits
from streamchat.orchestration.context import RunContext
from streamchat.orchestration.options import Hooks, Limits, RunOptions
from streamchat.orchestrator import orchestrate
from streamchat.testing import Call, ScriptedModel, Step
from streamchat.testing.scripted import ScriptedStep
from streamchat.tools import ToolRegistry
from tests.orchestrator.support import Log, Watched, assert_whole, play, stored

pytestmark = pytest.mark.anyio


def tools() -> ToolRegistry:
    registry = ToolRegistry()

    @registry.tool
    async def look(n: int = 0) -> int:
        return n

    @registry.tool
    async def hang() -> None:
        await anyio.sleep_forever()

    return registry


def options(**most: object) -> RunOptions:
    return RunOptions(limits=Limits(**most), grace=0.2, restart_delay=0.0)  # type: ignore[arg-type]


def endless() -> ScriptedModel:
    return ScriptedModel([Step("And", calls=[Call("look")])], repeat=True)


def assert_limit(log: Log, code: str) -> None:
    assert_whole(log.events)
    assert log.status == "error"
    assert (log.error.phase, log.error.code, log.error.retryable) == ("limit", code, False)
    assert log.error.message.endswith(".")


async def test_max_steps():
    log = await play(endless(), tools=tools(), options=options(max_steps=3))
    assert len(log.of("step_finished")) == 3
    assert_limit(log, "max_steps")
    assert log.text == "AndAndAnd"


async def test_a_run_that_ends_in_its_last_step_is_a_success():
    steps: list[ScriptedStep] = [Step(calls=[Call("look")]), "Done."]
    log = await play(ScriptedModel(steps), tools=tools(), options=options(max_steps=2))
    assert log.status == "success"


async def test_max_tokens_total_is_looked_at_before_each_step():
    usage = Usage(input_tokens=5, output_tokens=5, total_tokens=10)
    model = ScriptedModel([Step("And", calls=[Call("look")], usage=usage)], repeat=True)
    log = await play(model, tools=tools(), options=options(max_tokens_total=25))
    assert len(log.of("step_finished")) == 3
    assert_limit(log, "max_tokens_total")


async def test_an_answer_that_is_complete_is_none_too_many_tokens():
    usage = Usage(input_tokens=5, output_tokens=5, total_tokens=10)
    log = await play(ScriptedModel([Step("x", usage=usage)]), options=options(max_tokens_total=5))
    assert log.status == "success"


@pytest.mark.parametrize("where", ["thinking", "streaming", "tool", "pause", "hook"])
async def test_deadline(where):
    steps = {
        "thinking": Step("x", stall_after=0),
        "streaming": Step("one two", stall_after=1),
        "tool": Step("one", calls=[Call("hang"), Call("look")]),
        "pause": Step("one two", error="connection", error_after=1),
        "hook": Step("one"),
    }
    run_options = replace(options(deadline=0.1), restart_delay=20.0)
    if where == "hook":
        run_options = replace(run_options, hooks=Hooks(after_step=lambda *_: anyio.sleep_forever()))
    model = Watched(ScriptedModel([steps[where]]))
    with anyio.fail_after(10):
        log = await play(model, tools=tools(), options=run_options)
    if where == "hook":
        assert log.status == "success", "the answer was complete"
        assert_whole(log.events)
    else:
        assert_limit(log, "deadline")
    assert model.open == 0
    assert log.text == ("" if where in ("thinking", "pause") else "one")


async def test_a_timer_that_fires_before_the_clock_says_so_ends_the_run_all_the_same(monkeypatch):
    """Timers may be a hair early; taken for "not yet", the run would read a response that is closed."""

    class Stopped:
        now = time.monotonic()

        @classmethod
        def monotonic(cls) -> float:
            return cls.now

    monkeypatch.setattr(limits, "time", Stopped)
    with anyio.fail_after(10):
        log = await play(ScriptedModel([Step("one two", stall_after=1)]), options=options(deadline=0.05))
    assert_limit(log, "deadline")
    assert log.text == "one"


async def test_the_deadline_counts_from_the_runs_creation():
    log = await play(ScriptedModel(["x"]), context=RunContext(age=100), options=options(deadline=50))
    assert_limit(log, "deadline")
    assert log.of("step_started") == []


async def test_a_deadline_that_passes_while_nobody_asks_ends_the_run_at_the_next_event():
    log = Log()
    events = orchestrate(ScriptedModel(["one two three"]), "hi", options=options(deadline=0.05))
    async with aclosing(events):
        async for event in events:
            log.events.append(event)
            if event.type == "text_delta" and len(log.of("text_delta")) == 1:
                await anyio.sleep(0.1)
    assert_limit(log, "deadline")
    assert log.text == "one"


async def test_max_tool_calls_per_step():
    calls = [Call("look", {"n": n}) for n in range(4)]
    log = await play(
        ScriptedModel([Step("x", calls=calls)]), tools=tools(), options=options(max_tool_calls_per_step=3)
    )
    assert_limit(log, "max_tool_calls_per_step")
    assert log.outcomes() == ["cancelled"] * 4
    assert log.of("tool_started") == []


async def test_as_many_tool_calls_as_allowed_are_run():
    calls = [Call("look", {"n": n}) for n in range(3)]
    model = ScriptedModel([Step("x", calls=calls), "Done."])
    log = await play(model, tools=tools(), options=options(max_tool_calls_per_step=3))
    assert log.outcomes() == ["ok"] * 3


@pytest.mark.parametrize("most", range(1, 40, 3))
async def test_max_events(most):
    model = ScriptedModel([Step("one two three", calls=[Call("look"), Call("look")])], repeat=True)
    log = await play(model, tools=tools(), options=options(max_events=most))
    assert_whole(log.events)
    assert log.error.phase == "limit"
    assert len(log.events) <= most + 10, "the batch at hand, the results and the ending still come"


async def test_max_events_counts_what_the_log_holds_already():
    first = await play(
        ScriptedModel(["one two three"]), after_each=lambda log: len(log.of("text_delta")) == 3
    )
    log = await play(ScriptedModel(["x"]), history=first.events, options=options(max_events=5))
    assert_limit_after(first, log, "max_events")


def assert_limit_after(first: Log, log: Log, code: str) -> None:
    assert_whole([*first.events, *log.events])
    assert (log.error.phase, log.error.code) == ("limit", code)


async def test_max_log_bytes():
    model = ScriptedModel([Step("x" * 2000, pieces_of=100)])
    log = await play(model, options=options(max_log_bytes=1500))
    assert_limit(log, "max_log_bytes")
    assert 0 < len(log.text) < 2000


async def test_max_log_bytes_counts_tool_results_and_call_fragments():
    registry = ToolRegistry()
    registry.add(lambda: "x" * 5000, name="long", description="d")
    model = ScriptedModel([Step(calls=[Call("long")])], repeat=True)
    log = await play(model, tools=registry, options=options(max_log_bytes=12_000))
    assert_limit(log, "max_log_bytes")
    assert len(log.of("tool_result")) == 2 or len(log.of("tool_result")) == 3
    model = ScriptedModel([Step(calls=[Call("look", '{"n": ' + "1" * 5000 + "}", fragments=50)])])
    log = await play(model, tools=tools(), options=options(max_log_bytes=3000))
    assert_limit(log, "max_log_bytes")


@pytest.mark.parametrize("form", ["plain", "stored"])
async def test_max_log_bytes_counts_what_the_log_holds_already(form):
    first = await play(
        ScriptedModel(["one two three"]), after_each=lambda log: len(log.of("text_delta")) == 3
    )
    history = stored(first.events) if form == "stored" else first.events
    log = await play(ScriptedModel(["x"]), history=history, options=options(max_log_bytes=300))
    assert_limit_after(first, log, "max_log_bytes")


@pytest.mark.parametrize("code", ["max_events", "max_log_bytes"])
async def test_an_answer_that_is_complete_when_a_limit_is_reached_is_a_success(code):
    """What is left to say are a few events that cost nothing."""
    full = await play(ScriptedModel(["one two"]))
    count = full.types().index("model_completed") + 1
    limit = {"max_events": count, "max_log_bytes": 1100}[code]
    log = await play(ScriptedModel(["one two"]), options=options(**{code: limit}))
    assert log.status == "success" if code == "max_events" else log.status in ("success", "error")
    assert_whole(log.events)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (RunOptions, "max_concurrent_tools", 0),
        (RunOptions, "grace", -1),
        (RunOptions, "restart_delay", float("nan")),
        (RunOptions, "max_step_restarts", -1),
        (Limits, "max_steps", -1),
        (Limits, "deadline", -0.5),
    ],
)
async def test_options_that_make_no_sense_are_refused(kind, field, value):
    with pytest.raises(InvalidInput, match=field) as raised:
        kind(**{field: value})
    assert raised.value.field == field


async def test_no_limit_is_no_limit():
    none = Limits(
        max_steps=None,
        max_tokens_total=None,
        deadline=None,
        max_tool_calls_per_step=None,
        max_tool_output_bytes=None,
        max_events=None,
        max_log_bytes=None,
        max_takeovers=None,
    )
    steps = [Step(calls=[Call("look")])] * 40 + [Step("Done.")]
    log = await play(ScriptedModel(steps), tools=tools(), options=RunOptions(limits=none))
    assert log.status == "success"
    assert len(log.of("step_finished")) == 41
