"""Each principal's share: a bound on what one has at work, and turns among those that wait."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamchat import EventBuffer, Principal, RunOptions, ServiceLimits, StreamChat, ToolRegistry, owns
from streamchat.errors import TooManyRuns, TooManyStarts
from streamchat.http.errors import error_response
from streamchat.orchestration.context import RunContext
from streamchat.orchestration.options import Hooks
from streamchat.service.shares import FairQueue, Pace
from streamchat.testing import Call, ScriptedModel, Stall, Step

from .support import WatchedBuffer

ANN, BOB = Principal("ann", "acme"), Principal("bob", "acme")


@pytest.fixture
def buffer(any_store: EventBuffer) -> EventBuffer:
    """One of each sort: what is counted, kept and taken over is the store's doing."""
    return any_store


def service(buffer: EventBuffer, model: ScriptedModel, most: int, **more: Any) -> StreamChat:
    limits = ServiceLimits(max_runs_per_principal=most)
    return StreamChat(model=model, buffer=buffer, authorize=owns, limits=limits, **more)


@pytest.mark.anyio
async def test_one_principal_may_have_only_so_many_runs_at_work(buffer: EventBuffer) -> None:
    stall = Stall()
    model = ScriptedModel([Step("Slow answer", stall_after=1, stall=stall)], repeat=True)
    async with service(buffer, model, 2) as chat:
        runs = [await chat.start(None, "hi", ANN, idempotency_key=f"k{n}") for n in range(2)]
        with pytest.raises(TooManyRuns) as refused:
            await chat.start(None, "hi", ANN)
        answer = error_response(refused.value, "POST /runs")
        assert answer.status == 429
        assert dict(answer.headers)["retry-after"] == "2"
        # What was begun before is told, and others have their own share.
        again = await chat.start(None, "hi", ANN, idempotency_key="k1")
        assert (again.run_id, again.new) == (runs[1].run_id, False)
        other = await chat.start(None, "hi", BOB)
        stall.release()
        for run, who in ((runs[0], ANN), (runs[1], ANN), (other, BOB)):
            async for _ in chat.attach(run.run_id, principal=who).events():
                pass
        assert (await chat.reply(None, "hi", ANN)).status == "success"


@pytest.mark.anyio
async def test_runs_at_work_in_another_process_count(buffer: EventBuffer) -> None:
    async with service(buffer, ScriptedModel(), 1, work=False) as chat:
        await chat.start(None, "hi", ANN)
        watched: Any = WatchedBuffer(buffer)
        async with service(watched, ScriptedModel(), 1, work=False) as second:
            with pytest.raises(TooManyRuns):
                await second.start(None, "hi", ANN)


@pytest.mark.anyio
async def test_a_run_that_waits_for_somebody_takes_no_share(buffer: EventBuffer) -> None:
    tools = ToolRegistry()

    @tools.tool(requires_approval=True)
    async def send() -> str:
        """Send it."""
        return "sent"

    async with service(buffer, ScriptedModel([Step(calls=[Call("send")]), "Hello."]), 1, tools=tools) as chat:
        assert (await chat.reply(None, "send", ANN)).status == "suspended"
        assert (await chat.reply(None, "hi", ANN)).status == "success"


@pytest.mark.anyio
async def test_many_runs_of_one_do_not_keep_the_run_of_another_waiting(buffer: EventBuffer) -> None:
    begun: list[str] = []
    stall = Stall()

    def note(context: RunContext) -> None:
        assert context.principal is not None
        begun.append(context.principal.id)

    model = ScriptedModel([Step("One two", stall_after=1, stall=stall)], repeat=True)
    chat = StreamChat(
        model=model,
        buffer=buffer,
        authorize=owns,
        options=RunOptions(hooks=Hooks(before_run=note)),
        limits=ServiceLimits(max_runs=1),
    )
    async with chat:
        started = [await chat.start(None, "hi", ANN)]
        await stall.reached()
        started += [await chat.start(None, "hi", ANN) for _ in range(8)]
        late = await chat.start(None, "hi", BOB)
        stall.release()
        async for _ in chat.attach(late.run_id, principal=BOB).events():
            pass
        for run in started:
            async for _ in chat.attach(run.run_id, principal=ANN).events():
                pass
    assert begun.index("bob") <= 2
    assert sorted(begun) == ["ann"] * 9 + ["bob"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=40))
def test_principals_take_turns_and_each_ones_runs_keep_their_order(steps: list[tuple[str, bool]]) -> None:
    queue = FairQueue()
    waiting: dict[str, list[str]] = {}
    passed: dict[str, int] = {}
    for number, (who, take) in enumerate(steps):
        if not take:
            run_id = f"{who}{number}"
            queue.add(run_id, Principal(who))
            queue.add(run_id, Principal(who))
            waiting.setdefault(who, []).append(run_id)
        else:
            first = queue.first()
            assert (first is None) == (not any(waiting.values()))
            if first is None:
                continue
            whose = first[0]
            assert waiting[whose].pop(0) == first
            queue.remove(first)
            queue.remove(first)
            for other, runs in waiting.items():
                passed[other] = passed.get(other, 0) + 1 if runs and other != whose else 0
            # Nobody is passed by more often than there are others.
            assert max(passed.values()) <= 2
        assert len(queue) == sum(map(len, waiting.values()))


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 90, allow_nan=False)), max_size=40),
)
def test_no_principal_begins_more_within_a_minute_and_who_waits_as_told_may(
    most: int, tries: list[tuple[str, float]]
) -> None:
    now = 1000.0
    pace = Pace(most, clock=lambda: now)
    begun: dict[str, list[float]] = {}
    for name, pause in tries:
        now += pause
        mine = begun.setdefault(name, [])
        recent = [at for at in mine if at > now - 60]
        try:
            pace.check((None, name))
        except TooManyStarts as error:
            assert len(recent) == most
            now += error.retry_after + 1e-6  # floats
            pace.check((None, name))
        else:
            assert len(recent) < most
        pace.began((None, name))
        mine.append(now)
        # Whoever has been quiet for a minute takes no room.
        assert len(pace) <= sum(1 for times in begun.values() if times and times[-1] > now - 60)
