"""What a run that could not go on says: ``error`` events for clients, the exception for the log."""

from __future__ import annotations

import logging
import uuid

from streamchat.events import ErrorEvent, ErrorPhase
from streamchat.orchestration.limits import Reached
from streamchat.orchestration.options import Refuse

__all__ = ["failure_event", "limit_event", "refusal_event"]

log = logging.getLogger("streamchat.run")

# By the codes of `ModelError`. What is not here is nothing that a client could do anything about.
_MESSAGES = {
    "rate_limited": "The model is busy; please try again in a moment.",
    "timeout": "The model did not answer in time.",
    "first_token_timeout": "The model did not answer in time.",
    "idle_timeout": "The model stopped answering.",
    "incomplete_stream": "The model's answer broke off.",
    "stream_error": "The model's answer broke off.",
    "connection": "The model could not be reached.",
    "server_error": "The model is not available at the moment.",
    "invalid_output": "The model's answer does not have the form that was asked for.",
    "refused": "The model refused to answer.",
    "cut_off": "The answer was cut off and cannot be continued.",
}


def failure_event(
    run_id: str,
    phase: ErrorPhase,
    code: str,
    error: BaseException,
    *,
    step: int | None,
    retryable: bool = False,
) -> ErrorEvent:
    """Log ``error`` and return the event that stands for it; its ``correlation_id`` leads to the log."""
    correlation_id = uuid.uuid4().hex[:16]
    log.error(
        "run %s failed in step %s, phase %s: %s (correlation id %s)",
        run_id, step, phase, code, correlation_id,
        exc_info=error, extra={"run_id": run_id, "correlation_id": correlation_id},
    )  # fmt: skip
    return ErrorEvent(
        step=step,
        phase=phase,
        code=code,
        message=_MESSAGES.get(code, "The answer could not be finished."),
        retryable=retryable,
        correlation_id=correlation_id,
    )


def limit_event(run_id: str, reached: Reached, *, step: int | None) -> ErrorEvent:
    """Return the event for a limit that ends the run."""
    log.warning("run %s: limit %s reached in step %s", run_id, reached.code, step, extra={"run_id": run_id})
    return ErrorEvent(step=step, phase="limit", code=reached.code, message=reached.message)


def refusal_event(refused: Refuse, *, step: int | None = None) -> ErrorEvent:
    """Return the event for a hook's refusal of the run or of a step."""
    return ErrorEvent(step=step, phase="orchestration", code=refused.code, message=refused.message)
