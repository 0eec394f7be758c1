"""How ``/vercel`` behaves: `VercelOptions`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

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
    """

    target: Literal["v5", "v6", "v7"] = "v6"
    progress: Literal["output", "data"] = "output"
    dynamic: Collection[str] | bool = ()
    hold_steps: bool = False
    replay_seconds: float = 60.0
    on_disconnect: Literal["continue", "cancel"] | float | None = None
