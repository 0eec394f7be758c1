"""Laws over random scripts of steps, tools, failures, stops and crashes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamchat.core.fold import fold
from streamchat.core.lifecycle import BARRIERS
from streamchat.events import StreamEvent
from streamchat.models.base import ModelRequest
from streamchat.orchestration.context import RunContext
from streamchat.orchestration.options import Limits, RunOptions
from streamchat.testing import Call, ScriptedModel, Step
from streamchat.tools import ToolContext, ToolError, ToolRegistry
from tests.orchestrator.support import Log, assert_concluded, assert_whole, play, standing_calls, stored

# Each example is a whole run or several.
some = settings(max_examples=settings.default.max_examples // 2)

TOOLS = ["once", "again", "thread", "boom", "chatty", "unknown", "wrong"]
IDS = [None, "functions.x:0", "CALL", "call", "call_1_0", "a b"]


@dataclass(frozen=True)
class Turn:
    """One step of a script, and after how many pieces each attempt before the good one dies."""

    text: str
    reasoning: str
    calls: tuple[tuple[str, str | None], ...]
    deaths: tuple[int, ...]
    finish: str | None

    def step(self, attempt: int) -> Step:
        calls = [
            Call(tool, "{}" if tool != "wrong" else '{"x": 1}', id=call_id) for tool, call_id in self.calls
        ]
        calls = [
            Call("once" if call.name == "wrong" else call.name, call.arguments, id=call.id) for call in calls
        ]
        step = Step(self.text, reasoning=self.reasoning, calls=calls, finish_reason=self.finish)
        if attempt < len(self.deaths):
            pieces = len(step.pieces())
            cut = min(1 + self.deaths[attempt], pieces)
            return Step(self.text, reasoning=self.reasoning, calls=calls, cut_after=cut if pieces else None)
        return step


@dataclass(frozen=True)
class Script:
    turns: tuple[Turn, ...]
    batch: int

    @property
    def text(self) -> str:
        return "".join(turn.text for turn in self.turns)

    def model(self) -> ScriptedModel:
        """Goes by the history, as models do; how often a step was asked is this model's own to count."""
        attempts: Counter[int] = Counter()

        def answer(request: ModelRequest) -> Step:
            done = request.step - 1
            turn = self.turns[done]
            # A resumed run begins with fresh restarts; the script dies no more often than those allow.
            attempts[done] += 1
            return turn.step(attempts[done] - 1)

        return ScriptedModel(answer, batch=self.batch)


words = st.lists(st.sampled_from(["a", "bc", "déf", "\N{WAVING HAND SIGN}", "x\n"]), max_size=3).map(" ".join)
turns = st.builds(
    Turn,
    text=words,
    reasoning=words,
    calls=st.lists(st.tuples(st.sampled_from(TOOLS), st.sampled_from(IDS)), max_size=4).map(tuple),
    deaths=st.lists(st.integers(0, 8), max_size=2).map(tuple),
    finish=st.sampled_from([None, None, "stop", "length"]),
)


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    middle = [turn for turn in draw(st.lists(turns, max_size=2)) if turn.calls]
    last = draw(turns)
    end = Turn(last.text or "end", last.reasoning, (), last.deaths, last.finish)
    return Script((*middle, end), draw(st.sampled_from([1, 2, 5])))


@dataclass
class Shop:
    """Tools that note which calls they really began."""

    began: Counter[str] = field(default_factory=Counter)
    keys: dict[str, set[str]] = field(default_factory=dict)
    idempotent: set[str] = field(default_factory=set)

    def tools(self) -> ToolRegistry:
        tools = ToolRegistry()

        def note(ctx: ToolContext) -> None:
            self.began[ctx.call_id] += 1
            self.keys.setdefault(ctx.call_id, set()).add(ctx.idempotency_key)

        @tools.tool
        async def once(ctx: ToolContext) -> str:
            note(ctx)
            await anyio.lowlevel.checkpoint()
            return "once"

        @tools.tool(idempotent=True, retries=1, retry_wait=0.0, timeout=None)
        async def again(ctx: ToolContext) -> str:
            note(ctx)
            self.idempotent.add(ctx.call_id)
            if ctx.attempt == 1:
                raise ToolError("not yet", retry=True)
            return "again"

        @tools.tool
        def thread(ctx: ToolContext) -> str:
            note(ctx)
            return "thread"

        @tools.tool
        async def boom(ctx: ToolContext) -> None:
            note(ctx)
            raise ValueError("boom")

        @tools.tool(sequential=True)
        async def chatty(ctx: ToolContext) -> Any:
            note(ctx)
            ctx.progress("x", 0.5)
            ctx.emit("custom", {"a": 1})
            yield {"n": 1}

        return tools

    def check(self, events: list[StreamEvent]) -> None:
        starts = Counter(event.call_id for event in events if event.type == "tool_started")  # type: ignore[union-attr]
        for call_id, count in self.began.items():
            assert count <= starts[call_id], "nothing runs that was not claimed"
            assert call_id in self.idempotent or count == 1, (
                "a tool that is not idempotent starts at most once"
            )
        assert all(len(keys) == 1 for keys in self.keys.values())
        keys = [key for keys in self.keys.values() for key in keys]
        assert len(set(keys)) == len(keys), "each call has a key of its own"


