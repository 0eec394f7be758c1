"""Events on their way into the log, gathered while an append is under way.

Pure bookkeeping for the driver: what belongs together is never split. Adjacent deltas of one part become one
event; a group (events with nothing done in between) enters whole; `take` gives what the next append writes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from streamchat.events import StreamEvent, ToolCallDelta, encode_event

__all__ = ["DELTAS", "Pending", "merge_deltas"]

_TEXTS = frozenset({"text_delta", "reasoning_delta", "refusal_delta"})
DELTAS = _TEXTS | {"tool_call_delta"}
"""The types that an answer mostly consists of, and that say nothing but what they add to it."""

_OVERHEAD = 64


class Pending:
    """Events that wait for an append: ``whole`` are those of whole groups, ``size`` is the rough weight of
    all in bytes, before merging."""

    __slots__ = ("_group", "size", "whole")

    def __init__(self) -> None:
        self.whole: list[StreamEvent] = []
        self._group: list[StreamEvent] = []
        self.size = 0

    def __bool__(self) -> bool:
        """Whether there is a whole group to write."""
        return bool(self.whole)

    def add(self, event: StreamEvent, *, more: bool) -> None:
        """Take an event; with ``more`` it is written together with the one after it, or not at all."""
        if event.type in _TEXTS:
            self.size += _OVERHEAD + len(event.text)  # type: ignore[union-attr]
        else:
            self.size += _weight(event)
        if more or self._group:
            self._group.append(event)
            if not more:
                self.whole += self._group
                self._group = []
        else:
            self.whole.append(event)

    def take(self) -> list[StreamEvent]:
        """Remove and return all whole groups, merged."""
        events, self.whole = self.whole, []
        self.size = 0
        return events if len(events) == 1 else merge_deltas(events)  # one it is most often, live


def _weight(event: StreamEvent) -> int:
    if isinstance(event, ToolCallDelta):
        return _OVERHEAD + len(event.arguments)
    # Few, and they may hold anything: a tool's output, what an application emits.
    return _OVERHEAD + len(encode_event(event)[0])


def merge_deltas(events: Iterable[StreamEvent]) -> list[StreamEvent]:
    """Join neighbouring deltas of the same step, part and call; the fold of the log stays the same."""
    events = list(events)
    out: list[StreamEvent] = []
    run: list[StreamEvent] = []
    key: tuple[Any, ...] | None = None
    for event in events:
        kind = event.type
        named = False
        if kind in _TEXTS:
            this: tuple[Any, ...] | None = (kind, event.step, event.part)  # type: ignore[union-attr]
        elif isinstance(event, ToolCallDelta):
            this = (kind, event.step, event.part, event.call_id)
            named = event.name is not None
        else:
            this = None
        if this is not None and this == key and not named:
            run.append(event)
            continue
        if run:
            out.append(_joined(run))
        run, key = [event], this
    if run:
        out.append(_joined(run))
    return out


def _joined(run: list[StreamEvent]) -> StreamEvent:
    first: Any = run[0]
    if len(run) == 1:
        return run[0]
    if isinstance(first, ToolCallDelta):
        return first.model_copy(update={"arguments": "".join(e.arguments for e in run)})  # type: ignore[union-attr,misc]
    return type(first)(step=first.step, part=first.part, text="".join(e.text for e in run))  # type: ignore[union-attr,no-any-return]
