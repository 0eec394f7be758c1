"""Every error that streamchat raises, under one root.

A message names the id, the value that was received and the remedy. None of these texts reaches a client by
itself: the HTTP layer answers with an error's ``code`` and a sentence of its own.
"""

from __future__ import annotations

__all__ = [
    "AnswerConflict",
    "AttachmentTooLarge",
    "BufferError",
    "BufferUnavailable",
    "Busy",
    "ConversationBusy",
    "ConversationMoved",
    "ConversationNotFound",
    "CursorInvalid",
    "IdempotencyConflict",
    "IllegalEvent",
    "InputsPending",
    "InvalidInput",
    "LeaseLost",
    "MissingDependency",
    "ModelError",
    "NotAuthorized",
    "NotRetryable",
    "RunNotFound",
    "RunOver",
    "StreamChatError",
    "TooManyRuns",
    "TooManyStarts",
    "ToolDefinitionError",
    "WaitNotFound",
]


class StreamChatError(Exception):
    """The root of all errors that this package raises on purpose.

    ``code`` is a stable word that programs may match on; the message is for the log.
    """

    code = "streamchat_error"


class MissingDependency(StreamChatError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""

    code = "missing_dependency"

    def __init__(self, feature: str, extra: str, module: str) -> None:
        super().__init__(
            f"{feature} needs the module {module!r}, which is not installed: "
            f"pip install 'streamchat[{extra}]'"
        )


class InvalidInput(StreamChatError, ValueError):
    """A value from outside does not fit; ``field`` says which one, dotted where it is nested."""

    code = "invalid_input"

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class AttachmentTooLarge(InvalidInput):
    """An image, sound or file of a user's message is larger than `ServiceLimits` allows."""

    code = "attachment_too_large"


class CursorInvalid(InvalidInput):
    """A cursor that is not of the form ``generation.seq``."""

    code = "invalid_cursor"


class IllegalEvent(StreamChatError):
    """An event stands where the lifecycle does not allow it (see `streamchat.core.lifecycle`)."""

    code = "illegal_event"


class ToolDefinitionError(InvalidInput):
    """A tool cannot be registered as it was declared; raised at registration, never in a run.

    ``field`` names the option, where it is one.
    """

    code = "tool_definition"


class ModelError(StreamChatError):
    """A model could not be asked, or its stream ended badly.

    ``code`` says what happened: ``connection``, ``timeout``, ``rate_limited``, ``authentication``,
    ``bad_request``, ``server_error``, ``stream_error``, ``incomplete_stream``, ``first_token_timeout``,
    ``idle_timeout`` or ``provider_error``. ``retryable`` says whether asking again may help, ``retry_after``
    after how many seconds at the earliest (None where the provider named no time), ``status`` is the HTTP
    status if there was one. The text may quote the provider and is for the log, not for clients.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "provider_error",
        retryable: bool = False,
        retry_after: float | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable
        self.retry_after = retry_after
        self.status = status


class BufferError(StreamChatError):
    """Something about the stored log; each cause has a class of its own."""

    code = "buffer"


class BufferUnavailable(BufferError):
    """The store could not be reached or refused to work; the same call may succeed later."""

    code = "buffer_unavailable"


class LeaseLost(BufferError):
    """Someone else holds the run's log now, or it is not where the holder left it; only a new claim helps."""

    code = "lease_lost"


class InputsPending(BufferError):
    """A run cannot be suspended while inputs for it wait unread; read them and go on."""

    code = "inputs_pending"


class RunNotFound(BufferError, LookupError):
    """No run of that id is stored (or the reader may not see it: the two are not told apart)."""

    code = "run_not_found"


class ConversationNotFound(BufferError, LookupError):
    """No conversation of that id is stored (or the reader may not see it)."""

    code = "conversation_not_found"


class RunOver(BufferError):
    """The run has ended, so it takes no more input."""

    code = "run_over"


class NotRetryable(StreamChatError):
    """A run, or a call of it, cannot be retried; ``reason`` is a stable word that clients may be told."""

    code = "not_retryable"

    def __init__(self, message: str, *, reason: str = "not_retryable") -> None:
        super().__init__(message)
        self.reason = reason


class AnswerConflict(BufferError):
    """The same question was answered before, and differently."""

    code = "answer_conflict"


class WaitNotFound(BufferError, LookupError):
    """An answer to something that the run never asked for."""

    code = "wait_not_found"


class IdempotencyConflict(BufferError):
    """An idempotency key was used before with another request body."""

    code = "idempotency_conflict"


class ConversationBusy(BufferError):
    """The conversation has a run that is not over; ``active_run_id`` names it."""

    code = "conversation_busy"

    def __init__(self, message: str, *, active_run_id: str) -> None:
        super().__init__(message)
        self.active_run_id = active_run_id


class ConversationMoved(BufferError):
    """The conversation has gone on since a message for it was made; make it anew, for the leaf that is there
    now."""

    code = "conversation_moved"


class Busy(StreamChatError):
    """The service takes no more runs at the moment; ``retry_after`` is in seconds."""

    code = "busy"

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TooManyRuns(Busy):
    """One principal has as many runs queued or at work as one may have."""

    code = "too_many_runs"


class TooManyStarts(Busy):
    """One principal has begun as many runs within a minute as one may."""

    code = "too_many_starts"


class NotAuthorized(StreamChatError):
    """`authorize` said no to something new; of what exists and is another's, the errors say that it does not
    exist."""

    code = "not_authorized"
