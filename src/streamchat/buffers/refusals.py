"""The errors that every buffer raises, worded once: what was asked, what stands there, and the remedy."""

from __future__ import annotations

from collections.abc import Collection

from streamchat.buffers.base import Input, Lease
from streamchat.errors import (
    AnswerConflict,
    ConversationBusy,
    ConversationMoved,
    ConversationNotFound,
    IdempotencyConflict,
    InputsPending,
    InvalidInput,
    LeaseLost,
    RunNotFound,
    RunOver,
)

__all__ = [
    "answered_otherwise",
    "cannot_be_stored",
    "conversation_busy",
    "conversation_deleted",
    "conversation_foreign",
    "conversation_moved",
    "conversation_unknown",
    "inputs_pending",
    "key_used",
    "lease_lost",
    "message_id_taken",
    "name_unknown",
    "one_selector",
    "run_id_taken",
    "run_over",
    "run_unknown",
    "unwritten",
]


def key_used(key: str | None, first_run_id: str) -> IdempotencyConflict:
    """The idempotency key came with another body before."""
    return IdempotencyConflict(
        f"the idempotency key {key!r} was used for run {first_run_id!r} with another body: "
        f"take a new key for a new request"
    )


def run_id_taken(run_id: str) -> InvalidInput:
    """The id belongs to another run, or did before that was deleted."""
    return InvalidInput(f"the run id {run_id!r} was used before: take a new one", field="run_id")


def message_id_taken(message_id: str) -> InvalidInput:
    """The id belongs to a message of another conversation."""
    return InvalidInput(
        f"the message id {message_id!r} was used in another conversation: take a new one", field="message_id"
    )


def conversation_unknown(conversation_id: str) -> ConversationNotFound:
    """Nothing is stored under that id."""
    return ConversationNotFound(f"conversation {conversation_id!r} is not stored")


def conversation_deleted(conversation_id: str) -> ConversationNotFound:
    """The conversation was deleted; its id is not taken again."""
    return ConversationNotFound(f"conversation {conversation_id!r} was deleted: begin a new one")


def conversation_foreign(conversation_id: str) -> ConversationNotFound:
    """The conversation is somebody else's."""
    return ConversationNotFound(f"conversation {conversation_id!r} belongs to another principal")


def conversation_busy(conversation_id: str, active_run_id: str) -> ConversationBusy:
    """The conversation's slot is taken."""
    return ConversationBusy(
        f"conversation {conversation_id!r} has the active run {active_run_id!r}: "
        f"wait for its end, or cancel it",
        active_run_id=active_run_id,
    )


def conversation_moved(conversation_id: str, follows: str | None) -> ConversationMoved:
    """The new messages do not follow the conversation's leaf any more."""
    return ConversationMoved(
        f"conversation {conversation_id!r} has gone on behind {follows!r}: make the message anew"
    )


def lease_lost(lease: Lease, generation: str | None, head_seq: int) -> LeaseLost:
    """The log is not where the holder left it; ``generation`` is None where there is no such run."""
    found = "which is not stored" if generation is None else f"which is at {generation}.{head_seq}"
    return LeaseLost(
        f"worker {lease.worker!r} holds {lease.generation}.{lease.head_seq} of run {lease.run_id!r}, "
        f"{found}: only a new claim helps"
    )


def inputs_pending(run_id: str, waiting: Collection[str] | int) -> InputsPending:
    """The run cannot be suspended: somebody has answered already."""
    return InputsPending(f"run {run_id!r} has unread inputs ({waiting}): read them and go on")


def run_unknown(run_id: str) -> RunNotFound:
    """Nothing is stored under that id."""
    return RunNotFound(f"run {run_id!r} is not stored")


def run_over(run_id: str, status: str, posted: Input) -> RunOver:
    """The run has ended before the input came."""
    return RunOver(f"run {run_id!r} is over ({status}): it takes no {posted.kind!r} any more")


def answered_otherwise(run_id: str, posted: Input) -> AnswerConflict:
    """The question was answered before, with another body."""
    return AnswerConflict(
        f"run {run_id!r}: the {posted.kind!r} for {posted.key!r} was posted before with another body"
    )


def name_unknown(after: str) -> InvalidInput:
    """A page was asked for behind something that is not on the list."""
    return InvalidInput(
        f"after={after!r} names nothing on this list: start again from the top", field="after"
    )


def cannot_be_stored(cause: Exception) -> InvalidInput:
    """The database does not take an id or a type; ``cause`` is what the driver says."""
    if isinstance(cause, UnicodeEncodeError):
        # Its own text quotes what was to be encoded: with some drivers the whole statement, values included.
        said = f"it holds U+{ord(cause.object[cause.start]):04X}"
    else:
        said = f"{str(cause.args[-1] if cause.args else cause).partition(chr(10))[0]:.300}"
    return InvalidInput(
        f"an id or a type is not text that can be stored ({said}): give at most 191 characters, without NUL "
        f"and lone surrogates"
    )


def unwritten(change: bool) -> str:
    """How a failure's text ends where it was a ``change`` that failed, and not a look or the opening."""
    return ". Nothing of this change was written" if change else ""


def one_selector() -> InvalidInput:
    """`delete` was called with none, or several, of its selectors."""
    return InvalidInput("delete() needs exactly one of run_id, conversation_id and owner")
