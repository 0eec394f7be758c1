"""Random histories of a conversation's runs: answers, cancels, retries, new messages, restarts and crashes.

A new message is refused while the conversation is being answered, waits for its turn, or interrupts.
Whatever comes when, no call is left without exactly one result, nothing runs that was not agreed to, a tool
that is not idempotent starts at most once, nothing waits that nothing will wake, and no provider as strict as
the strictest refuses a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from streamchat import (
    EventBuffer,
    MemoryEventBuffer,
    RunOptions,
    ServiceLimits,
    StreamChat,
    ToolContext,
    ToolRegistry,
    check_log,
    fold,
)
from streamchat.buffers.sql import SQLEventBuffer
from streamchat.errors import AnswerConflict, ConversationBusy, NotRetryable, RunOver
from streamchat.models.base import ModelRequest
from streamchat.orchestration.options import Limits
from streamchat.service.driver import read_log
from streamchat.service.stopping import OnBusy
from streamchat.testing import Call, ScriptedModel, Step
from streamchat.tools import Deferred

from .support import Mortal

TOOLS = ("pay", "ask", "render", "index", "look", "once")
OPTIONS = RunOptions(limits=Limits(max_takeovers=None), tool_timeout=0.2, grace=0.1, restart_delay=0.0)


REFUSALS = (AnswerConflict, ConversationBusy, NotRetryable, RunOver)
"""What a client may be told that comes too late, twice, or out of turn."""


class World:
    """One conversation, its store, and the process that works on it at the moment."""

    def __init__(self, store: EventBuffer, seed: int, policies: Sequence[OnBusy]) -> None:
        self.store = store
        self.policies = policies
        self.chance = random.Random(seed)
        self.started: Counter[str] = Counter()
        self.agreed: set[tuple[str, str]] = set()
        self.runs: list[str] = []
        self.said: list[Callable[[StreamChat], Any]] = []
        self.problems: list[str] = []

    def tools(self) -> ToolRegistry:
        tools = ToolRegistry()

        def note(ctx: ToolContext) -> str:
            self.started[ctx.idempotency_key] += 1
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

    def chat(self) -> StreamChat:
        return StreamChat(
            model=self.model(),
            tools=self.tools(),
            buffer=Mortal(self.store),  # type: ignore[arg-type]
            allow_anonymous=True,
            options=OPTIONS,
            limits=ServiceLimits(look_every=0.05, drain_seconds=0.0),
            lease_ttl=0.4,
        )

    async def live(self, steps: int) -> None:
        chat = await self.chat().open()
        try:
            for _ in range(steps):
                act = self.chance.choices(
                    [self.start, self.answer, self.again, self.cancel, self.retry, self.rest],
                    [4, 8, 2, 1, 2, 4],
                )[0]
                with contextlib.suppress(*REFUSALS):
                    await act(chat)
                if self.chance.random() < 0.15:
                    chat = await self.replace(chat)
            await self.finish(chat)
            for _ in range(2):
                with contextlib.suppress(*REFUSALS):
                    await self.retry(chat)
                await self.finish(chat)
        finally:
            await chat.close()
            self.problems += chat.model.problems  # type: ignore[attr-defined]

    async def replace(self, chat: StreamChat) -> StreamChat:
        """The process ends, in order or not, and another takes its place."""
        if self.chance.random() < 0.6:
            chat.buffer.dead = True  # type: ignore[attr-defined]
        await chat.close()
        self.problems += chat.model.problems  # type: ignore[attr-defined]
        return await self.chat().open()

    async def start(self, chat: StreamChat) -> None:
        wanted = [self.chance.choice(TOOLS) for _ in range(self.chance.randint(1, 3))]
        policy = self.chance.choice(self.policies)
        key = f"start {len(self.runs)}"
        text = " ".join(["do", *wanted])
        started = await chat.start("c", text, on_busy=policy, idempotency_key=key)
        self.runs.append(started.run_id)

    async def answer(self, chat: StreamChat) -> None:
        waits = []
        for run_id in self.runs:
            state = (await chat.status(run_id)).state
            waits += [(run_id, wait) for wait in state.waits]
        if waits:
            run_id, wait = self.chance.choice(waits)
            await self.say(chat, run_id, wait.kind, wait.call_id, self.chance.random() < 0.7)

    async def say(self, chat: StreamChat, run_id: str, kind: str, call_id: str, good: bool) -> None:
        def again(chat: StreamChat) -> Any:
            if kind == "approval":
                return chat.resolve_approval(run_id, call_id, good)
            error = None if good else "it failed"
            if kind == "job":
                return chat.complete_job(f"{run_id}:{call_id}", "here" if good else None, error=error)
            return chat.submit_tool_result(run_id, call_id, "here" if good else None, error=error)

        if kind == "approval" and good:
            self.agreed.add((run_id, call_id))
        self.said.append(again)
        await again(chat)

    async def again(self, chat: StreamChat) -> None:
        if self.said:
            await self.chance.choice(self.said)(chat)

    async def cancel(self, chat: StreamChat) -> None:
        if self.runs:
            await chat.cancel(self.chance.choice(self.runs))

    async def retry(self, chat: StreamChat) -> None:
        if not self.runs:
            return
        run_id = self.chance.choice(self.runs)
        calls = [call.call_id for call in (await chat.status(run_id)).state.calls]
        chosen = self.chance.choice([None, *calls])
        started = await chat.retry(run_id, call_id=chosen)
        self.agreed |= {(started.run_id, call_id) for parent, call_id in self.agreed if parent == run_id}
        self.runs.append(started.run_id)

    async def rest(self, chat: StreamChat) -> None:
        await asyncio.sleep(self.chance.choice([0.0, 0.01, 0.05]))

    async def finish(self, chat: StreamChat) -> None:
        """Answer all that still waits, until every run is over."""
        with anyio.fail_after(60):
            while True:
                states = {run_id: (await chat.status(run_id)).state for run_id in self.runs}
                if all(state.over for state in states.values()):
                    return
                for run_id, state in states.items():
                    for wait in state.waits:
                        with contextlib.suppress(*REFUSALS):  # answered before, and perhaps not taken yet
                            await self.say(chat, run_id, wait.kind, wait.call_id, True)
                await asyncio.sleep(0.02)

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
        assert all(count == 1 for count in self.started.values()), "once at most"
        conversation = await self.store.conversation("c")
        assert conversation.active_run_id is None
        assert await self.store.enqueued("c") == []
        assert self.problems == []


async def play(make: Callable[[], EventBuffer], seed: int, steps: int, *policies: OnBusy) -> None:
    store = make()
    await store.open()
    try:
        world = World(store, seed, policies or ("reject",))
        await world.live(steps)
        await world.check()
    finally:
        await store.close()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_a_random_history_leaves_nothing_open(store: str, seed: int, tmp_path: Path) -> None:
    def make() -> EventBuffer:
        return MemoryEventBuffer() if store == "memory" else SQLEventBuffer(f"sqlite:///{tmp_path / 'r.db'}")

    asyncio.run(play(make, seed, 14), debug=True)


@pytest.mark.parametrize("seed", range(200, 205))
@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_a_random_history_of_messages_that_wait_or_interrupt_leaves_nothing_open(
    store: str, seed: int, tmp_path: Path
) -> None:
    def make() -> EventBuffer:
        return MemoryEventBuffer() if store == "memory" else SQLEventBuffer(f"sqlite:///{tmp_path / 'r.db'}")

    asyncio.run(play(make, seed, 16, "enqueue", "enqueue", "interrupt", "reject"), debug=True)


@pytest.mark.slow
@pytest.mark.parametrize("policies", [("reject",), ("enqueue",), ("enqueue", "interrupt", "reject")], ids=str)
@pytest.mark.parametrize("seed", range(100, 113))
def test_long_random_histories_leave_nothing_open(
    seed: int, policies: Sequence[OnBusy], tmp_path: Path
) -> None:
    asyncio.run(play(lambda: SQLEventBuffer(f"sqlite:///{tmp_path / 'r.db'}"), seed, 40, *policies))
