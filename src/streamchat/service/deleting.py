"""Deletion: what is active is stopped first, so that workers and tools are told; then the rows go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

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
        await self._stop([run_id], principal)
        return await self._buffer.delete(run_id=run_id)

    async def conversation(self, gate: Gate, conversation_id: str, principal: Principal | None) -> int:
        """Delete a conversation with all that is in it. Raises `ConversationNotFound`."""
        await gate.conversation(conversation_id, principal, "delete")
        await self._stop(await self._active([conversation_id]), principal)
        return await self._buffer.delete(conversation_id=conversation_id)

    async def owner(self, gate: Gate, owner: Principal, principal: Principal | None) -> int:
        """Delete all that belongs to ``owner``. Raises `NotAuthorized`."""
        check_instance("owner", owner, Principal, "the Principal whose things they are")
        if not await gate.allows(principal, "delete", Resource(owner.id, owner.tenant)):
            raise NotAuthorized(f"{principal!r} may not delete what belongs to {owner!r}")
        after: str | None = None
        while page := await self._buffer.conversations(owner.id, owner.tenant, after=after, limit=_PAGE):
            after = page[-1].conversation_id
            await self._stop(await self._active(each.conversation_id for each in page), principal)
            if len(page) < _PAGE:
                break
        return await self._buffer.delete(owner=owner.id, tenant=owner.tenant)

    async def _active(self, conversation_ids: Iterable[str]) -> list[str]:
        found: list[str] = []
        for conversation_id in conversation_ids:
            # What has not begun goes with the conversation; it is only kept from beginning meanwhile.
            for run in reversed(await self._buffer.enqueued(conversation_id)):
                await self._stopper.stop(run.run_id, "deleted", None, self._seconds)
            active = await self._buffer.find(conversation_id)
            found += [] if active is None else [active.run_id]
        return found

    async def _stop(self, run_ids: Iterable[str], principal: Principal | None) -> None:
        """Cancel runs, and wait until they are over, for a while."""
        places = asyncio.Semaphore(_AT_ONCE)

        async def stop(run_id: str) -> None:
            async with places:
                await self._stop_one(run_id, principal)

        try:
            async with asyncio.TaskGroup() as group:
                for run_id in run_ids:
                    group.create_task(stop(run_id))
        except ExceptionGroup as failed:  # callers know the errors of one store, not groups of them
            raise failed.exceptions[0] from None

    async def _stop_one(self, run_id: str, principal: Principal | None) -> None:
        if not await self._stopper.stop(
            run_id, "deleted", principal.id if principal else None, self._seconds
        ):
            log.warning("run %s: it is deleted before it stopped", run_id)


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

        What is active is cancelled first, and waited for at most the limits' ``delete_seconds``. Readers are
        ended, ids are never used again. Raises `ConversationNotFound`, `RunNotFound` (also for another's),
        `InvalidInput` where not exactly one is named.
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
