"""The text of a step that is about to stand, and the same step with another text in its place."""

from __future__ import annotations

from collections.abc import Sequence

from streamchat.core.fold import RunState
from streamchat.events import FinishedPart, ModelCompleted, StreamEvent, TextDelta
from streamchat.messages import TextPart

__all__ = ["SaidText"]


class SaidText:
    """What a step in ``state`` says once ``events``, the last of it with ``model_completed``, are folded."""

    def __init__(self, state: RunState, step: int, events: Sequence[StreamEvent]) -> None:
        self._events = events
        self._known = {p.part for p in state.parts if p.step == step and isinstance(p, TextPart)}
        texts = {p.part: p.text for p in state.parts if p.step == step and isinstance(p, TextPart)}
        for event in events:
            if isinstance(event, TextDelta):
                texts[event.part] = texts.get(event.part, "") + event.text
            elif isinstance(event, ModelCompleted):
                texts |= {p.part: p.text for p in event.parts if p.part in texts and p.text is not None}
        self._parts = sorted(texts)
        self.text = "".join(texts[part] for part in self._parts)

    def replaced(self, text: str) -> list[StreamEvent]:
        """Return the events with ``text`` in the first text part and nothing in the others.

        Deltas that were not handed out yet never are; of a part that nobody has seen, one tells the new text.
        """
        new = {part: text if part == self._parts[0] else "" for part in self._parts}
        out: list[StreamEvent] = []
        shown = set(self._known)
        for event in self._events:
            if isinstance(event, TextDelta):
                if event.part in shown:
                    continue
                shown.add(event.part)
                out.append(event.model_copy(update={"text": new[event.part]}))
            elif isinstance(event, ModelCompleted):
                kept = [part for part in event.parts if part.part not in new]
                replaced = [FinishedPart(part=part, text=new[part]) for part in self._parts]
                parts = tuple(sorted([*kept, *replaced], key=lambda part: part.part))
                out.append(event.model_copy(update={"parts": parts}))
            else:
                out.append(event)
        return out
