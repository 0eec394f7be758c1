"""How ``/v1`` behaves, where any OpenAI client talks to the agent as if to a model: `OpenAIOptions`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from streamchat.errors import InvalidInput
from streamchat.wire.openai_answer import SEPARATOR

__all__ = ["OpenAIOptions"]


@dataclass(frozen=True, slots=True)
class OpenAIOptions:
    """What OpenAI's clients may do.

    ``models`` are the names under which the agent is offered (none: its model's own name). With
    ``client_tools`` a client may declare tools that it carries out itself; else they are refused.
    ``system_messages`` of clients are refused, or dropped, where the service takes none.
    ``conversation_header`` names the header by which a client says which conversation it goes on with.

    This protocol cannot take back what was said: where the model breaks off and begins anew, the response
    ends with an error. With ``hold_steps`` each step is sent only once it stands, which is later.
    ``reasoning_field`` is the field of a delta in which reasoning goes out (None: it does not),
    ``separator`` what stands between the texts of two steps. ``on_disconnect`` takes the place of the
    service's own policy (None) for runs begun here: ``continue``, ``cancel``, or seconds.
    """

    models: Sequence[str] = ()
    client_tools: bool = False
    system_messages: Literal["refuse", "drop"] = "refuse"
    conversation_header: str = "x-conversation-id"
    hold_steps: bool = False
    reasoning_field: str | None = "reasoning_content"
    separator: str = SEPARATOR
    on_disconnect: Literal["continue", "cancel"] | float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.models, str):
            raise InvalidInput(f"models={self.models!r}: give a list of names", field="models")
        if self.reasoning_field in ("role", "content", "refusal", "tool_calls", "annotations"):
            raise InvalidInput(
                f"reasoning_field={self.reasoning_field!r} is a field of the protocol's own; "
                "reasoning_content and reasoning are what clients look for",
                field="reasoning_field",
            )
