"""Clients of the runs under attack: each reads one run to its end, over connections that break.

A reader comes back with the cursor of the last event that it has, so what it has seen must be the log, event
for event, whatever happened to the workers meanwhile. One kind attaches in this process, over the buffer; the
other speaks HTTP with any worker that serves, mostly not the one that holds the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from streamchat import HistoryReset, StoredEvent, StreamChat
from streamchat.core.fold import Folder
from streamchat.core.sse import SSEDecoder
from streamchat.core.state import RunState
from streamchat.errors import BufferUnavailable
from streamchat.events import TERMINAL, parse_event

__all__ = ["Reading", "follow_over_http", "read_by_attaching", "read_over_http"]


@dataclass(slots=True)
class Reading:
    """What one client has seen of a run: ids, and the events' public JSON with ``seq`` and ``at`` in it."""

    how: str
    ids: list[str] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    resets: list[dict[str, Any]] = field(default_factory=list)
    connections: int = 0
    problem: str | None = None

    @property
    def cursor(self) -> str | None:
        """The id to come back with."""
        return self.ids[-1] if self.ids else None

    @property
    def over(self) -> bool:
        """Whether the end was seen."""
        if self.events:
            return self.events[-1]["type"] == TERMINAL
        return bool(self.resets) and self.resets[-1]["snapshot"]["status"] in (
            "success",
            "error",
            "cancelled",
        )

    def take(self, id: str, event: dict[str, Any]) -> None:
        """See one event."""
        self.ids.append(id)
        self.events.append(event)

    def reset(self, id: str, reset: dict[str, Any]) -> None:
        """Throw away all that was seen: the store has told another history."""
        self.resets.append(reset)
        self.ids, self.events = [id], []

    def state(self) -> dict[str, Any]:
        """Fold what was seen, on the last reset's snapshot if there was one."""
        base = RunState.model_validate(self.resets[-1]["snapshot"]) if self.resets else None
        folder = Folder(base)
        for event in self.events:
            fields = {name: value for name, value in event.items() if name not in ("seq", "at")}
            folder.add(StoredEvent(event["seq"], event["at"], parse_event(fields)))
        return folder.state.model_dump(mode="json")


async def read_by_attaching(chat: StreamChat, run_id: str, random: random.Random) -> Reading:
    """Read a run with `StreamChat.attach`, leaving and coming back at random."""
    reading = Reading("attach")
    while not reading.over:
        reading.connections += 1
        stay = random.randrange(1, 40)
        try:
            async with await chat.attach(run_id, reading.cursor) as subscription:
                while stay > 0 and not subscription.finished:
                    got = await subscription.next(5.0)
                    if isinstance(got, HistoryReset):
                        snapshot = json.loads(got.snapshot)
                        reading.reset(got.id, {"reason": got.reason, "snapshot": snapshot})
                        stay -= 1
                        continue
                    for stored in got or ():
                        fields = json.loads(stored.data)
                        reading.take(stored.id, {**fields, "seq": stored.seq, "at": stored.at})
                        stay -= 1
                if subscription.finished and not reading.over:
                    reading.problem = "the stream ended before the run did"
                    return reading
        except BufferUnavailable:
            await asyncio.sleep(0.1)
        if random.random() < 0.2:
            await asyncio.sleep(random.random() * 0.3)
    return reading


async def read_over_http(
    session: aiohttp.ClientSession,
    some_port: Callable[[random.Random], Awaitable[int]],
    run_id: str,
    random: random.Random,
) -> Reading:
    """Read a run over HTTP from whoever serves, hanging up and coming back at random."""
    reading = Reading("http")
    while not reading.over:
        reading.connections += 1
        url = f"http://127.0.0.1:{await some_port(random)}/runs/{run_id}/stream"
        headers = {"Last-Event-ID": reading.cursor} if reading.cursor else {}
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, ConnectionError):
            async with session.get(url, headers=headers) as response:
                if response.status == 204:
                    reading.problem = "204 before the end was seen"
                    return reading
                if response.status in (404, 400):
                    reading.problem = f"status {response.status}: {await response.text()}"
                    return reading
                if response.status == 200:
                    await _take_frames(response, reading, random.randrange(1, 60))
        await asyncio.sleep(random.random() * 0.1)
    return reading


async def follow_over_http(
    response: aiohttp.ClientResponse, reading: Reading, count: int, reached: asyncio.Event
) -> None:
    """Read one response to its end; ``reached`` is set when ``count`` events were seen."""
    async for id, fields in _frames(response):
        reading.take(id, fields)
        if len(reading.ids) >= count:
            reached.set()
    reached.set()


async def _take_frames(response: aiohttp.ClientResponse, reading: Reading, stay: int) -> None:
    async for id, fields in _frames(response):
        if fields["type"] == "history_reset":
            reading.reset(id, fields)
        else:
            reading.take(id, fields)
        stay -= 1
        if stay <= 0 or reading.over:
            return


async def _frames(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    decoder = SSEDecoder()
    async for block in response.content.iter_any():
        for frame in decoder.feed(block):
            yield frame.id, json.loads(frame.data)
