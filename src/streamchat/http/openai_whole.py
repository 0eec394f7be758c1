"""A run's answer in one piece: what an `AnswerStream` writes to where the client asked for no stream."""

from __future__ import annotations

from collections.abc import Iterable

from streamchat.core.state import RunState
from streamchat.events import StoredEvent, StreamEvent
from streamchat.service.hub import HistoryReset
from streamchat.wire.openai_answer import Answer, Failure, Said

__all__ = ["WholeAnswer"]


class WholeAnswer:
    """Keeps what is said until the answer has ended, for a response in one piece."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.said: list[Said] = []

    @property
    def finished(self) -> bool:
        """Whether the answer has ended."""
        return self.answer.ended

    def encode(self, events: Iterable[StoredEvent | StreamEvent]) -> bytes:
        """Take events; nothing is sent yet."""
        for event in events:
            self.said += self.answer.add(event)
        return b""

    def reset(self, reset: HistoryReset) -> bytes:
        """Take a snapshot."""
        self.said += self.answer.restart(RunState.model_validate_json(reset.snapshot))
        return b""

    def fail(self, failure: Failure) -> bytes:
        """End it: the waiting ends before the run does."""
        self.answer.fail(failure)
        return b""
