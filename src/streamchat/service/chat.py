"""`StreamChat`: what an application holds. It starts runs, hands them to readers, supervises the work."""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel

from streamchat.buffers.base import EventBuffer, Input
from streamchat.buffers.memory import MemoryEventBuffer
from streamchat.buffers.notes import LocalNotes, notes_of
from streamchat.core.given import check_instance
from streamchat.errors import (
    Busy,
    RunOver,
    StreamChatError,
)
from streamchat.events import StoredEvent
from streamchat.models.base import Model
from streamchat.orchestration.context import RunContext
from streamchat.orchestration.options import RunOptions
from streamchat.orchestration.workflow_run import tools_of
from streamchat.principal import Principal
from streamchat.service.access import Authorize, Gate, owns
from streamchat.service.answers import AnsweringVerbs
from streamchat.service.beginning import StartingVerbs
from streamchat.service.deleting import Deleter, DeletingVerbs
from streamchat.service.delivering import NOTE as MESSAGES
from streamchat.service.delivering import Delivery, MessageStore
from streamchat.service.driver import DriverOptions
from streamchat.service.housekeeping import Housekeeper
from streamchat.service.hub import HistoryReset, Hub
from streamchat.service.limits import ServiceLimits
from streamchat.service.outputs import named_types
from streamchat.service.presence import NOTE as PRESENCE
from streamchat.service.presence import OnDisconnect, PresenceKeeper, grace_of
from streamchat.service.settings import check_settings
from streamchat.service.shares import Shares
from streamchat.service.starting import Instructions, PrepareMessages, TurnMaker
from streamchat.service.status import RunStatus
from streamchat.service.stopping import OnBusy, Stopper, known_policy
from streamchat.service.summary import RunSummary
from streamchat.service.supervisor import Supervisor
from streamchat.service.titling import MakeTitle, Titler
from streamchat.service.working import RunWorker
from streamchat.tools import ToolRegistry

__all__ = ["ServiceLimits", "StreamChat"]


