"""What a run needs from the application when it goes on, and cannot have at that moment."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streamchat import EventBuffer, Limits, RunContext, RunOptions, StreamChat, ToolRegistry, check_log, fold
from streamchat.events import ErrorEvent, RunResumed
from streamchat.service import working
from streamchat.testing import Call, ScriptedModel, Step

from .support import WatchedBuffer, drain, log_of

pytestmark = pytest.mark.anyio


class Waiting:
    """A call that a person agrees to while what the run needs next cannot be had."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, fails: int, pause: float = 0.0) -> None:
        monkeypatch.setattr(working, "_FIRST_PAUSE", pause)
        self.paid, self.made, self.tools = 0, 0, ToolRegistry()
        self.failed = asyncio.Event()

        @self.tools.tool(requires_approval=True)
        async def pay() -> str:
            """Pay."""
            self.paid += 1
            return "paid"

        def deps(context: RunContext) -> str:
            self.made += 1
            if 2 <= self.made < 2 + fails:
                self.failed.set()
                raise ConnectionError("the database restarts")
            return "deps"

        self.deps = deps

    def chat(self, buffer: EventBuffer, **more: Any) -> StreamChat:
        model = ScriptedModel([Step(calls=[Call("pay", id="p")]), "Done."])
        watched: Any = WatchedBuffer(buffer)
        return StreamChat(
            model=model, buffer=watched, tools=self.tools, deps=self.deps, allow_anonymous=True, **more
        )

    async def agreed(self, chat: StreamChat) -> str:
        run_id = (await chat.reply(None, "pay")).run_id
        while (await chat.buffer.get(run_id)).status != "suspended":
            await asyncio.sleep(0.01)
        await chat.resolve_approval(run_id, "p", approved=True)
        return run_id


async def test_what_a_waiting_run_needs_and_cannot_have_for_a_moment_is_asked_for_again(
    buffer: EventBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = Waiting(monkeypatch, fails=3)
    async with waiting.chat(buffer) as chat:
        run_id = await waiting.agreed(chat)
        await drain(chat, run_id)
        log = await log_of(chat, run_id)
    assert check_log(log) == "over"
    assert fold(log).status == "success"
    assert (waiting.made, waiting.paid) == (5, 1)
    # That it was given back in between is nobody's business.
    assert [event.reason for event in log if isinstance(event, RunResumed)] == ["approval"]


async def test_a_waiting_run_that_never_gets_what_it_needs_ends_after_max_takeovers(
    buffer: EventBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = Waiting(monkeypatch, fails=100)
    options = RunOptions(limits=Limits(max_takeovers=2))
    async with waiting.chat(buffer, options=options) as chat:
        run_id = await waiting.agreed(chat)
        await drain(chat, run_id)
        log = await log_of(chat, run_id)
    assert check_log(log) == "over"
    assert [event.code for event in log if isinstance(event, ErrorEvent)] == ["internal_error"]
    assert (waiting.made, waiting.paid) == (4, 0)


async def test_a_run_is_cancelled_while_it_pauses_for_what_it_needs(
    buffer: EventBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = Waiting(monkeypatch, fails=100, pause=3600.0)
    monkeypatch.setattr(working, "_LONGEST_PAUSE", 3600.0)
    async with waiting.chat(buffer) as chat:
        run_id = await waiting.agreed(chat)
        await waiting.failed.wait()
        await chat.cancel(run_id)
        await drain(chat, run_id)
        log = await log_of(chat, run_id)
    assert check_log(log) == "over"
    assert fold(log).status == "cancelled"
    assert waiting.paid == 0


async def test_a_run_that_pauses_for_what_it_needs_is_handed_over_at_a_drain(
    buffer: EventBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = Waiting(monkeypatch, fails=1, pause=3600.0)
    monkeypatch.setattr(working, "_LONGEST_PAUSE", 3600.0)
    chat = await waiting.chat(buffer).open()
    run_id = await waiting.agreed(chat)
    await waiting.failed.wait()
    await chat.drain(0)
    await chat.close()
    assert (await buffer.get(run_id)).status == "queued"
    assert [posted.kind for posted in await buffer.inputs(run_id)] == ["approval"]
