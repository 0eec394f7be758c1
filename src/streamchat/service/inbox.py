"""What was posted to a run: read from the store, handed to the run, consumed with the events that take it
in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from streamchat.buffers.base import EventBuffer, Input
from streamchat.core.answers import Answer, used_by
from streamchat.events import StreamEvent
from streamchat.orchestration.context import RunContext

__all__ = ["Inbox"]


class Inbox:
    """The inputs of one run, as its holder knows them: a cancel stops it, answers go into its context."""

    def __init__(self, buffer: EventBuffer, run_id: str, context: RunContext) -> None:
        self._buffer = buffer
        self._run_id = run_id
        self._context = context
        self._read: dict[str, Input] = {}

    async def look(self) -> None:
        """Read what is new and hand it on; raises `BufferUnavailable`, `RunNotFound`."""
        for posted in await self._buffer.inputs(self._run_id):
            if posted.input_id in self._read:
                continue
            self._read[posted.input_id] = posted
            if posted.kind == "cancel":
                self._context.stop(posted.body.get("reason"), by=posted.by)
            else:
                answer = Answer(posted.kind, posted.key, posted.body, posted.by, posted.at)
                self._context.answer(answer)

    def consumed_by(self, events: Sequence[StreamEvent]) -> list[str]:
        """Return the ids of the inputs that are consumed with these events.

        An ending consumes all that was read, a suspension all that the run has not kept for later: what came
        too late, and what nothing waits for. A cancel is consumed by the ending only.
        """
        if not self._read:
            return []
        ending = any(event.type in ("cancelled", "finalized") for event in events)
        if ending:
            return list(self._read)
        used = {key for event in events for key in used_by(event)}
        suspends = any(event.type == "suspended" for event in events)
        kept = {(answer.kind, answer.call_id) for answer in self._context.inputs}
        return [
            input_id
            for input_id, posted in self._read.items()
            if posted.kind != "cancel"
            and ((posted.kind, posted.key) in used or (suspends and (posted.kind, posted.key) not in kept))
        ]

    def forget(self, input_ids: Iterable[str]) -> None:
        """Note that these were consumed."""
        for input_id in input_ids:
            self._read.pop(input_id, None)