class StreamChat(StartingVerbs, DeletingVerbs, AnsweringVerbs):
    """Runs, conversations and their readers over one `EventBuffer`.

    ``authorize(principal, action, resource)`` is asked on every verb (`streamchat.service.access`); what it
    forbids looks like what does not exist. Without it construction fails, unless ``allow_anonymous`` is True:
    then everybody has what is theirs, and those without a principal share what was made without one.

    ``instructions`` is the system prompt: text, or a function of the run's context. ``prepare_messages`` may
    cut or change the messages that the model is given. ``deps`` makes, for each run in this process, what
    tools find in ``ctx.deps``. ``on_run_finished`` gets a `RunSummary`. Functions may be sync or async.
    ``title(context, messages)`` is asked, once the first run of a conversation is over, for its title (None:
    the first words of its first message stay); ``messages`` end with the answer.
    ``message_store`` is the application's own table of messages (`MessageStore`).

    ``on_disconnect`` says what becomes of a run when its last reader, in any process, has left: ``continue``,
    ``cancel``, or seconds in which one may come back. What was never read, or is suspended, goes on.
    ``on_busy`` says what becomes of a message to a conversation that is being answered: ``reject`` refuses it
    (`ConversationBusy`), ``enqueue`` has it answered when all before it is over, ``interrupt`` cancels first
    what is at work, waits for somebody, or is enqueued.
    ``allow_system_message`` takes a system message of a client's, ``allow_file_ids`` files that it names by
    the provider's ids: all users' are in the application's one account there, so see to it that it is theirs
    (`Hooks.guard_input`). ``client_conversation_ids`` lets clients begin conversations under ids of their
    own; without, one that is unknown is not found, as another's is. ``streaming`` says who is given streams.
    ``output_types``, the same in each process, are those that `start` may ask an answer to have. With
    ``work=False`` runs are left to other processes (``streamchat worker``). From ``job_secret``, the same in
    every process, each background job's own secret is made, for ``POST /jobs/{job_id}``.

    Raises `InvalidInput`, with ``field``, for an argument of another type than it says.

    Use it as an async context manager, or call `open` and `close`; both are idempotent. It works for one
    event loop, the one that it was opened in: another is refused with `StreamChatError`, as its tasks and
    locks would never wake there.
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
        title: MakeTitle | None = None,
        options: RunOptions | None = None,
        output_types: Sequence[type[BaseModel]] = (),
        deps: Callable[[RunContext], Any] | None = None,
        limits: ServiceLimits | None = None,
        on_run_finished: Callable[[RunSummary], Any] | None = None,
        message_store: MessageStore | None = None,
        on_disconnect: OnDisconnect = "continue",
        on_busy: OnBusy = "reject",
        allow_system_message: bool = False,
        allow_file_ids: bool = False,
        client_conversation_ids: bool = True,
        streaming: bool | Callable[[Principal | None], bool | Awaitable[bool]] = True,
        work: bool = True,
        worker: str | None = None,
        job_secret: str | None = None,
        lease_ttl: float = 15.0,
    ) -> None:
        check_settings(locals())
        if authorize is None and not allow_anonymous:
            raise StreamChatError(
                "StreamChat needs to know who may do what: pass authorize= "
                "(streamchat.owns for the usual case), or allow_anonymous=True"
            )
        self._on_busy = known_policy(on_busy)
        self._grace = grace_of(on_disconnect)
        self._job_key = job_secret.encode() if job_secret else None
        self.model = model
        self.tools = tools or ToolRegistry()
        tools_of(model, self.tools)  # a workflow's tool of the same name is refused here, not in every run
        self.buffer: EventBuffer = buffer if buffer is not None else MemoryEventBuffer()
        self.options = options or RunOptions()
        self.output_types = named_types(output_types)
        self.limits = limits or ServiceLimits()
        self.allow_anonymous = allow_anonymous
        self.worker = worker or f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self.hub = Hub(self.buffer)
        self._access = Gate(self.buffer, authorize or owns, client_ids=client_conversation_ids)
        self._turns = TurnMaker(
            self.buffer,
            model.name,
            self.tools,
            instructions,
            prepare_messages,
            self.limits.max_history_messages,
        )
        notes = notes_of(self.buffer)
        self._delivery = Delivery(message_store, self.buffer, notes)
        # Without notes in the store, who is connected is known in this process only.
        self._notes = notes or LocalNotes()
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
            deliver=self._delivery.deliver,
            titler=Titler(self.buffer, title),
            complete=self._turns.complete,
            output_types=self.output_types,
        )
        self._stopper = Stopper(self.buffer, self._cancel)
        self._shares = Shares(
            self.buffer, self.limits.max_runs_per_principal, self.limits.max_starts_per_minute
        )
        self._deleter = Deleter(self.buffer, self._stopper, self.limits.delete_seconds)
        self._works = work
        self._allow_system_message = allow_system_message
        self._allow_file_ids = allow_file_ids
        self._streaming = streaming
        self._supervisor: Supervisor | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # that of the supervisor's tasks
        self._presence = self._make_presence()
        self._housekeeper: Housekeeper | None = None
        self._closed = False
        self._opening = asyncio.Lock()

    # Its own life.

    async def open(self, *, work: bool | None = None, look_every: float | None = None) -> Self:
        """Open the buffer and begin to work; ``work`` and ``look_every`` (`ServiceLimits`) take the place of
        what was given at construction.

        Raises `BufferUnavailable` with what to do.
        """
        async with self._opening:
            self._check_loop()
            if self._supervisor is None:
                self._loop = asyncio.get_running_loop()
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
                    look_every=look_every or self.limits.look_every or min(5.0, lease_ttl / 2),
                    working=self._works if work is None else work,
                )
                self._supervisor.start()
                self._presence = self._make_presence()
                self._presence.start()
                self._housekeeper = self._make_housekeeper()
                self._housekeeper.start()
                self._closed = False
        return self

    async def drain(self, seconds: float | None = None) -> None:
        """Take no more runs, let what runs finish for ``seconds`` (the limits' by default), hand over the
        rest, and send away who still reads."""
        self._check_loop()
        if self._supervisor is not None:
            await self._supervisor.drain(self.limits.drain_seconds if seconds is None else seconds)
            self.hub.farewell()

    async def close(self) -> None:
        """Drain, end all readers and close the buffer."""
        async with self._opening:
            self._check_loop()
            if self._supervisor is None:
                return
            self._closed = True
            await self.drain()
            if self._housekeeper is not None:
                await self._housekeeper.stop()
            await self._presence.stop()
            await self._worker.close()
            await self._delivery.close()
            await self.hub.close()
            await self.buffer.close()
            self._supervisor = None

    def _make_presence(self) -> PresenceKeeper:
        async def cancel(run_id: str) -> None:
            await self._cancel(run_id, Input("cancel", body={"reason": "disconnected"}))

        return PresenceKeeper(self._notes, self.buffer.get, cancel, ttl=self.limits.presence_ttl)

    def _make_housekeeper(self) -> Housekeeper:
        ttl = self.limits.presence_ttl
        return Housekeeper(
            self.buffer,
            self._notes,
            {
                PRESENCE: lambda note: self._presence.settle(note.run_id),
                MESSAGES: self._delivery.redeliver,
            },
            sweep_every=ttl / 3,
            first_sweep=ttl,
            retention=self.limits.retention_seconds,
        )

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Be open for as long as an application runs: ``FastAPI(lifespan=chat.lifespan)``.

        Inside a lifespan of the application's own, ``async with chat:`` does the same.
        """
        async with self:
            yield

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

    async def streams_for(self, principal: Principal | None) -> bool:
        """Whether this principal is given streams."""
        answer = self._streaming(principal) if callable(self._streaming) else self._streaming
        return bool(await answer if inspect.isawaitable(answer) else answer)

    # Reading.

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
        reading = self.attach(started.run_id, principal=principal, client_id=options.get("client_id"))
        async with aclosing(reading.events()) as events:
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
        reading = self.attach(started.run_id, principal=principal, client_id=options.get("client_id"))
        async with aclosing(reading.events()) as events:
            async for event in events:
                if event.type == "suspended":
                    break
        return await self.status(started.run_id, principal)

    # Stopping.

    async def cancel(
        self, run_id: str, principal: Principal | None = None, *, reason: str | None = None
    ) -> None:
        """Ask the run to stop, wherever it is worked on. Idempotent, also after its end. Raises
        `RunNotFound`."""
        check_instance("reason", reason, str, "text, or leave it out", none=True)
        await self._gate.run(run_id, principal, "cancel")
        posted = Input(
            "cancel", body={"reason": reason} if reason else {}, by=principal.id if principal else None
        )
        await self._cancel(run_id, posted)

    async def _cancel(self, run_id: str, posted: Input) -> None:
        supervisor = self._opened()
        try:
            await self.buffer.post(run_id, posted)
        except RunOver:
            return
        if supervisor.driven(run_id):
            supervisor.poke(run_id)
        else:
            await self._worker.cancel_unheld(run_id, posted)
            supervisor.look()  # its place in the conversation may be another's now

    def _opened(self) -> Supervisor:
        if self._supervisor is None:
            if self._closed:
                raise Busy("this StreamChat is closed: it takes nothing more, another process may")
            raise StreamChatError(
                "StreamChat is not open: use `async with chat:`, the adapter's lifespan, or await chat.open()"
            )
        self._check_loop()
        return self._supervisor

    def _check_loop(self) -> None:
        if self._supervisor is None or self._loop is asyncio.get_running_loop():
            return
        ended = self._loop is not None and self._loop.is_closed()
        raise StreamChatError(
            f"this StreamChat was opened in another event loop{', which has ended' if ended else ''}: one "
            "works for one loop. Use it where it was opened, or close it there and open it here; in tests, "
            "keep one loop for all requests (`with TestClient(app) as client:`), or make one for each loop"
        )
