"""Whatever comes when: answers, cancels, retries, new and edited messages, deletions, expiries, restarts and
crashes.

A new message is refused while the conversation is being answered, waits for its turn, or interrupts. No call
is left without exactly one result, nothing runs that was not agreed to or was denied, a tool that is not
idempotent starts at most once, nothing waits that nothing will wake, no run was begun that its client was not
told of, no message follows one that is gone, and no provider as strict as the strictest refuses a request.

An act is drawn whole before it is done, so that a history that fails can be shrunk; the simplest ones let
each act come to rest before the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamchat import (
    EventBuffer,
    RunOptions,
    ServiceLimits,
    StreamChat,
    ToolContext,
    ToolRegistry,
    check_log,
    fold,
)
from streamchat.errors import (
    AnswerConflict,
    BufferUnavailable,
    ConversationBusy,
    NotRetryable,
    RunNotFound,
    RunOver,
)
from streamchat.models.base import ModelRequest
from streamchat.orchestration.options import Limits
from streamchat.service.log import read_log
from streamchat.service.stopping import OnBusy
from streamchat.testing import Call, ScriptedModel, Step
from streamchat.tools import Deferred
from tests.buffers.backends import BACKENDS, Backend

from .support import Mortal
from .world import Jumping

TOOLS = ("pay", "ask", "render", "index", "look", "once")
OPTIONS = RunOptions(limits=Limits(max_takeovers=None), tool_timeout=0.05, grace=0.05, restart_delay=0.0)
LEASE = 0.4
LONG = 8 * 24 * 3600.0
"""Seconds, after which no wait is left."""

REFUSALS = (AnswerConflict, ConversationBusy, NotRetryable, RunNotFound, RunOver)
"""What a client may be told that comes too late, twice, or out of turn."""

# ------------------------------------------------------------------ what may happen; places wrap around


@dataclass(frozen=True)
class Say:
    """A message that makes the model call tools; with ``edits`` in the place of one that was said before."""

    tools: tuple[str, ...]
    on_busy: OnBusy = "reject"
    edits: int | None = None


@dataclass(frozen=True)
class Answer:
    """An answer to one of the open waits."""

    place: int
    good: bool


@dataclass(frozen=True)
class Repeat:
    """An answer that was given before."""

    place: int


@dataclass(frozen=True)
class Cancel:
    place: int


@dataclass(frozen=True)
class Retry:
    place: int
    part: Literal["whole", "step", "call"] = "whole"
    which: int = 0


@dataclass(frozen=True)
class Delete:
    """A run goes, with its messages."""

    place: int


@dataclass(frozen=True)
class Expire:
    """So much time passes that no wait is left."""


@dataclass(frozen=True)
class Restart:
    """The process ends in order, and another takes its place."""


Act = Say | Answer | Repeat | Cancel | Retry | Delete | Expire | Restart


@dataclass(frozen=True)
class Turn:
    """An act, and how long nothing else happens after it.

    With ``dies`` the process is killed behind it, after it has seen so much more of the store, or when the
    store has done what was asked for and nobody has heard of it; whoever hears nothing asks the next process
    the same.
    """

    act: Act
    then: Literal["rest", "moment", "at once"] = "rest"
    dies: int | Literal["unheard"] | None = None


PLACES = st.integers(0, 5)
MESSAGES = st.builds(
    Say,
    st.lists(st.sampled_from(TOOLS), min_size=1, max_size=3).map(tuple),
    st.sampled_from(["reject", "enqueue", "interrupt"]),
    st.none() | PLACES,
)
RETRIES = st.builds(Retry, PLACES, st.sampled_from(["whole", "step", "call"]), PLACES)
BAD, GOOD = (st.builds(Answer, PLACES, st.just(good)) for good in (False, True))
OTHERS = st.one_of(
    st.builds(Repeat, PLACES),
    st.builds(Cancel, PLACES),
    st.builds(Delete, PLACES),
    st.builds(Expire),
    st.builds(Restart),
)
KINDS: list[st.SearchStrategy[Any]] = [BAD, BAD, *[GOOD] * 3, MESSAGES, MESSAGES, RETRIES, OTHERS, OTHERS]
ACTS: st.SearchStrategy[Act] = st.sampled_from(KINDS).flatmap(lambda kind: kind)
TURNS = st.builds(
    Turn,
    ACTS,
    st.sampled_from(["rest", "moment", "at once"]),
    st.none() | st.sampled_from([None, "unheard"]) | st.integers(0, 12),
)
HISTORIES = st.lists(TURNS, max_size=16).map(lambda turns: [Turn(Say(("pay", "ask", "render"))), *turns])


class World:
    """One conversation, its store, and the process that works on it at the moment."""

    def __init__(self, store: EventBuffer, clock: Jumping) -> None:
        self.store = store
        self.clock = clock
        self.started: Counter[str] = Counter()
        self.agreed: set[tuple[str, str]] = set()
        self.denied: set[tuple[str, str]] = set()
        self.runs: list[str] = []
        self.said: list[Callable[[], Awaitable[None]]] = []
        self.asked = 0
        self.problems: list[str] = []
        self.process: StreamChat = None  # type: ignore[assignment]

    def tools(self) -> ToolRegistry:
        tools = ToolRegistry()

        def note(ctx: ToolContext) -> str:
            # (a retry of the call has a run of its own, and the same key)
            self.started[f"{ctx.run_id}:{ctx.call_id}"] += 1
            return "done"

        @tools.tool(requires_approval=True)
        async def pay(ctx: ToolContext, n: int = 0) -> str:
            return note(ctx)

        @tools.tool(client_side=True)
        def ask(n: int = 0) -> str:
            raise AssertionError

        @tools.tool(deferred=True)
        async def render(ctx: ToolContext, n: int = 0) -> Deferred:
            note(ctx)
            return Deferred("begun")

        @tools.tool(deferred=True, wait_for_job=False)
        async def index(ctx: ToolContext, n: int = 0) -> Deferred:
            note(ctx)
            return Deferred("begun")

        @tools.tool(idempotent=True)
        async def look(n: int = 0) -> str:
            await asyncio.sleep(0)
            return "seen"

        @tools.tool
        async def once(ctx: ToolContext, n: int = 0) -> str:
            await asyncio.sleep(0.01)
            return note(ctx)

        return tools

    def model(self) -> ScriptedModel:
        """Calls the tools that the user names, then says that it is done; never refuses to be strict."""

        def answer(request: ModelRequest) -> Step:
            last = request.messages[-1]
            words = str(last.content).split()
            if last.role != "user" or words[0] != "do":
                return Step("Done.")
            return Step("Well. ", calls=[Call(name, {"n": at}) for at, name in enumerate(words[1:])])

        return ScriptedModel(answer)

    async def begin(self) -> None:
        """A process takes the place of the one before."""
        self.process = await StreamChat(
            model=self.model(),
            tools=self.tools(),
            buffer=Mortal(self.store),  # type: ignore[arg-type]
            allow_anonymous=True,
            options=OPTIONS,
            limits=ServiceLimits(look_every=0.02, drain_seconds=0.0),
            lease_ttl=LEASE,
        ).open()

    async def end(self) -> None:
        await self.process.close()
        self.problems += self.process.model.problems  # type: ignore[attr-defined]

    @property
    def mortal(self) -> Mortal:
        return self.process.buffer  # type: ignore[return-value]

    async def live(self, turns: Sequence[Turn]) -> None:
        await self.begin()
        try:
            for turn in turns:
                if turn.dies == "unheard":
                    self.mortal.unheard = {"create", "post", "delete"}
                else:
                    self.mortal.left = turn.dies
                await self.do(turn.act)
                await self.pause("moment" if turn.dies is not None and turn.then == "rest" else turn.then)
                if turn.dies is not None:
                    await self.die()
            await self.finish()
        finally:
            await self.end()

    async def die(self) -> None:
        """The process is killed; by the time that the next one is there, its leases are over."""
        self.mortal.dead = True
        self.clock.jump(LEASE)
        await self.end()
        await self.begin()

    async def do(self, act: Act) -> None:
        with contextlib.suppress(*REFUSALS):
            match act:
                case Say():
                    await self.say(act)
                case Answer():
                    waits = await self.waits()
                    if waits:
                        await self.answer(*waits[act.place % len(waits)], good=act.good)
                case Repeat():
                    if self.said:
                        await self.said[act.place % len(self.said)]()
                case Cancel() if self.runs:
                    run_id = self.runs[act.place % len(self.runs)]
                    await self.surely(lambda: self.process.cancel(run_id))
                case Retry() if self.runs:
                    await self.retry(act)
                case Delete() if self.runs:
                    await self.delete(self.runs[act.place % len(self.runs)])
                case Expire():
                    self.clock.jump(LONG)
                case Restart():
                    await self.end()
                    await self.begin()

    async def surely(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Ask; and where the process died meanwhile ask the next one."""
        try:
            return await ask()
        except BufferUnavailable:
            await self.die()
            return await ask()

    async def say(self, act: Say) -> None:
        self.asked += 1
        key, text = f"message {self.asked}", " ".join(["do", *act.tools])
        mine = [row.message_id for row in await self.rows() if row.role == "user"]
        edits = mine[act.edits % len(mine)] if mine and act.edits is not None else None
        started = await self.surely(
            lambda: self.process.start("c", text, on_busy=act.on_busy, edits=edits, idempotency_key=key)
        )
        self.runs.append(started.run_id)

    async def rows(self) -> list[Any]:
        return list(await self.store.messages("c", limit=500)) if self.runs else []

    async def waits(self) -> list[tuple[str, str, str]]:
        """What the runs wait for: each a run, a kind and a call."""
        states = [(run_id, fold(await read_log(self.store, run_id))) for run_id in self.runs]
        return [(run_id, wait.kind, wait.call_id) for run_id, state in states for wait in state.waits]

    async def answer(self, run_id: str, kind: str, call_id: str, *, good: bool) -> None:
        output, error = ("here", None) if good else (None, "it failed")

        def ask() -> Awaitable[None]:
            if kind == "approval":
                return self.process.resolve_approval(run_id, call_id, good)
            if kind == "job":
                return self.process.complete_job(f"{run_id}:{call_id}", output, error=error)
            return self.process.submit_tool_result(run_id, call_id, output, error=error)

        async def again() -> None:
            await self.surely(ask)
            if kind == "approval":
                (self.agreed if good else self.denied).add((run_id, call_id))

        self.said.append(again)
        await again()

    async def retry(self, act: Retry) -> None:
        self.asked += 1
        key, run_id = f"retry {self.asked}", self.runs[act.place % len(self.runs)]
        state = fold(await read_log(self.store, run_id))
        which: list[Any] = [call.call_id for call in state.calls] if act.part == "call" else []
        which = [step.step for step in state.steps] if act.part == "step" else which
        part: dict[str, Any] = {}
        if which:
            part = {"call_id" if act.part == "call" else "from_step": which[act.which % len(which)]}
        started = await self.surely(lambda: self.process.retry(run_id, idempotency_key=key, **part))
        # What was agreed to in the one is agreed to in the other, as far as it is kept.
        self.agreed |= {(started.run_id, call_id) for parent, call_id in self.agreed if parent == run_id}
        self.runs.append(started.run_id)

    async def delete(self, run_id: str) -> None:
        with contextlib.suppress(RunNotFound):  # nobody had heard that it was deleted
            await self.surely(lambda: self.process.delete(run_id=run_id))
        self.runs.remove(run_id)

    async def pause(self, then: str) -> None:
        if then == "moment":
            await asyncio.sleep(0.01)
        for _ in range(200 if then == "rest" else 0):
            runs = [await self.store.get(run_id) for run_id in self.runs]
            inputs = [i for run in runs if not run.over for i in await self.store.inputs(run.run_id)]
            if not inputs and all(run.over or run.enqueued or run.status == "suspended" for run in runs):
                return
            await asyncio.sleep(0.01)

    async def finish(self) -> None:
        """Answer all that still waits, until every run is over; then do the newest anew, and again."""
        for retry in (False, True):
            if retry and self.runs:
                with contextlib.suppress(*REFUSALS):
                    await self.retry(Retry(len(self.runs) - 1, "call"))
            with anyio.fail_after(30):
                while not all([(await self.store.get(run_id)).over for run_id in self.runs]):
                    for wait in await self.waits():
                        with contextlib.suppress(*REFUSALS):  # answered before, and perhaps not taken yet
                            await self.answer(*wait, good=True)
                    await asyncio.sleep(0.01)

    async def check(self) -> None:
        for run_id in self.runs:
            events = [stored.event for stored in await read_log(self.store, run_id)]
            assert check_log(events) == "over"
            results = Counter(event.call_id for event in events if event.type == "tool_result")  # type: ignore[union-attr]
            state = fold(events)
            assert results == Counter(call.call_id for call in state.calls)
            for call in state.calls:
                if call.name == "pay" and self.started[f"{run_id}:{call.call_id}"]:
                    assert (run_id, call.call_id) in self.agreed
                    assert (run_id, call.call_id) not in self.denied
        assert all(count == 1 for count in self.started.values()), "once at most"
        rows = await self.store.messages("c", limit=500)
        assert {row.run_id for row in rows} == set(self.runs)
        assert {row.parent_id for row in rows} <= {None, *(row.message_id for row in rows)}
        conversation = await self.store.conversation("c")
        assert conversation.active_run_id is None
        assert await self.store.enqueued("c") == []
        assert self.problems == []


async def play(backend: Backend, turns: Sequence[Turn]) -> None:
    backend.clock = clock = Jumping()
    async with backend.open() as store:
        world = World(store, clock)
        await world.live(turns)
        await world.check()


SHARES = {"memory": 1 / 3, "sqlite": 1 / 8, "postgresql": 1 / 20}
"""Of the examples; it is the service that is tried, and the stores have their own laws."""


@pytest.mark.hypothesis
@pytest.mark.parametrize("store", SHARES)
def test_whatever_happens_when_nothing_is_left_open(store: str, request: pytest.FixtureRequest) -> None:
    kind = BACKENDS[store]
    server = request.getfixturevalue(kind.service) if kind.service else ""

    @settings(max_examples=max(1, int(settings.default.max_examples * SHARES[store])))  # type: ignore[union-attr]
    @given(turns=HISTORIES)
    def law(turns: list[Turn]) -> None:
        with tempfile.TemporaryDirectory() as directory:
            asyncio.run(play(kind(Path(directory), server), turns), debug=True)

    law()
