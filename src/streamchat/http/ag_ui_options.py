"""How ``POST /ag-ui`` behaves: `AGUIOptions`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from streamchat.core.given import check_flag
from streamchat.service.presence import grace_of

__all__ = ["AGUIOptions"]


@dataclass(frozen=True, slots=True)
class AGUIOptions:
    """What AG-UI's clients may do.

    With ``client_tools`` the model is offered the frontend tools that a client declares; else they are passed
    over, and only tools that the application registered as ``client_side`` are the page's to execute.
    ``on_disconnect`` takes the place of the service's own policy (None) for runs begun here: ``continue``,
    ``cancel``, or seconds. AG-UI's clients stop a run by leaving it, which is a cancel only if this says so.

    Raises `InvalidInput`, with ``field``, for what is none of these.
    """

    client_tools: bool = True
    on_disconnect: Literal["continue", "cancel"] | float | None = None

    def __post_init__(self) -> None:
        check_flag("client_tools", self.client_tools)
        if self.on_disconnect is not None:
            grace_of(self.on_disconnect)
