"""When a provider is asked again before its first token, and after how long: a policy over tenacity.

The OpenAI client's own retries are switched off under it, or requests would multiply (three for each of
ours).
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import tenacity

from streamchat.core.given import check_number
from streamchat.errors import ModelError
from streamchat.models.base import ModelRetry

__all__ = ["RetryPolicy", "retries_off"]

logger = logging.getLogger(__name__)

# How many `retries_off` blocks are open, in the whole process.
_off = 0


@contextmanager
def retries_off() -> Iterator[None]:
    """Switch the retries of all models off inside the block, in the whole process; made for tests."""
    global _off
    _off += 1
    try:
        yield
    finally:
        _off -= 1


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently a model is asked again while nothing of its answer has been seen.

    At most ``attempts`` requests are sent (1: no retries). The n-th wait is ``initial · 2ⁿ⁻¹`` seconds, at
    most ``maximum``, of which a random half is taken off; a provider's ``Retry-After`` is waited for in full,
    and up to ``initial`` seconds more, so that those who were refused together do not return together. No
    request starts ``deadline`` seconds or more after the first one did; a ``Retry-After`` beyond it ends the
    retries at once, and the error says how long the provider asked to wait.

    Only errors that are ``retryable`` are retried: connections, timeouts, 408, 409, 429 (unless the quota is
    used up) and 5xx. Each wait is announced by a `ModelRetry` and logged as a warning of
    ``streamchat.models.retry``.
    """

    attempts: int = 4
    initial: float = 0.5
    maximum: float = 20.0
    deadline: float = 150.0

    def __post_init__(self) -> None:
        check_number("attempts", self.attempts, least=1, whole=True)
        for name in ("initial", "maximum", "deadline"):
            check_number(name, getattr(self, name), least=0)

    @classmethod
    def off(cls) -> RetryPolicy:
        """A policy that asks once."""
        return cls(attempts=1)

    def start(self, notices: list[ModelRetry]) -> tenacity.AsyncRetrying:
        """The attempts of one request, to be used as ``async for attempt in …: with attempt: …``.

        Before each attempt but the first, a notice is put into ``notices``; the caller waits as long as it
        says. (A notice must go out before the wait, and tenacity has no place for a yield.)
        """

        def announce(state: tenacity.RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome is not None else None
            code = error.code if isinstance(error, ModelError) else "provider_error"
            logger.warning(
                "attempt %d failed, next in %.2f s: %s", state.attempt_number, state.upcoming_sleep, error
            )
            notices.append(ModelRetry(state.attempt_number, state.upcoming_sleep, code))

        return tenacity.AsyncRetrying(
            sleep=_left_to_the_caller,
            stop=tenacity.stop_after_attempt(1 if _off else self.attempts)
            | tenacity.stop_before_delay(self.deadline),
            wait=self._wait,
            retry=tenacity.retry_if_exception(_retryable),
            before_sleep=announce,
            reraise=True,
        )

    def _wait(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        asked = error.retry_after if isinstance(error, ModelError) else None
        if asked:
            return asked + random.uniform(0, self.initial)
        backoff = min(self.maximum, self.initial * 2.0 ** min(state.attempt_number - 1, 60))
        return backoff * random.uniform(0.5, 1.0)


async def _left_to_the_caller(seconds: float) -> None:
    """Does not sleep."""


def _retryable(error: BaseException) -> bool:
    return isinstance(error, ModelError) and error.retryable
