"""`StreamChat`: what an application holds. It starts runs, hands them to readers, supervises the work."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from streamchat.buffers.base import (
    ConversationRecord,
    EventBuffer,
    Input,
    MessageRecord,
    Page,
    RunRecord,
)
from streamchat.buffers.memory import MemoryEventBuffer
from streamchat.core.cursor import parse_cursor
from streamchat.core.fold import Folder
from streamchat.errors import (
    ConversationNotFound,
    InvalidInput,
    RunOver,
    StreamChatError,
)
from streamchat.events import StoredEvent
from streamchat.models.base import Model
from streamchat.orchestration.context import RunContext
from streamchat.orchestration.options import RunOptions
from streamchat.principal import Principal
from streamchat.service.access import Authorize, Gate, Resource, owns
from streamchat.service.attaching import Attachment
from streamchat.service.driver import DriverOptions, read_log
from streamchat.service.hub import HistoryReset, Hub, Subscription
from streamchat.service.request import user_content
from streamchat.service.starting import Instructions, PrepareMessages, Turn, TurnMaker
from streamchat.service.status import RunStatus, Started
from streamchat.service.summary import RunSummary
from streamchat.service.supervisor import Supervisor
from streamchat.service.working import RunWorker
from streamchat.tools import ToolRegistry

__all__ = ["ServiceLimits", "StreamChat"]

log = logging.getLogger("streamchat.service")


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """What a process takes on, and what a client may send.

    ``max_runs`` are at work at once, ``max_queue`` wait in this process. ``drain_seconds`` is how long
    `close` lets runs finish. ``max_body_bytes`` and ``max_message_chars`` bound a request. Of a long
    conversation the model is given the newest ``max_history_messages``.
    """

    max_runs: int = 100
    max_queue: int = 1000
    drain_seconds: float = 5.0
    max_body_bytes: int = 1_000_000
    max_message_chars: int = 200_000
    max_history_messages: int = 1000


class StreamChat:
    """Runs, conversations and their readers over one `EventBuffer`.

    ``authorize(principal, action, resource)`` is asked on every verb (`streamchat.service.access`); what it
    forbids looks like what does not exist. Without it construction fails, unless ``allow_anonymous`` is True:
    then everybody has what is theirs, and those without a principal share what was made without one.

    ``instructions`` is the system prompt: text, or a function of the run's context. ``prepare_messages`` may
    cut or change the messages that the model is given. ``deps`` makes, for each run in this process, what
    tools find in ``ctx.deps``. ``on_run_finished`` gets a `RunSummary`. Functions may be sync or async.

    Use it as an async context manager, or call `open` and `close`; both are idempotent. It works for one
    event loop.
    """

    def __init__(
        self,
        *,
        model: Model,
        tools: ToolRegistry | None = None,
        buffer: EventBuffer | None = None,
        authorize: Authorize | None = None,
        allow_anonymous: bool = False,
        instructions: Instructions | None = None,
        prepare_messages: PrepareMessages | None = None,
        options: RunOptions | None = None,
        deps: Callable[[RunContext], Any] | None = None,
        limits: ServiceLimits | None = None,
        on_run_finished: Callable[[RunSummary], Any] | None = None,
        on_disconnect: str = "continue",
        on_busy: str = "reject",
        allow_system_message: bool = False,
        streaming: bool | Callable[[Principal | None], bool] = True,
        worker: str | None = None,
        lease_ttl: float = 15.0,
    ) -> None:
        if authorize is None and not allow_anonymous:
            raise StreamChatError(
                "StreamChat needs to know who may do what: pass authorize= "
                "(streamchat.owns for the usual case), or allow_anonymous=True"
            )
        if on_disconnect != "continue" or on_busy != "reject":
            raise InvalidInput(
                f"on_disconnect={on_disconnect!r}, on_busy={on_busy!r}: "
                "this version knows 'continue' and 'reject'"
            )
        self.model = model
        self.tools = tools or ToolRegistry()
        self.buffer: EventBuffer = buffer if buffer is not None else MemoryEventBuffer()
        self.options = options or RunOptions()
        self.limits = limits or ServiceLimits()
        if not isinstance(self.limits, ServiceLimits):
            raise InvalidInput(
                f"limits={limits!r:.100}: give ServiceLimits here; the limits of one run go into "
                "options=RunOptions(limits=Limits(…))",
                field="limits",
            )
        self.allow_anonymous = allow_anonymous
        self.worker = worker or f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self.hub = Hub(self.buffer)
        self._access = Gate(self.buffer, authorize or owns)
        self._turns = TurnMaker(
            self.buffer,
            model.name,
            self.tools,
            instructions,
            prepare_messages,
            self.limits.max_history_messages,
        )
        self._worker = RunWorker(
            self.worker,
            self.buffer,
            self.hub,
            model,
            self.tools,
            self.options,
            DriverOptions(lease_ttl=lease_ttl),
            deps=deps,
            on_run_finished=on_run_finished,
        )
        self._allow_system_message = allow_system_message
        self._streaming = streaming
        self._supervisor: Supervisor | None = None
        self._opening = asyncio.Lock()

    # Its own life.

    async def open(self) -> Self:
        """Open the buffer and begin to work. Raises `BufferUnavailable` with what to do."""
        async with self._opening:
            if self._supervisor is None:
                await self.buffer.open()
                lease_ttl = self._worker.driver_options.lease_ttl
                self.hub.leaving = False
                self._supervisor = Supervisor(
                    self.buffer,
                    self.worker,
                    self._worker.work,
                    lease_ttl=lease_ttl,
                    max_runs=self.limits.max_runs,
                    max_queue=self.limits.max_queue,
                    look_every=min(5.0, lease_ttl / 2),
                )
                self._supervisor.start()
        return self

    async def drain(self, seconds: float | None = None) -> None:
        """Take no more runs, let what runs finish for ``seconds`` (the limits' by default), hand over the
        rest, and send away who still reads."""
        if self._supervisor is not None:
            await self._supervisor.drain(self.limits.drain_seconds if seconds is None else seconds)
            self.hub.farewell()

    async def close(self) -> None:
        """Drain, end all readers and close the buffer."""
        async with self._opening:
            if self._supervisor is None:
                return
            await self.drain()
            await self._worker.close()
            await self.hub.close()
            await self.buffer.close()
            self._supervisor = None

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def draining(self) -> bool:
        """Whether it takes no more runs."""
        return self.hub.leaving or (self._supervisor is not None and self._supervisor.draining)

    def streams_for(self, principal: Principal | None) -> bool:
        """Whether this principal is given streams."""
        return self._streaming(principal) if callable(self._streaming) else self._streaming

    # Starting.

    async def start(
        self,
        conversation_id: str | None,
        message: str | Sequence[Mapping[str, Any]],
        principal: Principal | None = None,
        *,
        idempotency_key: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        system_message: str | None = None,
        client_id: str | None = None,
    ) -> Started:
        """Make the user's message, the assistant's placeholder and the run durable, and answer at once.

        Without ``conversation_id`` a conversation is made. Raises `InvalidInput` (with ``field``), `Busy`,
        `ConversationBusy`, `ConversationNotFound` (also for another's), `IdempotencyConflict`,
        `BufferUnavailable`; nothing is written then.
        """
        supervisor = self._opened()
        parts = user_content(message, self.limits.max_message_chars)
        if system_message is not None and not self._allow_system_message:
            raise InvalidInput("a system message is not taken from clients here", field="system_message")
        if conversation_id is not None and not (conversation_id.isascii() and 0 < len(conversation_id) <= 64):
            raise InvalidInput(
                f"a conversation id has 1 to 64 ASCII characters, not {conversation_id[:80]!r}",
                field="conversation_id",
            )
        with supervisor.room():
            known = await self._gate.conversation_to_start_in(conversation_id, principal)
            turn = Turn(
                parts, conversation_id, principal, idempotency_key, metadata, system_message, client_id
            )
            run, messages = await self._turns.make(turn, known)
            created = await self.buffer.create(run, messages)
            if created.new:
                supervisor.submit(created.run.run_id)
        return Started(
            created.run.run_id, created.run.message_id, created.run.conversation_id, new=created.new
        )

    # Reading.

    def attach(self, run_id: str, after: str | None = None, principal: Principal | None = None) -> Attachment:
        """Read a run from the cursor ``after`` (exclusive; None is the start); see `Attachment` for how.

        Using it raises `CursorInvalid`, `RunNotFound` (also for another's run), `BufferUnavailable`.
        """

        async def subscribe() -> Subscription:
            cursor = None if after is None else parse_cursor(after)
            await self._gate.run(run_id, principal, "read")
            return await self.hub.subscribe(run_id, cursor)

        return Attachment(subscribe)

    async def ask(
        self,
        conversation_id: str | None,
        message: str | Sequence[Mapping[str, Any]],
        principal: Principal | None = None,
        **options: Any,
    ) -> AsyncGenerator[StoredEvent | HistoryReset, None]:
        """`start` a run and yield what it brings until it is over; leaving early does not end the run.

        Raises what `start` raises, and `Busy` when this process shuts down before the end.
        """
        started = await self.start(conversation_id, message, principal, **options)
        async with aclosing(self.attach(started.run_id, principal=principal).events()) as events:
            async for event in events:
                yield event

    async def reply(
        self,
        conversation_id: str | None,
        message: str | Sequence[Mapping[str, Any]],
        principal: Principal | None = None,
        **options: Any,
    ) -> RunStatus:
        """`start` a run and wait for its end, or until it is suspended; return its status with the answer.

        Raises what `start` raises, and `Busy` when this process shuts down before the end.
        """
        started = await self.start(conversation_id, message, principal, **options)
        async with aclosing(self.attach(started.run_id, principal=principal).events()) as events:
            async for event in events:
                if event.type == "suspended":
                    break
        return await self.status(started.run_id, principal)

    async def status(self, run_id: str, principal: Principal | None = None) -> RunStatus:
        """Return what the run's log amounts to. Raises `RunNotFound`."""
        run = await self._gate.run(run_id, principal, "read")
        events = await read_log(self.buffer, run_id)
        folder = Folder()
        for event in events:
            folder.add(event)
        return RunStatus(run_id, run.conversation_id, run.message_id, folder.state, events[-1].id)

    async def events(
        self, run_id: str, principal: Principal | None = None, *, after: int = 0, limit: int = 100
    ) -> Page:
        """Return a page of the log: events with seq above ``after``. Raises `RunNotFound`."""
        await self._gate.run(run_id, principal, "read")
        return await self.buffer.read(run_id, after, limit)

    async def history(
        self,
        conversation_id: str,
        principal: Principal | None = None,
        *,
        after: str | None = None,
        limit: int = 100,
    ) -> list[MessageRecord]:
        """Return the messages behind the one named ``after``. Raises `ConversationNotFound`."""
        await self._gate.conversation(conversation_id, principal, "read")
        return await self.buffer.messages(conversation_id, after=after, limit=limit)

    async def conversations(
        self, principal: Principal | None = None, *, after: str | None = None, limit: int = 50
    ) -> list[ConversationRecord]:
        """Return the principal's own conversations, most recently changed first, behind the one named
        ``after``."""
        owner = principal.id if principal else None
        tenant = principal.tenant if principal else None
        if not await self._gate.allows(principal, "list", Resource(owner, tenant)):
            return []
        return await self.buffer.conversations(owner, tenant, after=after, limit=limit)

    async def find(self, conversation_id: str, principal: Principal | None = None) -> RunRecord | None:
        """Return the conversation's newest run that is not over; None also for an unknown or foreign
        conversation."""
        try:
            await self._gate.conversation(conversation_id, principal, "read")
        except ConversationNotFound:
            return None
        return await self.buffer.find(conversation_id)

    # Stopping.

    async def cancel(
        self, run_id: str, principal: Principal | None = None, *, reason: str | None = None
    ) -> None:
        """Ask the run to stop, wherever it is worked on. Idempotent, also after its end. Raises
        `RunNotFound`."""
        supervisor = self._opened()
        await self._gate.run(run_id, principal, "cancel")
        posted = Input(
            "cancel", body={"reason": reason} if reason else {}, by=principal.id if principal else None
        )
        try:
            await self.buffer.post(run_id, posted)
        except RunOver:
            return
        if supervisor.driven(run_id):
            supervisor.poke(run_id)
        else:
            await self._worker.cancel_unheld(run_id, posted)

    @property
    def _gate(self) -> Gate:
        self._opened()
        return self._access

    def _opened(self) -> Supervisor:
        if self._supervisor is None:
            raise StreamChatError(
                "StreamChat is not open: use `async with chat:`, the adapter's lifespan, or await chat.open()"
            )
        return self._supervisor
