"""A run with its store and its inbox, over any number of lives: what a service does, without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from streamchat.core.answers import Answer, AnswerKind, used_by
from streamchat.core.fold import RunState, fold
from streamchat.core.lifecycle import check_log
from streamchat.events import StreamEvent
from streamchat.models.base import Model
from streamchat.orchestration.answering import check_answer
from streamchat.orchestration.context import RunContext
from streamchat.orchestration.options import RunOptions
from streamchat.testing import Call, Step
from streamchat.tools import ToolRegistry
from tests.orchestrator.support import FAST, Log, play, stored


class Desk:
    """Keeps one run's log and the answers to it; `live` is one life of a worker.

    ``now`` is the time of everything, in milliseconds.
    """

    def __init__(self, model: Model, tools: ToolRegistry, options: RunOptions = FAST) -> None:
        self.model = model
        self.tools = tools
        self.options = options
        self.now = 1_000_000
        self.events: list[StreamEvent] = []
        self.inbox: list[Answer] = []
        self.context = RunContext()

    @property
    def state(self) -> RunState:
        return fold(self.events)

    @property
    def waits(self) -> list[tuple[str, str]]:
        return [(wait.kind, wait.call_id) for wait in self.state.waits]

    def post(self, kind: AnswerKind, call_id: str, /, *, checked: bool = True, **body: Any) -> None:
        answer = Answer(kind, call_id, body, by="ann", at=self.now)
        if checked:
            check_answer(self.state, self.tools, answer, now=self.now)
        self.inbox.append(answer)

    def approve(self, call_id: str, **body: Any) -> None:
        self.post("approval", call_id, approved=True, **body)

    def deny(self, call_id: str, reason: str | None = None) -> None:
        self.post("approval", call_id, approved=False, reason=reason)

    async def live(self, after_each: Callable[[Log], Any] | None = None, **context: Any) -> Log:
        """One holder: from the log to its suspension, its end or (``after_each`` says so) its death."""
        self.context = RunContext(run_id="run", inputs=list(self.inbox), clock=lambda: self.now, **context)
        log = Log()
        await play(
            self.model,
            tools=self.tools,
            context=self.context,
            history=stored(self.events, self.now),
            options=self.options,
            log=log,
            after_each=after_each,
        )
        self.keep(log.events)
        return log

    def keep(self, events: Sequence[StreamEvent]) -> None:
        """Store events, and consume the answers that they take in."""
        self.events += events
        used = {key for event in events for key in used_by(event)}
        if events and events[-1].type == "suspended":
            self.inbox = list(self.context.inputs)
        self.inbox = [a for a in self.inbox if (a.kind, a.call_id) not in used]
        check_log(self.events)

    def told(self) -> dict[str, Any]:
        """What the model was told of each call in its newest request."""
        messages = self.model.requests[-1].messages  # type: ignore[attr-defined]
        return {message.call_id: message.content for message in messages if message.role == "tool"}


def calls(*wanted: Call | str, text: str = "") -> Step:
    return Step(text, calls=[call if isinstance(call, Call) else Call(call, id=call) for call in wanted])


def new(log: Log, *kinds: str) -> list[str]:
    """The types of a life's events, without what is for people's eyes."""
    return [event.type for event in log.events if event.type not in ("status", *kinds)]
