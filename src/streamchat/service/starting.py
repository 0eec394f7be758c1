"""What `StreamChat.start` writes: the stored request, the run, and the first messages of the turn."""

from __future__ import annotations

import hashlib
import inspect
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from typing import Any, TypeAlias

from streamchat.buffers.base import ConversationRecord, EventBuffer, MessageRecord, NewEvent, NewRun
from streamchat.errors import InvalidInput, StreamChatError
from streamchat.events import RunStarted, dump_json
from streamchat.messages import ModelMessage
from streamchat.orchestration.context import RunContext
from streamchat.principal import Principal
from streamchat.service.request import RunRequest, conversation_path, model_history, stored_content
from streamchat.tools import ClientTool, ToolRegistry

__all__ = ["Instructions", "PrepareMessages", "Turn", "TurnMaker"]

_PAGE = 1000

Instructions: TypeAlias = str | Callable[[RunContext], str | Awaitable[str | None] | None]
PrepareMessages: TypeAlias = Callable[
    [list[ModelMessage], RunContext], Sequence[ModelMessage] | Awaitable[Sequence[ModelMessage]]
]


@dataclass(frozen=True, slots=True)
class Turn:
    """What a client asked for: ``parts`` are the user's message as Chat Completions parts, checked.

    ``branch_at`` is the message that it follows (``""``: none) where that is not the conversation's leaf.
    ``history`` is what the client says was said before; it counts only where there is no conversation yet.
    """

    parts: list[dict[str, Any]]
    conversation_id: str | None = None
    principal: Principal | None = None
    idempotency_key: str | None = None
    metadata: Mapping[str, Any] | None = None
    system_message: str | None = None
    client_id: str | None = None
    grace: float | None = None
    branch_at: str | None = None
    history: tuple[ModelMessage, ...] = ()
    client_tools: tuple[ClientTool, ...] = ()
    output_type: str | None = None

    def leaf(self, known: ConversationRecord | None) -> str | None:
        """Return the message that this one follows, None for a first one."""
        if known is None:
            return None
        return known.leaf_id if self.branch_at is None else self.branch_at or None

    def digest(self) -> str:
        """Identify the body, so that an idempotency key that comes again with another one is noticed."""
        body: list[Any] = [self.conversation_id, self.parts, self.system_message, self.metadata]
        if self.branch_at is not None:
            body.append(self.branch_at)
        if self.history or self.client_tools:
            body.append([each.model_dump(mode="json") for each in (*self.history, *self.client_tools)])
        if self.output_type is not None:
            body.append({"output_type": self.output_type})
        return hashlib.sha256(dump_json(body)).hexdigest()


