"""A result that comes later than the call: what a tool returns when it has only started a job."""

from __future__ import annotations

from dataclasses import dataclass

from streamchat.core.given import check_instance, check_number
from streamchat.tools.values import LONGEST_WAIT

__all__ = ["Deferred"]


@dataclass(frozen=True, slots=True)
class Deferred:
    """Returned by a tool declared ``deferred=True``: the result is brought later, under ``ctx.job_id``.

    ``message`` is what the model is told while the job is at work. ``expires_in`` is seconds, after which the
    call has timed out; None takes the run's ``job_timeout``. What comes after the job is the tool's to
    declare (``wait_for_job``, ``after_job``).

    Raises `InvalidInput` for a ``message`` that is no text, and for an ``expires_in`` that is no number of
    seconds above 0 and of at most a hundred years.
    """

    message: str | None = None
    expires_in: float | None = None

    def __post_init__(self) -> None:
        check_instance("message", self.message, str, "text", none=True)
        check_number("expires_in", self.expires_in, above=0, most=LONGEST_WAIT, none=True)
