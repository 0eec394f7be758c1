"""Reading a run's stream to its end over as many connections as it takes: nothing lost, nothing twice."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

import anyio
import httpx2

from streamchat import RunState, StoredEvent, parse_event
from streamchat.client.connection import Connection, NotNow
from streamchat.client.errors import ClientError
from streamchat.core.sse import Frame, SSEDecoder

__all__ = ["Hurry", "Reset", "follow"]

# Seconds: a server sends a heartbeat 7.5 s after the last event, unless it is told otherwise.
_HEARTBEAT, _LONGEST_RETRY = 5.0, 3600.0
_PAGE = ("events", "next", "first_seq", "last_seq")
_FIRST_POLL, _LONGEST_POLL = 0.1, 3.0  # seconds between two pages of a log that has nothing new


@dataclass(frozen=True, slots=True)
class Reset:
    """The cursor could not be continued: replace all that was folded by ``state``, and fold on.

    ``reason`` is ``trimmed``, ``unknown`` or ``diverged``; ``id`` is the cursor from here on.
    """

    reason: str
    first_seq: int
    last_seq: int
    state: RunState
    id: str
    type: Literal["history_reset"] = "history_reset"


class Hurry:
    """Says that the run has reason to go on, so that a stream that ended is opened again at once."""

    __slots__ = ("_said",)

    def __init__(self) -> None:
        self._said = False

    def say(self) -> None:
        """Something that the run waited for was given."""
        self._said = True

    def taken(self) -> bool:
        """Whether it was said since this was asked last."""
        said, self._said = self._said, False
        return said


async def follow(
    connection: Connection, path: str, after: str | None, hurry: Hurry, *, polls: bool
) -> AsyncGenerator[StoredEvent | Reset, None]:
    """Yield what stands behind the cursor ``after`` until the terminal event, of the run at ``path``.

    A connection that breaks, falls silent or is ended by the server (a restart, a deployment) is followed by
    another one, with the last id that was yielded. Raises `ClientError` where the server refuses,
    `ServerUnreachable` when ``patience`` is over. With ``polls``, a server that gives no streams is asked for
    the run's log instead. Closing it closes the connection and nothing else.
    """
    cursor, patience, refreshed = after, connection.patience(), False
    reading = _Reading()
    while True:
        pause = 0.0
        reason: object = "the server ended the stream"
        alive = _Alive(cursor)
        try:
            async with connection.stream(path + "/stream", cursor) as response:
                if response is None:
                    return
                refreshed = False
                async for block in response.aiter_bytes():
                    for frame in alive.feed(block):
                        cursor = frame.id or cursor
                        item = reading.item(frame)
                        if item is not None:
                            hurry.taken()
                            patience.progress()
                            yield item
                            if item.type == "finalized" or (isinstance(item, Reset) and item.state.over):
                                return
                    # The priming frame has no data, but an id from which to go on.
                    cursor = alive.last_event_id or cursor
                alive.dismissed = alive.told > 1
        except NotNow as error:
            pause, reason = error.seconds, error.failure
        except httpx2.TransportError as error:
            reason = repr(error)
        except ClientError as error:
            if polls and error.no_streams:
                async with aclosing(_poll(connection, path, cursor, hurry, error)) as items:
                    async for item in items:
                        yield item
                return
            # A token that ran out while the answer was being written.
            if error.status != 401 or refreshed or not connection.can_refresh:
                raise
            refreshed = True
            continue
        if alive.well:
            patience.progress()  # a run that waits for a person may be quiet for days
        # (who waits for a person is asked to come back late; here that person has answered)
        await patience.wait(reason, 0.0 if hurry.taken() else max(pause, alive.retry))


class _Alive:
    """What one connection brings besides events, and whether it is one that works where nothing happens.

    One that opens and breaks at once is none, however often it is opened: it stays for a heartbeat, or the
    server takes leave of it (``dismissed``: it says when to come back a second time, and ends it in order).
    """

    def __init__(self, cursor: str | None) -> None:
        self._decoder = SSEDecoder(last_event_id=cursor or "")
        self._since: float | None = None
        self._last = 0.0
        self.told = 0
        self.retry = 0.0  # seconds
        self.dismissed = False

    def feed(self, block: bytes) -> list[Frame]:
        """Return the frames that ``block`` completes."""
        frames = self._decoder.feed(block)
        self._last = anyio.current_time()
        if self._since is None:
            self._since = self._last
        if self._decoder.retry is not None:
            self.retry = min(self._decoder.retry / 1000, _LONGEST_RETRY)
            self.told += 1
            self._decoder.retry = None
        return frames

    @property
    def last_event_id(self) -> str:
        """Where to go on."""
        return self._decoder.last_event_id

    @property
    def well(self) -> bool:
        """Whether it worked."""
        return self.dismissed or (self._since is not None and self._last - self._since >= _HEARTBEAT)


async def _poll(
    connection: Connection, path: str, cursor: str | None, hurry: Hurry, refused: ClientError
) -> AsyncGenerator[StoredEvent, None]:
    """Yield what is behind ``cursor``, from pages of the log; raises ``refused`` where it needs a reset."""
    seq = (cursor or "").rpartition(".")[2]
    after: int | None = int(seq) if seq.isdecimal() else 0
    generation, reading, pause = "", _Reading(), _FIRST_POLL
    while after is not None:
        page = await connection.ask("GET", path + "/events", params={"after": after}, needs=_PAGE)
        if page["first_seq"] > after + 1 or after > page["last_seq"]:
            raise refused
        if not generation and page["last_seq"]:
            # Pages do not say it; the run's own cursor does, from the first event on.
            generation = str((await connection.ask("GET", path, needs=("cursor",)))["cursor"]).partition(".")[
                0
            ]
        after = page["next"]
        for fields in page["events"]:
            hurry.taken()
            item = reading.item(Frame("message", json.dumps(fields).encode(), f"{generation}.", None))
            if isinstance(item, StoredEvent):
                yield item
        if page["events"] or hurry.taken():
            pause = _FIRST_POLL
        elif after is not None:
            await anyio.sleep(pause)
            pause = min(2 * pause, _LONGEST_POLL)


class _Reading:
    """What came so far: of a frame that comes again only the first is given."""

    def __init__(self) -> None:
        self._seq = 0

    def item(self, frame: Frame) -> StoredEvent | Reset | None:
        """Return what a frame says; None for what is not ours, or was there before.

        Raises `ClientError` for what no streamchat server sends.
        """
        try:
            return self._item(frame, json.loads(frame.data))
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            detail = {"code": "unreadable_stream", "message": "the stream holds what cannot be read"}
            raise ClientError(200, detail) from error

    def _item(self, frame: Frame, fields: Any) -> StoredEvent | Reset | None:
        if not isinstance(fields, dict):
            return None
        if fields.get("type") == "history_reset":
            self._seq = fields["last_seq"]
            state = RunState.model_validate(fields["snapshot"])
            return Reset(fields["reason"], fields["first_seq"], fields["last_seq"], state, frame.id)
        seq, at = fields.pop("seq", None), fields.pop("at", 0)
        if not isinstance(seq, int) or seq <= self._seq:
            return None
        self._seq = seq
        return StoredEvent(seq, at, parse_event(fields), frame.id.partition(".")[0])
