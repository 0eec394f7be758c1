"""AG-UI 1.0, the protocol of CopilotKit and `@ag-ui/client`: a run's events as AG-UI events.

`ag_ui_stream` is the function over an event stream for people with routes of their own, `AGUIWire` the same
for `event_response`; `AGUIEncoder` is for who feeds it, and for whoever joins late.
"""

from __future__ import annotations

from streamchat.core.agent_state import AgentState
from streamchat.wire.ag_ui.encoder import AGUIEncoder, Before
from streamchat.wire.ag_ui.messages import AGUIMessage, Ids, run_messages, user_message
from streamchat.wire.ag_ui.response import PROTOCOL_VERSION
from streamchat.wire.ag_ui.shown import AGUIEvent
from streamchat.wire.ag_ui.stream import (
    MEDIA_TYPE,
    AGUINames,
    AGUIWire,
    ag_ui_events,
    ag_ui_frame,
    ag_ui_stream,
)

__all__ = [
    "MEDIA_TYPE",
    "PROTOCOL_VERSION",
    "AGUIEncoder",
    "AGUIEvent",
    "AGUIMessage",
    "AGUINames",
    "AGUIWire",
    "AgentState",
    "Before",
    "Ids",
    "ag_ui_events",
    "ag_ui_frame",
    "ag_ui_stream",
    "run_messages",
    "user_message",
]