OPTIONS = RunOptions(
    restart_delay=0.0, grace=1.0, limits=Limits(max_takeovers=None), max_step_restarts=2, tool_timeout=None
)


def check_text(script: Script, events: list[StreamEvent]) -> None:
    """What was said is the script's text, or its beginning: nothing twice, nothing withdrawn."""
    state = fold(events)
    said = ""
    for number, turn in enumerate(script.turns, 1):
        text = "".join(p.text for p in state.parts if p.step == number and p.type == "text")
        assert turn.text.startswith(text)
        said += text
    assert said == state.text
    if state.status == "success":
        assert said == script.text


async def run_whole(script: Script, result: dict[str, Any]) -> None:
    shop = Shop()
    log = await play(script.model(), tools=shop.tools(), options=OPTIONS)
    assert_whole(log.events)
    assert log.status == "success"
    check_text(script, log.events)
    shop.check(log.events)
    assert len(standing_calls(log.events)) == sum(len(turn.calls) for turn in script.turns)
    for border in log.borders[:-1]:
        assert_concluded(log.events[:border])
    result["events"] = log.events


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@some
@given(script=scripts())
def test_a_run_is_legal_and_over_and_says_what_the_script_says(backend, script):
    anyio.run(run_whole, script, {}, backend=backend)


async def run_stopped(script: Script, point: int) -> None:
    shop, context = Shop(), RunContext()

    def stop(log: Log) -> None:
        if len(log.events) == point:
            context.stop("enough")

    log = await play(script.model(), tools=shop.tools(), context=context, options=OPTIONS, after_each=stop)
    assert_whole(log.events)
    check_text(script, log.events)
    shop.check(log.events)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@some
@given(script=scripts(), point=st.integers(1, 60))
def test_a_run_that_is_stopped_anywhere_is_legal_and_over(backend, script, point):
    anyio.run(run_stopped, script, point, backend=backend)


async def run_crashing(script: Script, crashes: list[tuple[int, int]]) -> None:
    """Each life takes so many batches, then its process dies; the store may lack the last of them.

    What a store lacks is never behind a barrier after which more was asked for.
    """
    shop, run_id = Shop(), "run"
    history: list[StreamEvent] = []
    lives: list[tuple[int, int] | None] = [*crashes, None]
    for crash in lives:

        def dies(log: Log, crash: tuple[int, int] | None = crash) -> bool:
            return crash is not None and len(log.borders) > crash[0]

        log = await play(
            script.model(),
            tools=shop.tools(),
            context=RunContext(run_id=run_id),
            history=stored(history),
            options=OPTIONS,
            after_each=dies,
        )
        kept = list(log.events)
        if crash is not None:
            kept = kept[: kept_after_crash(log, crash[1])]
        history += kept
        shop.check([*history, *log.events[len(kept) :]])
        if history:
            assert_concluded(history)
        if history and history[-1].type == "finalized":
            break
    assert_whole(history)
    check_text(script, history)
    assert fold(history).status == "success"


def kept_after_crash(log: Log, lost: int) -> int:
    """The length that is stored when the last ``lost`` batches are not, as far as barriers allow that."""
    borders = [0, *log.borders]
    end = len(borders) - 1
    while lost and end > 0:
        last_asked = end < len(borders) - 1
        batch = log.events[borders[end - 1] : borders[end]]
        if last_asked and any(event.type in BARRIERS for event in batch):
            break
        end, lost = end - 1, lost - 1
    return borders[end]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@some
@given(script=scripts(), crashes=st.lists(st.tuples(st.integers(0, 25), st.integers(0, 3)), max_size=4))
def test_a_tool_starts_at_most_once_over_any_crashes_and_the_run_still_succeeds(backend, script, crashes):
    anyio.run(run_crashing, script, crashes, backend=backend)


async def run_shuffled(script: Script, most: int) -> None:
    shop = Shop()
    options = RunOptions(restart_delay=0.0, max_concurrent_tools=most, grace=1.0)
    log = await play(script.model(), tools=shop.tools(), options=options)
    assert_whole(log.events)
    running, peak = 0, 0
    open_calls: set[str] = set()
    for event in log.events:
        if event.type == "tool_started":
            open_calls.add(event.call_id)  # type: ignore[union-attr]
        elif event.type == "tool_result":
            open_calls.discard(event.call_id)  # type: ignore[union-attr]
        running = len(open_calls)
        peak = max(peak, running)
    assert log.status == "success"
    assert peak <= most + sum(1 for turn in script.turns for tool, _ in turn.calls if tool == "again")


@some
@given(script=scripts(), most=st.integers(1, 3))
def test_permits_bound_what_runs_at_once(script, most):
    anyio.run(partial(run_shuffled, script, most))
