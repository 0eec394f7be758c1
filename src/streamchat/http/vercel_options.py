"""How ``/vercel`` behaves: `VercelOptions`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from streamchat.core.given import check_choice, check_flag, check_names, check_number
from streamchat.service.presence import grace_of

__all__ = ["VercelOptions"]


@dataclass(frozen=True, slots=True)
class VercelOptions:
    """What the Vercel AI SDK's clients are given.

    ``target`` is the version of the ``ai`` package that is written for where a request does not say (in
    ``X-AI-SDK-Version`` or ``?target=``). A tool's progress comes as preliminary ``output`` or as ``data``
    parts; ``dynamic`` names the tools that become ``dynamic-tool`` parts (True: all). ``hold_steps`` keeps
    each step back until the model has completed it, for clients that cannot take back what was withdrawn.

    A run that ended at most ``replay_seconds`` ago is replayed to a client that resumes: its connection may
    have dropped just before. ``on_disconnect`` takes the place of the service's own policy (None) for runs
    begun here: ``continue``, ``cancel``, or seconds.

    Raises `InvalidInput`, with ``field``, for what is none of these.
    """

    target: Literal["v5", "v6", "v7"] = "v6"
    progress: Literal["output", "data"] = "output"
    dynamic: Collection[str] | bool = ()
    hold_steps: bool = False
    replay_seconds: float = 60.0
    on_disconnect: Literal["continue", "cancel"] | float | None = None

    def __post_init__(self) -> None:
        check_choice("target", self.target, ("v5", "v6", "v7"))
        check_choice("progress", self.progress, ("output", "data"))
        if not isinstance(self.dynamic, bool):
            check_names("dynamic", self.dynamic, "a list of tools' names, or True for all")
        check_flag("hold_steps", self.hold_steps)
        check_number("replay_seconds", self.replay_seconds, least=0)
        if self.on_disconnect is not None:
            grace_of(self.on_disconnect)
