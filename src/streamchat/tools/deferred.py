"""A result that comes later than the call: what a tool returns when it has only started a job."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Deferred"]


@dataclass(frozen=True, slots=True)
class Deferred:
    """Returned by a tool declared ``deferred=True``: the result is brought later, under ``ctx.job_id``.

    ``message`` is what the model is told meanwhile. ``expires_in`` is seconds; None leaves it to the service.
    """

    message: str | None = None
    expires_in: float | None = None
