"""How ``/v1`` behaves, where any OpenAI client talks to the agent as if to a model: `OpenAIOptions`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from streamchat.core.given import check_choice, check_flag, check_instance, check_names
from streamchat.errors import InvalidInput
from streamchat.service.presence import grace_of
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

    Raises `InvalidInput`, with ``field``, for what is none of these.
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
        check_instance("models", self.models, (list, tuple), "a list of names")
        check_names("models", self.models, "a list of names")
        check_flag("client_tools", self.client_tools)
        check_choice("system_messages", self.system_messages, ("refuse", "drop"))
        check_instance("conversation_header", self.conversation_header, str, "a header's name")
        check_flag("hold_steps", self.hold_steps)
        check_instance("reasoning_field", self.reasoning_field, str, "a field's name, or None", none=True)
        check_instance("separator", self.separator, str, "text")
        if self.on_disconnect is not None:
            grace_of(self.on_disconnect)
        if self.reasoning_field in ("role", "content", "refusal", "tool_calls", "annotations"):
            raise InvalidInput(
                f"reasoning_field={self.reasoning_field!r} is a field of the protocol's own; "
                "reasoning_content and reasoning are what clients look for",
                field="reasoning_field",
            )
