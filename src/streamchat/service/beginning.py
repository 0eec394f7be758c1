"""The verbs that begin runs: a new message, and a retry of a run that is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel

from streamchat.buffers.base import MessageRecord, NewEvent, NewRun
from streamchat.core.given import check_instance
from streamchat.errors import Busy, ConversationBusy, ConversationMoved, InvalidInput, RunNotFound
from streamchat.messages import ModelMessage
from streamchat.models.base import Model
from streamchat.orchestration.workflow_run import tools_of
from streamchat.principal import Principal
from streamchat.service.attachments import check_attachments
from streamchat.service.delivering import Delivery
from streamchat.service.limits import ServiceLimits
from streamchat.service.outputs import output_name
from streamchat.service.presence import OnDisconnect, grace_of
from streamchat.service.reading import ReadingVerbs
from streamchat.service.request import user_content
from streamchat.service.retrying import retry_of
from streamchat.service.settings import check_start
from streamchat.service.shares import Shares
from streamchat.service.starting import Turn, TurnMaker
from streamchat.service.status import Started
from streamchat.service.stopping import OnBusy, Stopper, known_policy
from streamchat.service.supervisor import Supervisor
from streamchat.tools import ClientTool, ToolRegistry, check_client_tools

__all__ = ["StartingVerbs"]


class StartingVerbs(ReadingVerbs):
    """The part of `StreamChat` that begins runs; that class sets what stands here."""

    model: Model
    tools: ToolRegistry
    limits: ServiceLimits
    output_types: Mapping[str, type[BaseModel]]
    _turns: TurnMaker
    _shares: Shares
    _stopper: Stopper
    _delivery: Delivery
    _grace: float | None
    _on_busy: OnBusy
    _allow_system_message: bool
    _allow_file_ids: bool

    @property
    def takes_system_messages(self) -> bool:
        """Whether a client may give a system message of its own."""
        return self._allow_system_message

    @property
    def takes_file_ids(self) -> bool:
        """Whether a client may name the provider's files."""
        return self._allow_file_ids

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
        on_disconnect: OnDisconnect | None = None,
        on_busy: OnBusy | None = None,
        branch_at: str | None = None,
        edits: str | None = None,
        history: Sequence[ModelMessage] = (),
        client_tools: Sequence[ClientTool | Mapping[str, Any]] = (),
        output_type: type[BaseModel] | str | None = None,
    ) -> Started:
        """Make the user's message, the assistant's placeholder and the run durable, and answer at once.

        Without ``conversation_id`` a conversation is made. ``on_disconnect`` and ``on_busy`` are this run's
        own policies. An interrupted run is waited for, for at most the limits' ``interrupt_seconds``; an
        enqueued one begins, in the order of the messages, when the runs before it are over, or wait for jobs
        alone, and what the model is given is made then. The
        message follows the conversation's newest answer, or the message ``branch_at`` of it (``""``: none),
        which makes a branch; with ``edits`` it takes the place of the user's message of that id, and what
        was said from there on stays readable beside it. ``history`` is given to
        the model before the message where the conversation is new, and kept with the run only.
        ``client_tools`` are offered to the model in this run; their calls wait for `submit_tool_result`.
        ``output_type``, one of the service's ``output_types`` or its name, is what this run's answer is to
        be, in the place of what `RunOptions` says.
        Raises `InvalidInput` and `AttachmentTooLarge` (with ``field``), `Busy`, `TooManyRuns`,
        `TooManyStarts`, `ConversationBusy`, `ConversationNotFound` (also for another's),
        `IdempotencyConflict`, `BufferUnavailable`; nothing is written then.
        """
        supervisor = self._opened()
        check_start(locals())
        parts = user_content(message, self.limits.max_message_chars)
        check_attachments(parts, self.limits, file_ids=self._allow_file_ids)
        if system_message is not None and not self._allow_system_message:
            raise InvalidInput("a system message is not taken from clients here", field="system_message")
        if edits is not None:
            branch_at = await self._place_of(edits, conversation_id, principal)
        grace = self._grace if on_disconnect is None else grace_of(on_disconnect)
        policy = self._on_busy if on_busy is None else known_policy(on_busy)
        if principal is not None and principal.expires_at is not None:
            principal = replace(principal, expires_at=None)  # the run outlives the token
        turn = Turn(
            parts,
            conversation_id,
            principal,
            idempotency_key,
            metadata,
            system_message,
            client_id,
            grace,
            branch_at,
            tuple(history),
            check_client_tools(client_tools, tools_of(self.model, self.tools).names),
            output_name(output_type, self.output_types),
        )
        try:
            async with self._shares.place(principal, conversation_id):
                with supervisor.room():
                    return await self._start(supervisor, turn, policy)
        except Busy:
            before = await self._begun_before(principal, idempotency_key, turn.digest())
            if before is None:
                raise
            return before

    async def _place_of(
        self, message_id: str, conversation_id: str | None, principal: Principal | None
    ) -> str:
        """Return what a message of the user's follows (``""``: nothing)."""
        if conversation_id is None:
            raise InvalidInput("edits= needs the conversation_id of the message", field="conversation_id")
        await self._gate.conversation(conversation_id, principal, "start")
        for row in await self._turns.rows(conversation_id):
            if row.message_id == message_id and row.role == "user":
                return row.parent_id or ""
        raise InvalidInput(
            f"conversation {conversation_id} has no message {message_id[:80]!r} of the user's to edit",
            field="edits",
        )

    async def _start(self, supervisor: Supervisor, turn: Turn, on_busy: OnBusy) -> Started:
        """Create the turn's run; if need be in the place of those that are interrupted, or behind others."""
        principal = turn.principal
        interrupted: Sequence[str] = ()
        while True:
            known = await self._gate.conversation_to_start_in(turn.conversation_id, principal)
            behind = known.active_run_id if known is not None and on_busy == "enqueue" else None
            if behind is not None and await self._line_is_full(turn.conversation_id or ""):
                before = await self._begun_before(principal, turn.idempotency_key, turn.digest())
                if before is not None:
                    return before
                raise ConversationBusy(
                    f"{self.limits.max_enqueued} messages wait in conversation {turn.conversation_id!r} "
                    "(max_enqueued): wait until one is answered, or cancel one",
                    active_run_id=behind,
                )
            # Made anew each time: what the interrupted run has said is part of the history.
            run, messages = await self._turns.make(turn, known, later=behind is not None)
            try:
                return await self._create(supervisor, run, messages)
            except ConversationMoved:
                continue
            except ConversationBusy as busy:
                if on_busy == "enqueue":
                    continue
                # One that took the place meanwhile was sent after this message.
                if on_busy == "reject" or (interrupted and busy.active_run_id not in interrupted):
                    raise
                interrupted = await self._interrupt(run.conversation_id, busy, principal)

    async def _line_is_full(self, conversation_id: str) -> bool:
        return len(await self.buffer.enqueued(conversation_id)) >= self.limits.max_enqueued

    async def _interrupt(
        self, conversation_id: str, busy: ConversationBusy, principal: Principal | None
    ) -> list[str]:
        """Cancel what the conversation is busy with, and wait for its end; raises ``busy`` where it does not
        come in time."""
        waiting = [run.run_id for run in await self.buffer.enqueued(conversation_id)]
        by = principal.id if principal is not None else None
        # The newest first: none of them begins meanwhile.
        stopped = [*reversed(waiting), busy.active_run_id]
        for run_id in stopped:
            if not await self._stopper.stop(run_id, "interrupted", by, self.limits.interrupt_seconds):
                raise busy
        return stopped

    async def retry(
        self,
        run_id: str,
        principal: Principal | None = None,
        *,
        from_step: int | None = None,
        call_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> Started:
        """Do a run that is over anew, as a run of its own with ``parent_run_id``, and answer at once.

        The whole run; or from a step on, with the steps before it as they were; or one failed call alone,
        after which the model goes on: the call keeps its idempotency key, for it may have taken effect. The
        new answer stands beside the old one. Raises `NotRetryable` (with ``reason``), `InvalidInput`,
        `RunNotFound`, `Busy`, `TooManyRuns`, `TooManyStarts`, `ConversationBusy`, `IdempotencyConflict`.
        """
        supervisor = self._opened()
        check_instance("idempotency_key", idempotency_key, str, "text, or leave it out", none=True)
        parent = await self._gate.run(run_id, principal, "retry")
        run, messages, kept = await retry_of(
            self.buffer,
            parent,
            self.model,
            from_step=from_step,
            call_id=call_id,
            idempotency_key=idempotency_key,
        )
        try:
            async with self._shares.place(run.principal, run.conversation_id):
                with supervisor.room():
                    return await self._create(supervisor, run, messages, kept)
        except Busy:
            before = await self._begun_before(run.principal, idempotency_key, run.digest)
            if before is None:
                raise
            return before

    async def _create(
        self,
        supervisor: Supervisor,
        run: NewRun,
        messages: Sequence[MessageRecord],
        kept: Sequence[NewEvent] = (),
    ) -> Started:
        await self._delivery.announce(run.run_id)
        created = await self.buffer.create(run, messages, kept)
        if created.new:
            self._shares.began(created.run.principal)
            if not created.run.enqueued:
                supervisor.submit(created.run.run_id, created.run.principal)
            self._delivery.begun(created.run.run_id)
        return Started.of(created.run, new=created.new)

    async def _begun_before(
        self, principal: Principal | None, key: str | None, digest: str | None
    ) -> Started | None:
        """What an earlier request of this key began, if its principal may still start: it takes no room."""
        if key is None or digest is None:
            return None
        run = await self.buffer.created(principal, key, digest)
        if run is None:
            return None
        try:
            await self._gate.run(run.run_id, principal, "start")
        except RunNotFound:
            return None
        return Started.of(run, new=False)
