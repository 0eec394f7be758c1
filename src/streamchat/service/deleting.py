"""Deletion: what is active is stopped first, so that workers and tools are told; then the rows go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from streamchat.buffers.base import EventBuffer
from streamchat.core.given import check_instance
from streamchat.errors import InvalidInput, NotAuthorized
from streamchat.principal import Principal
from streamchat.service.access import Gate, Resource
from streamchat.service.reading import ReadingVerbs
from streamchat.service.stopping import Stopper

__all__ = ["Deleter", "DeletingVerbs"]

log = logging.getLogger("streamchat.service")

_PAGE = 200
_AT_ONCE = 16


class Deleter:
    """Deletes for a principal. ``seconds`` is how long a run may take to stop before it is deleted all the
    same: its worker then loses the lease, and ends its tools itself."""

    def __init__(self, buffer: EventBuffer, stopper: Stopper, seconds: float) -> None:
        self._buffer = buffer
        self._stopper = stopper
        self._seconds = seconds

    async def run(self, gate: Gate, run_id: str, principal: Principal | None) -> int:
        """Delete a run and its messages. Raises `RunNotFound`."""
        await gate.run(run_id, principal, "delete")
        await self._stop(run_id, principal)
        return await self._buffer.delete(run_id=run_id)

    async def conversation(self, gate: Gate, conversation_id: str, principal: Principal | None) -> int:
        """Delete a conversation with all that is in it. Raises `ConversationNotFound`."""
        await gate.conversation(conversation_id, principal, "delete")
        gone = await self._end_all(conversation_id, principal)
        return gone + await self._buffer.delete(conversation_id=conversation_id)

    async def owner(self, gate: Gate, owner: Principal, principal: Principal | None) -> int:
        """Delete all that belongs to ``owner``. Raises `NotAuthorized`."""
        check_instance("owner", owner, Principal, "the Principal whose things they are")
        if not await gate.allows(principal, "delete", Resource(owner.id, owner.tenant)):
            raise NotAuthorized(f"{principal!r} may not delete what belongs to {owner!r}")
        gone = 0
        after: str | None = None
        while page := await self._buffer.conversations(owner.id, owner.tenant, after=after, limit=_PAGE):
            after = page[-1].conversation_id
            gone += await self._end_page([each.conversation_id for each in page], principal)
            if len(page) < _PAGE:
                break
        return gone + await self._buffer.delete(owner=owner.id, tenant=owner.tenant)

    async def _end_page(self, conversation_ids: Sequence[str], principal: Principal | None) -> int:
        """Do `_end_all` for several conversations at once."""
        places = asyncio.Semaphore(_AT_ONCE)

        async def end(conversation_id: str) -> int:
            async with places:
                return await self._end_all(conversation_id, principal)

        try:
            async with asyncio.TaskGroup() as group:
                ending = [group.create_task(end(each)) for each in conversation_ids]
        except ExceptionGroup as failed:  # callers know the errors of one store, not groups of them
            raise failed.exceptions[0] from None
        return sum(task.result() for task in ending)

    async def _end_all(self, conversation_id: str, principal: Principal | None) -> int:
        """Stop all that a conversation has at work; returns how many runs were deleted since they did not
        stop."""
        gone = 0
        # What has not begun goes with the conversation; it is only kept from beginning meanwhile.
        for run in reversed(await self._buffer.enqueued(conversation_id)):
            await self._stopper.stop(run.run_id, "deleted", None, self._seconds)
        # The store names the newest. Those before it gave up the slot for a job, and may be at work again:
        # they are named once the newest is over, or gone.
        while (active := await self._buffer.find(conversation_id)) is not None:
            if not await self._stop(active.run_id, principal):
                gone += await self._buffer.delete(run_id=active.run_id)
        return gone

    async def _stop(self, run_id: str, principal: Principal | None) -> bool:
        """Cancel a run, and wait until it is over, for a while; whether it is."""
        by = principal.id if principal else None
        stopped = await self._stopper.stop(run_id, "deleted", by, self._seconds)
        if not stopped:
            log.warning("run %s: it is deleted before it stopped", run_id)
        return stopped


class DeletingVerbs(ReadingVerbs):
    """The part of `StreamChat` that deletes; that class sets what stands here."""

    _deleter: Deleter

    async def delete(
        self,
        conversation_id: str | None = None,
        principal: Principal | None = None,
        *,
        run_id: str | None = None,
    ) -> int:
        """Delete a conversation with all that is in it, or one run and its messages; returns how many runs
        went.

        What is active is cancelled first, one run after the other, each waited for at most the limits'
        ``delete_seconds``. Readers are ended, ids are never used again. Raises `ConversationNotFound`,
        `RunNotFound` (also for another's), `InvalidInput` where not exactly one is named.
        """
        if run_id is not None and conversation_id is None:
            gone = await self._deleter.run(self._gate, run_id, principal)
        elif conversation_id is not None and run_id is None:
            gone = await self._deleter.conversation(self._gate, conversation_id, principal)
        else:
            raise InvalidInput("delete() takes a conversation_id or a run_id, one of them")
        self._opened().look()  # whoever was enqueued behind it may begin
        return gone

    async def delete_principal(self, owner: Principal, principal: Principal | None = None) -> int:
        """Delete all conversations of ``owner`` (id and tenant) as `delete` does; returns how many runs went.

        ``principal`` is who asks: `authorize` must say yes to ``delete`` of a resource that names only the
        owner; `NotAuthorized` otherwise. See to it that the owner starts nothing meanwhile.
        """
        return await self._deleter.owner(self._gate, owner, principal)
