"""What the tests of `orchestrate()` share: logs with the borders of their batches, and what holds of each."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest

from streamchat.core.conclude import conclude
from streamchat.core.fold import Folder, fold
from streamchat.core.history import messages_of_content, private_of
from streamchat.core.lifecycle import BARRIERS, check_log
from streamchat.events import (
    MessageCompleted,
    StoredEvent,
    StreamEvent,
    ToolCallEvent,
    ToolResult,
    encode_event,
    parse_event,
)
from streamchat.messages import ModelMessage, TextPart
from streamchat.models.base import Model, ModelOutput, ModelRequest
from streamchat.models.chat_requests import chat_messages
from streamchat.orchestration.context import RunContext
from streamchat.orchestration.options import RunOptions
from streamchat.orchestrator import orchestrate
from streamchat.testing import check_history
from streamchat.tools import ToolRegistry

asyncio_only = pytest.mark.parametrize("anyio_backend", [("asyncio", {"debug": True})], ids=["asyncio"])

FAST = RunOptions(restart_delay=0.0, grace=0.2)
"""Nothing waits without need; a tool that hangs is given up soon."""


@dataclass
class Log:
    """What a run yielded. ``borders`` are the lengths at which a store may end: after each whole batch."""

    events: list[StreamEvent] = field(default_factory=list)
    borders: list[int] = field(default_factory=list)

    def end_batch(self) -> None:
        batch = self.events[self.borders[-1] if self.borders else 0 :]
        barriers = [event.type in BARRIERS for event in batch]
        assert barriers[-1] or not any(barriers), "a batch that holds a barrier ends with one"
        self.borders.append(len(self.events))

    def types(self, *wanted: str) -> list[str]:
        return [event.type for event in self.events if not wanted or event.type in wanted]

    def of(self, kind: str) -> list[Any]:
        return [event for event in self.events if event.type == kind]

    def results(self) -> dict[str, Any]:
        return {event.call_id: event for event in self.of("tool_result")}

    def outcomes(self) -> list[str]:
        return [event.outcome for event in self.of("tool_result")]

    @property
    def status(self) -> str:
        return self.of("finalized")[-1].status

    @property
    def text(self) -> str:
        return fold(self.events).text

    @property
    def error(self) -> Any:
        return self.of("error")[-1]


async def play(
    model: Model,
    *,
    tools: ToolRegistry | None = None,
    context: RunContext | None = None,
    history: Iterable[StreamEvent | StoredEvent] = (),
    options: RunOptions = FAST,
    log: Log | None = None,
    after_each: Callable[[Log], Any] | None = None,
) -> Log:
    """Run to the end (or until ``after_each`` returns True) and keep what came."""
    context = context or RunContext()
    log = log if log is not None else Log()
    events = orchestrate(model, "hi", tools=tools, context=context, history=history, options=options)
    async with aclosing(events):
        async for event in events:
            log.events.append(event)
            if not context.more:
                log.end_batch()
            if after_each is not None and after_each(log):
                break
    return log


def stored(events: Sequence[StreamEvent], at: int = 0) -> list[StoredEvent]:
    """The events as a store gives them back: from their JSON."""
    out = []
    for seq, event in enumerate(events, 1):
        data, private = encode_event(event)
        out.append(StoredEvent(seq, at, generation="g", type=event.type, data=data, private=private))
    return out


def assert_whole(log: Sequence[StreamEvent | StoredEvent]) -> None:
    """What holds of every log that is over."""
    events = [event.event if isinstance(event, StoredEvent) else event for event in log]
    assert check_log(events) == "over"
    calls = standing_calls(events)
    results = Counter(event.call_id for event in events if isinstance(event, ToolResult))
    assert results == Counter(calls), "each call has exactly one result"
    state = fold(events)
    final = next(event for event in events if isinstance(event, MessageCompleted))
    assert tuple(final.content) == tuple(state.parts)
    # The fold of all but the ending says the same as the message in it.
    folder = Folder()
    for event in events:
        if event.type not in ("message_completed", "finalized"):
            folder.add(event)
    assert folder.content() == final.content
    # A store gives back what was put in.
    assert [parse_event(*encode_event(event)) for event in events] == list(events)
    assert_accepted(events)


def standing_calls(events: Iterable[StreamEvent]) -> list[str]:
    calls: dict[str, int] = {}
    for event in events:
        if isinstance(event, ToolCallEvent):
            calls[event.call_id] = event.step
        elif event.type == "step_reset":
            calls = {call_id: step for call_id, step in calls.items() if step != event.step}  # type: ignore[union-attr]
    return list(calls)


def assert_accepted(events: Iterable[StreamEvent]) -> None:
    """A strict provider takes the run as the history of the next request."""
    folder = Folder()
    for event in events:
        folder.add(event)
    said = messages_of_content(folder.content(), private_of(folder.extras))
    user = ModelMessage(role="user", content="hi")
    check_history(chat_messages([user, *said, user], None))


def assert_concluded(events: Sequence[StreamEvent]) -> None:
    """Cut off here, the log can be ended by whoever finds it."""
    assert_whole([*events, *conclude(events, "worker_lost", resumed="takeover")])


def text_of(events: Iterable[StreamEvent]) -> str:
    state = fold(events)
    return "".join(part.text for part in state.parts if isinstance(part, TextPart))


class Watched:
    """A model that counts its open responses."""

    def __init__(self, inner: Model) -> None:
        self.inner = inner
        self.open = 0
        self.asked = 0

    @property
    def name(self) -> str:
        return self.inner.name

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelOutput], None]:
        self.open += 1
        self.asked += 1
        try:
            async with aclosing(self.inner.stream(request)) as batches:
                async for batch in batches:
                    yield batch
        finally:
            self.open -= 1


class Stubborn:
    """A tool's body that ignores cancellation, on either loop, until it is released."""

    def __init__(self) -> None:
        self.entered = anyio.Event()
        self.gate = anyio.Event()
        self.left = anyio.Event()

    async def __call__(self) -> str:
        self.entered.set()
        with anyio.CancelScope(shield=True):  # trio's way of ignoring it
            while not self.gate.is_set():
                try:
                    await self.gate.wait()
                except asyncio.CancelledError:  # asyncio's
                    continue
        self.left.set()
        return "late"


async def until_blocked() -> None:
    """Let everything else run until it waits for something."""
    for _ in range(3):
        await anyio.wait_all_tasks_blocked()
