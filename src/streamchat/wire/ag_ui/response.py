"""One AG-UI response as it is being said: ``RUN_STARTED`` first, times where they are known, one end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamchat.events import StoredEvent, StreamEvent
from streamchat.wire.ag_ui.ending import understood
from streamchat.wire.ag_ui.messages import NAMESPACE, Ids
from streamchat.wire.ag_ui.shown import AGUIEvent

__all__ = ["PROTOCOL_VERSION", "OpenResponse"]

PROTOCOL_VERSION = "1.0"


class OpenResponse:
    """What is said to one client, under the names that it gave thread and run.

    ``metadata`` goes with ``RUN_STARTED``, beside the run's own ids. ``reasoned`` names the messages with
    reasoning that the client was told of.
    """

    def __init__(
        self,
        thread_id: str,
        run_id: str,
        *,
        message_id: str | None,
        parent_run_id: str | None,
        metadata: Mapping[str, Any] | None,
        protocol_version: str | None,
    ) -> None:
        self.ids = Ids(message_id or "")
        self.begun = self.over = False
        self.reasoned: dict[str, None] = {}
        self._names = {"threadId": thread_id, "runId": run_id}
        self._parent = {} if parent_run_id is None else {"parentRunId": parent_run_id}
        self._about = dict(metadata or {})
        self._knows_outcomes = protocol_version is not None
        self._at: int | None = None
        self._out: list[AGUIEvent] = []

    def learn(self, run_id: str | None, message_id: str | None) -> None:
        """Learn the run's own ids."""
        self.ids.base = message_id or self.ids.base or run_id or ""
        names = {"runId": run_id, "messageId": message_id}
        self._about.update({key: value for key, value in names.items() if value is not None})

    def note_time(self, event: StreamEvent | StoredEvent) -> None:
        """Note when what follows was, as far as it was stored."""
        if isinstance(event, StoredEvent):
            self._at = event.at

    def begin(self) -> None:
        """Say which run it is; nothing the second time."""
        if self.begun:
            return
        self.begun = True
        about = {"metadata": {NAMESPACE: self._about}} if self._about else {}
        self.put("RUN_STARTED", **self._names, **self._parent, **about, protocolVersion=PROTOCOL_VERSION)

    def put(self, kind: str, /, **fields: Any) -> None:
        """Say an event."""
        event = {"type": kind, **fields}
        if kind == "REASONING_START":
            self.reasoned[fields["messageId"]] = None
        if self._at is not None:
            event["timestamp"] = self._at
        self._out.append(event)

    def end(self, fields: Mapping[str, Any]) -> None:
        """Say the end, ``RUN_FINISHED`` without its ids or ``RUN_ERROR``; everything must be closed."""
        said = dict(fields)
        kind = said.pop("type")
        if kind == "RUN_FINISHED":
            said = {**self._names, **said}
            if not (self._knows_outcomes or understood(said["outcome"])):
                del said["outcome"]  # the page then looks for its calls itself
        self.put(kind, **said)
        self.over = True

    def taken(self) -> list[AGUIEvent]:
        """Return what was said since the last time."""
        out, self._out = self._out, []
        return out
