"""A thread as AG-UI's clients are told of it: the stored messages, under the ids that this client knows."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Sequence

from streamchat.buffers.base import MessageRecord
from streamchat.core.agent_state import AgentState, changed
from streamchat.http.ag_ui_input import InputMessage
from streamchat.messages import ToolCallPart, parse_content
from streamchat.service.request import conversation_path
from streamchat.service.rows import kept_state
from streamchat.wire.ag_ui import AGUIMessage, Ids, run_messages, user_message

__all__ = ["Thread"]


class Thread:
    """The stored messages of a conversation; those of users go by the client's own ids where it sent them.

    A client's message has another id than the stored one, and a snapshot under an id that the client does not
    know would put that message behind all others.
    """

    def __init__(self, rows: Sequence[MessageRecord], said: Sequence[InputMessage]) -> None:
        self._rows = rows
        self._said = [message for message in said if message.role == "user"]
        self._places: dict[str | None, list[int]] = {}
        for place, message in enumerate(self._said):
            self._places.setdefault(_text(message.content), []).append(place)

    @property
    def newest_run(self) -> str | None:
        """The run of the newest answer."""
        answers = (row.run_id for row in reversed(self._rows) if row.role == "assistant")
        return next((run_id for run_id in answers if run_id is not None), None)

    def asked_by(self, approvals: Collection[str]) -> str | None:
        """Return the newest run that asked for one of these approvals, as far as that is stored with its
        message."""
        for row in reversed(self._rows):
            if row.role != "assistant" or row.run_id is None:
                continue
            for part in parse_content(row.content):
                approval = part.approval if isinstance(part, ToolCallPart) else None
                if approval is not None and approval.approval_id in approvals:
                    return row.run_id
        return None

    def whole(self) -> list[AGUIMessage]:
        """Return the messages up to the newest one."""
        return self._told(self._path(self._rows[-1].message_id if self._rows else None))

    def before(self, message_id: str) -> list[AGUIMessage]:
        """Return the messages up to the one that the answer ``message_id`` follows."""
        return self._told(self._path(message_id)[:-1])

    def state(self) -> AgentState | None:
        """Return the agent's state behind the newest message; None where none was ever said."""
        return _state_of(self._path(self._rows[-1].message_id if self._rows else None))

    def state_before(self, message_id: str) -> AgentState | None:
        """Return the state that the answer ``message_id`` goes on from."""
        return _state_of(self._path(message_id)[:-1])

    def _path(self, message_id: str | None) -> Sequence[MessageRecord]:
        return conversation_path(self._rows, message_id)

    def _told(self, path: Sequence[MessageRecord]) -> list[AGUIMessage]:
        told: list[list[AGUIMessage]] = []
        left = len(self._said)
        for row in reversed(path):
            content = parse_content(row.content)
            if row.role == "assistant":
                told.append(run_messages(content, Ids(row.message_id)))
            elif row.role == "user":
                message = user_message(row.message_id, content)
                known = self._find(message, left)
                if known is not None:
                    left = known
                    message["id"] = self._said[known].id
                told.append([message])
        return [message for messages in reversed(told) for message in messages]

    def _find(self, message: AGUIMessage, left: int) -> int | None:
        """Return the newest of the client's messages, of those not yet found, that says the same."""
        places = self._places.get(_text(message["content"]), [])
        before = bisect_left(places, left)
        return places[before - 1] if before else None


def _state_of(path: Sequence[MessageRecord]) -> AgentState | None:
    state: AgentState | None = None
    for row in path:
        state = changed(state, kept_state(row))
    return state


def _text(content: object) -> str | None:
    """The text of a message, whatever else is in it."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
