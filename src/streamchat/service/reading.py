"""The verbs that only read: attach, presence, status, the log, conversations and their messages."""

from __future__ import annotations

from streamchat.buffers.base import ConversationRecord, EventBuffer, MessageRecord, Page, RunRecord
from streamchat.buffers.shared import now_ms
from streamchat.core.cursor import parse_cursor
from streamchat.core.fold import Folder
from streamchat.core.given import check_instance, check_number
from streamchat.errors import ConversationNotFound
from streamchat.events import StoredEvent
from streamchat.orchestration.structured import newest_output
from streamchat.principal import Principal
from streamchat.service.access import Gate, Resource, check_principal
from streamchat.service.attaching import Attachment
from streamchat.service.hub import Hub, Subscription
from streamchat.service.log import read_log
from streamchat.service.presence import Presence, PresenceKeeper, Reader
from streamchat.service.request import RunTerms
from streamchat.service.status import RunStatus
from streamchat.service.supervisor import Supervisor

__all__ = ["ReadingVerbs"]


class ReadingVerbs:
    """The part of `StreamChat` that changes nothing; that class sets what stands here."""

    buffer: EventBuffer
    hub: Hub
    _access: Gate
    _presence: PresenceKeeper

    def _opened(self) -> Supervisor:
        """Raise where the service is not open."""
        raise NotImplementedError

    @property
    def _gate(self) -> Gate:
        self._opened()
        return self._access

    def attach(
        self,
        run_id: str,
        after: str | None = None,
        principal: Principal | None = None,
        *,
        client_id: str | None = None,
    ) -> Attachment:
        """Read a run from the cursor ``after`` (exclusive; None is the start); see `Attachment` for how.

        Until it is over or left, `presence` tells of it, under ``client_id``. Using it raises
        `InvalidInput`, `CursorInvalid`, `RunNotFound` (also for another's run), `BufferUnavailable`.
        """

        async def subscribe() -> Subscription:
            check_instance("after", after, str, "the id of the last event, as text", none=True)
            cursor = None if after is None else parse_cursor(after)
            run = await self._gate.run(run_id, principal, "read")
            subscription = await self.hub.subscribe(run_id, cursor)
            if run.over or subscription.finished:
                return subscription
            who = principal.id if principal is not None else None
            reader = Reader(subscription, client_id, who, since=now_ms())
            try:
                await self._presence.enter(run, RunTerms.of(run.request).grace, reader)
            except BaseException:
                await subscription.close()
                raise
            return subscription

        return Attachment(subscribe)

    async def presence(self, run_id: str, principal: Principal | None = None) -> list[Presence]:
        """Return who is connected to the run, in whichever process, longest first. Raises `RunNotFound`.

        Of another process's connections it tells what that one noted last, some seconds ago.
        """
        await self._gate.run(run_id, principal, "read")
        return await self._presence.of(run_id)

    async def status(self, run_id: str, principal: Principal | None = None) -> RunStatus:
        """Return what the run's log amounts to. Raises `RunNotFound`."""
        run = await self._gate.run(run_id, principal, "read")
        events = await read_log(self.buffer, run_id)
        folder = Folder()
        for event in events:
            folder.add(event)
        output = newest_output(events)
        return RunStatus(run_id, run.conversation_id, run.message_id, folder.state, events[-1].id, output)

    async def events(
        self, run_id: str, principal: Principal | None = None, *, after: int = 0, limit: int = 100
    ) -> Page:
        """Return a page of the log: events with seq above ``after``, at most ``limit`` of them (1 or more).

        Raises `RunNotFound`, `InvalidInput`.
        """
        await self._gate.run(run_id, principal, "read")
        check_number("after", after, least=0, whole=True)
        check_number("limit", limit, least=1, whole=True)
        return await self.buffer.read(run_id, after, limit)

    async def whole_log(self, run_id: str, principal: Principal | None = None) -> list[StoredEvent]:
        """Return the log as it is now, from the oldest event that is stored; who asks at once shares a read.

        Raises `RunNotFound`, `BufferUnavailable`, and `Busy` where this process shuts down meanwhile.
        """
        await self._gate.run(run_id, principal, "read")
        return list(await self.hub.log(run_id))

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
        check_principal(principal)
        owner = principal.id if principal else None
        tenant = principal.tenant if principal else None
        if not await self._gate.allows(principal, "list", Resource(owner, tenant)):
            return []
        return await self.buffer.conversations(owner, tenant, after=after, limit=limit)

    async def conversation(
        self, conversation_id: str, principal: Principal | None = None
    ) -> ConversationRecord:
        """Return a conversation: its title, its newest message, what is active. Raises
        `ConversationNotFound`."""
        return await self._gate.conversation(conversation_id, principal, "read")

    async def find(self, conversation_id: str, principal: Principal | None = None) -> RunRecord | None:
        """Return the conversation's newest run that is neither over nor enqueued; None also for an unknown or
        foreign conversation."""
        try:
            await self._gate.conversation(conversation_id, principal, "read")
        except ConversationNotFound:
            return None
        return await self.buffer.find(conversation_id)

    async def enqueued(self, conversation_id: str, principal: Principal | None = None) -> list[RunRecord]:
        """Return the runs that wait until those before them are over, the next one first; `cancel` takes one
        out. Raises `ConversationNotFound`."""
        await self._gate.conversation(conversation_id, principal, "read")
        return await self.buffer.enqueued(conversation_id)