class TurnMaker:
    """Makes of a `Turn` the rows that `EventBuffer.create` is given."""

    def __init__(
        self,
        buffer: EventBuffer,
        model: str,
        tools: ToolRegistry,
        instructions: Instructions | None,
        prepare_messages: PrepareMessages | None,
        max_history: int,
    ) -> None:
        self._buffer = buffer
        self._model = model
        self._tools = tools
        self._instructions = instructions
        self._prepare_messages = prepare_messages
        self._max_history = max_history

    async def make(
        self, turn: Turn, known: ConversationRecord | None, *, later: bool = False
    ) -> tuple[NewRun, list[MessageRecord]]:
        """Return the run and its first messages; ``known`` is the conversation, if there is one already.

        With ``later`` it may be enqueued, and the model's messages are made when it begins (`complete`).
        """
        conversation_id = turn.conversation_id or uuid.uuid4().hex
        context = RunContext(
            run_id=uuid.uuid4().hex,
            conversation_id=conversation_id,
            message_id=uuid.uuid4().hex,
            principal=turn.principal,
        )
        message_id = context.message_id or ""
        user_message_id = uuid.uuid4().hex
        request = await self._request(context, turn, known, later=later)
        request = request.model_copy(update={"user_message_id": user_message_id})
        started = RunStarted(
            run_id=context.run_id,
            conversation_id=conversation_id,
            message_id=message_id,
            model=self._model,
        )
        text = next((part["text"] for part in turn.parts if part["type"] == "text"), "")
        run = NewRun(
            run_id=context.run_id,
            conversation_id=conversation_id,
            message_id=message_id,
            started=NewEvent.of(started),
            request=request.encode(),
            principal=turn.principal,
            idempotency_key=turn.idempotency_key,
            digest=turn.digest() if turn.idempotency_key is not None else None,
            title=" ".join(text.split())[:80] or None,
            enqueue=later,
            follows=None if turn.branch_at is not None else turn.leaf(known) or "",
        )
        return run, _first_messages(run, turn, user_message_id, known)

    async def complete(self, context: RunContext, request: RunRequest) -> RunRequest:
        """Return a request with the model's messages, which one that is for later lacks.

        A run before it is over by now, or waits for jobs alone. Raises `StreamChatError` where the message
        that it answers has gone, and what the application's own functions raise.
        """
        if not request.later or request.user_message_id is None:
            return request
        rows = await self.rows(context.conversation_id or "")
        path = conversation_path(rows, request.user_message_id)
        if not path:
            raise StreamChatError(f"the message {request.user_message_id} that it answers is not stored")
        history = [*model_history(self._newest(path[:-1])), *model_history(path[-1:])]
        messages = await self._messages(context, request.system_message, history)
        return request.model_copy(
            update={"messages": tuple(messages), "previous_runs": _runs_of(self._newest(path[:-1]))}
        )

    async def _request(
        self, context: RunContext, turn: Turn, known: ConversationRecord | None, *, later: bool
    ) -> RunRequest:
        """What the model will be given: the system prompt, the conversation so far, and the new message."""
        history = list(turn.history)
        path: list[MessageRecord] = []
        if known is not None:
            path = await self._path(known, turn)
            history = model_history(path)
        parts = turn.parts
        only_text = len(parts) == 1 and parts[0]["type"] == "text"
        history.append(ModelMessage(role="user", content=parts[0]["text"] if only_text else parts))
        # What was asked is there in any case, for a run that is stopped before it knows the rest.
        messages = history[-1:] if later else await self._messages(context, turn.system_message, history)
        return RunRequest(
            messages=tuple(messages),
            later=later,
            system_message=turn.system_message if later else None,
            tools={tool.name: tool.digest() for tool in self._tools},
            metadata=dict(turn.metadata) if turn.metadata else None,
            client_id=turn.client_id,
            grace=turn.grace,
            previous_message_id=turn.leaf(known),
            client_tools=turn.client_tools,
            output_type=turn.output_type,
            previous_runs=_runs_of(path),
        )

    async def _messages(
        self, context: RunContext, system_message: str | None, history: Sequence[ModelMessage]
    ) -> Sequence[ModelMessage]:
        prompts = (await self._system_prompt(context), system_message)
        messages = [ModelMessage(role="system", content=text) for text in prompts if text]
        messages += history
        if self._prepare_messages is None:
            return messages
        prepared = self._prepare_messages(messages, context)
        return await prepared if inspect.isawaitable(prepared) else prepared

    async def _path(self, known: ConversationRecord, turn: Turn) -> list[MessageRecord]:
        """The messages up to the turn's leaf, as far as the model is given them."""
        path = conversation_path(await self.rows(known.conversation_id), turn.leaf(known))
        if turn.branch_at and not path:
            raise InvalidInput(
                f"conversation {known.conversation_id} has no message {turn.branch_at[:80]!r} to branch at",
                field="branch_at",
            )
        return self._newest(path)

    async def rows(self, conversation_id: str) -> list[MessageRecord]:
        """Return all messages of a conversation; raises `ConversationNotFound`."""
        rows: list[MessageRecord] = []
        while page := await self._buffer.messages(
            conversation_id, after=rows[-1].message_id if rows else None, limit=_PAGE
        ):
            rows += page
            if len(page) < _PAGE:
                break
        return rows

    def _newest(self, path: Sequence[MessageRecord]) -> list[MessageRecord]:
        """At most ``max_history`` messages, the first one a user's."""
        return list(dropwhile(lambda row: row.role == "assistant", path[-self._max_history :]))

    async def _system_prompt(self, context: RunContext) -> str | None:
        if not callable(self._instructions):
            return self._instructions
        prompt = self._instructions(context)
        return await prompt if inspect.isawaitable(prompt) else prompt


def _runs_of(path: Sequence[MessageRecord]) -> tuple[str, ...]:
    return tuple(row.run_id for row in path if row.role == "assistant" and row.run_id is not None)


def _first_messages(
    run: NewRun, turn: Turn, user_message_id: str, known: ConversationRecord | None
) -> list[MessageRecord]:
    user = MessageRecord(
        message_id=user_message_id,
        conversation_id=run.conversation_id,
        run_id=run.run_id,
        role="user",
        status="complete",
        content=stored_content(turn.parts),
        parent_id=turn.leaf(known),
    )
    placeholder = MessageRecord(
        message_id=run.message_id,
        conversation_id=run.conversation_id,
        run_id=run.run_id,
        role="assistant",
        status="pending",
        content=b"[]",
        parent_id=user.message_id,
    )
    return [user, placeholder]
