"""What a tool is given about the run that it works for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic

from typing_extensions import TypeVar

from streamchat.events import CustomEvent, StreamEvent, ToolProgress
from streamchat.principal import Principal
from streamchat.tools.output import json_value

__all__ = ["ToolContext"]

DepsT = TypeVar("DepsT", default=Any)


def _nowhere(event: StreamEvent) -> None:
    """Events of a tool that is run outside of a run go nowhere."""


@dataclass(slots=True)
class ToolContext(Generic[DepsT]):
    """Handed to tools that have a parameter of this type; the model never sees it.

    ``deps`` is what the application's factory made for this run in this process. ``attempt`` counts from 1.
    ``fence`` grows with every take-over of the run: a tool may hand it to a service that refuses older ones.
    ``idempotency_key`` is the same for every attempt of the call, whoever makes it, also where the failed
    call alone is retried, in a run of its own; ``job_id`` is not.
    """

    run_id: str
    call_id: str
    step: int = 1
    name: str = ""
    idempotency_key: str = ""
    attempt: int = 1
    fence: int = 0
    conversation_id: str | None = None
    principal: Principal | None = None
    deps: DepsT = None  # type: ignore[assignment]
    is_cancelled: Callable[[], bool] = lambda: False
    publish: Callable[[StreamEvent], None] = _nowhere
    """Takes an event into the run; safe to call from any thread."""

    @property
    def job_id(self) -> str:
        """The id under which a deferred result is brought later: ``run_id:call_id``."""
        return f"{self.run_id}:{self.call_id}"

    @property
    def cancelled(self) -> bool:
        """Whether the call was cancelled or ran out of time; a function in a thread looks here."""
        return self.is_cancelled()

    def progress(self, message: str | None = None, fraction: float | None = None, data: Any = None) -> None:
        """Tell those who watch how far the tool is; ``fraction`` is 0 to 1. Never blocks; for any thread.

        ``data`` is turned into JSON as a result is; raises `OutputUnusable` where that cannot be.
        """
        self.publish(
            ToolProgress(
                step=self.step,
                call_id=self.call_id,
                message=message,
                fraction=fraction,
                data=json_value(data),
            )
        )

    def emit(self, name: str, data: Any = None) -> None:
        """Put a ``custom`` event of the application's own into the run. Never blocks; works from any thread.

        ``data`` is turned into JSON as a result is; raises `OutputUnusable` where that cannot be.
        """
        self.publish(CustomEvent(step=self.step, name=name, data=json_value(data)))
