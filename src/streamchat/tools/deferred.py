"""A result that comes later than the call: what a tool returns when it has only started a job."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Deferred"]


@dataclass(frozen=True, slots=True)
class Deferred:
    """Returned by a tool declared ``deferred=True``: the result is brought later, under ``ctx.job_id``.

    ``message`` is what the model is told while the job is at work. ``expires_in`` is seconds, after which the
    call has timed out; None takes the run's ``job_timeout``. What comes after the job is the tool's to
    declare (``wait_for_job``, ``after_job``).
    """

    message: str | None = None
    expires_in: float | None = None
