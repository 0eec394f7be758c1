"""What a client of another protocol asks for, whatever shape it came in, and how a `StreamChat` does it.

These clients send the conversation along as they know it. Their copy is never believed: what counts is the
stored log, and of a request only what is new is taken. That is one of three things: a user's message
(`NewMessage`), the wish to have an answer made anew (`Regenerate`), or `Answers` to what a run waits for.
System messages, earlier messages, and results of calls that wait for none are passed over; ids are looked up
in the conversation that the principal may read, so those of others are unknown.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from streamchat.buffers.base import MessageRecord
from streamchat.core.answers import Answer, awaited
from streamchat.core.fold import fold
from streamchat.core.state import RunState
from streamchat.errors import ConversationNotFound, RunNotFound, RunOver
from streamchat.events import StoredEvent, Wait
from streamchat.messages import ToolCallPart
from streamchat.principal import Principal
from streamchat.service.answers import decision, tool_result
from streamchat.service.chat import StreamChat
from streamchat.service.presence import OnDisconnect
from streamchat.service.status import Started

__all__ = [
    "Answers",
    "Approval",
    "Begun",
    "NewMessage",
    "NothingNew",
    "Regenerate",
    "ToolOutput",
    "Wanted",
    "carry_out",
    "messages_of",
    "run_of_message",
]

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A user's message: text, or Chat Completions parts.

    ``follows`` is the message before it where it takes the place of an earlier one (an edit; ``""``: it is
    the first); None where it follows what was said last, whatever the client believes that to be.
    """

    content: str | Sequence[Mapping[str, Any]]
    follows: str | None = None


@dataclass(frozen=True, slots=True)
class Regenerate:
    """The answer ``message_id`` (None: the newest one) is to be made anew, beside the old one."""

    message_id: str | None = None


@dataclass(frozen=True, slots=True)
class Approval:
    """A decision; ``call`` is the id of the call or of the approval. ``arguments`` replace the model's."""

    call: str
    approved: bool
    reason: str | None = None
    arguments: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """What a tool of the client's came to: ``output``, or ``error`` (text for the model)."""

    call: str
    output: Any = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers to what a run waits for: the run of ``message_id``, or the one that is active (None). ``shown``
    are the ids of the calls that the client knows."""

    given: Sequence[Approval | ToolOutput]
    message_id: str | None = None
    shown: Collection[str] = ()


Wanted: TypeAlias = NewMessage | Regenerate | Answers


@dataclass(frozen=True, slots=True)
class Begun:
    """The run to stream. ``known`` is its log as far as it went before the answers, empty for a new run;
    ``new`` is False where the idempotency key was known, and where a run goes on. ``took`` says that it took
    one of the answers; ``waits`` are what it waits for as before, where it took none."""

    run_id: str
    message_id: str
    conversation_id: str
    new: bool = True
    known: Sequence[StoredEvent] = ()
    took: bool = False
    waits: Sequence[Wait] = ()

    @classmethod
    def of(cls, started: Started) -> Begun:
        """Say it of a run that `StreamChat` has just started."""
        return cls(started.run_id, started.message_id, started.conversation_id, started.new)


class NothingNew(RunOver):
    """The run has ended, and nothing of what was sent is lost by that: the answer ``message_id`` is as the
    log ``known`` has it."""

    def __init__(self, message: str, *, run_id: str, message_id: str, known: Sequence[StoredEvent]) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.message_id = message_id
        self.known = known


async def carry_out(
    chat: StreamChat,
    conversation_id: str | None,
    wanted: Wanted,
    principal: Principal | None,
    *,
    idempotency_key: str | None = None,
    client_id: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    system_message: str | None = None,
    on_disconnect: OnDisconnect | None = None,
) -> Begun:
    """Do what is wanted in the conversation and say which run comes of it.

    Raises what `StreamChat.start`, `retry`, `resolve_approval` and `submit_tool_result` raise;
    `ConversationNotFound` and `RunNotFound` for ids that are unknown or another's; `RunOver` for answers of
    which the run, being over, wants none, as `NothingNew` where they say only what its log says.
    """
    if isinstance(wanted, NewMessage):
        started = await chat.start(
            conversation_id,
            wanted.content,
            principal,
            branch_at=wanted.follows,
            idempotency_key=idempotency_key,
            client_id=client_id,
            metadata=metadata,
            system_message=system_message,
            on_disconnect=on_disconnect,
        )
        return Begun.of(started)
    if conversation_id is None:
        raise ConversationNotFound("there is no conversation to go on with: none was named")
    if isinstance(wanted, Regenerate):
        run_id = await run_of_message(chat, conversation_id, wanted.message_id, principal)
        return Begun.of(await chat.retry(run_id, principal, idempotency_key=idempotency_key))
    return await _answer(chat, conversation_id, wanted, principal)


async def messages_of(
    chat: StreamChat, conversation_id: str, principal: Principal | None
) -> list[MessageRecord]:
    """Return all messages of a conversation, oldest first; none where it is unknown or another's."""
    rows: list[MessageRecord] = []
    try:
        while True:
            after = rows[-1].message_id if rows else None
            page = await chat.history(conversation_id, principal, after=after, limit=_PAGE)
            rows += page
            if len(page) < _PAGE:
                return rows
    except ConversationNotFound:
        return []


async def run_of_message(
    chat: StreamChat, conversation_id: str, message_id: str | None, principal: Principal | None
) -> str:
    """Return the id of the run that wrote an answer (None: the newest). Raises `RunNotFound`."""
    for row in reversed(await messages_of(chat, conversation_id, principal)):
        if row.role == "assistant" and row.run_id is not None and message_id in (None, row.message_id):
            return row.run_id
    raise RunNotFound(f"conversation {conversation_id!r:.100} has no answer {message_id!r:.100}")


async def _answer(
    chat: StreamChat, conversation_id: str, answers: Answers, principal: Principal | None
) -> Begun:
    run_id, message_id = await _asking_run(chat, conversation_id, answers.message_id, principal)
    known = await chat.whole_log(run_id, principal)
    state = fold(known)
    fitting = [(call, given) for given in answers.given if (call := _waiting(state, given)) is not None]
    if not fitting and state.over:
        message = f"run {run_id} is over and waits for nothing"
        if all(_is_told(state, given) for given in answers.given):
            raise NothingNew(message, run_id=run_id, message_id=message_id, known=known)
        raise RunOver(message)
    await chat.submit_answers(run_id, [_said(call, given) for call, given in fitting], principal)
    waits = state.waits if state.status == "suspended" and not fitting else ()
    took = bool(fitting)
    return Begun(run_id, message_id, conversation_id, new=False, known=known, took=took, waits=waits)


async def _asking_run(
    chat: StreamChat, conversation_id: str, message_id: str | None, principal: Principal | None
) -> tuple[str, str]:
    """The run that is answered, and the message that it writes."""
    if message_id is not None:
        return await run_of_message(chat, conversation_id, message_id, principal), message_id
    run = await chat.find(conversation_id, principal)
    if run is None:
        raise RunNotFound(f"in conversation {conversation_id!r:.100} no run is active")
    return run.run_id, run.message_id


def _waiting(state: RunState, given: Approval | ToolOutput) -> ToolCallPart | None:
    """Return the call that waits for just this; a copy of what was answered before finds none."""
    kind = "approval" if isinstance(given, Approval) else "tool_result"
    return next((call for call in _named(state, given) if awaited(call) == kind), None)


def _said(call: ToolCallPart, given: Approval | ToolOutput) -> Answer:
    if isinstance(given, Approval):
        return decision(call.call_id, given.approved, reason=given.reason, arguments=given.arguments)
    return tool_result(call.call_id, given.output, error=given.error)


def _is_told(state: RunState, given: Approval | ToolOutput) -> bool:
    """Whether a run that is over knew this, or would never have asked: then nobody's word came too late."""
    return all(_knew(call, given) for call in _named(state, given))


def _knew(call: ToolCallPart, given: Approval | ToolOutput) -> bool:
    if isinstance(given, Approval):
        return call.approval is None or call.approval.approved is given.approved
    succeeded = call.outcome in ("ok", "deferred")
    return call.executed_by != "client" or succeeded is (given.error is None)


def _named(state: RunState, given: Approval | ToolOutput) -> Iterator[ToolCallPart]:
    for call in state.calls:
        if given.call in (call.call_id, call.approval and call.approval.approval_id):
            yield call
