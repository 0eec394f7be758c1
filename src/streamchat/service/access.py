"""Who may do what: the application's `authorize`, asked on every verb."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from streamchat.buffers.base import LOG_VERSION, ConversationRecord, EventBuffer, RunRecord
from streamchat.buffers.shared import check_conversation_id, check_run_id
from streamchat.core.given import check_instance
from streamchat.errors import ConversationNotFound, NotAuthorized, RunNotFound
from streamchat.principal import Principal

__all__ = ["Action", "Authorize", "Gate", "Resource", "check_principal", "owns"]

log = logging.getLogger("streamchat.service")

Action: TypeAlias = Literal[
    "start", "read", "cancel", "retry", "approve", "submit_tool_result", "complete_job", "list", "delete"
]


@dataclass(frozen=True, slots=True)
class Resource:
    """What is asked for. ``owner`` and ``tenant`` are those of the conversation or run."""

    owner: str | None
    tenant: str | None
    run_id: str | None = None
    conversation_id: str | None = None


Authorize: TypeAlias = Callable[[Principal | None, Action, Resource], bool | Awaitable[bool]]


def owns(principal: Principal | None, action: Action, resource: Resource) -> bool:
    """An `Authorize` for the usual case: everybody may do everything with what is theirs, within their
    tenant."""
    if principal is None:
        return resource.owner is None
    return resource.owner == principal.id and resource.tenant == principal.tenant


class Gate:
    """Looks things up for a principal: what they may not have is not found."""

    def __init__(self, buffer: EventBuffer, authorize: Authorize, *, client_ids: bool = True) -> None:
        self._buffer = buffer
        self._client_ids = client_ids
        self._authorize = authorize
        self._unknown_versions: set[int] = set()

    async def allows(self, principal: Principal | None, action: Action, resource: Resource) -> bool:
        """Ask, and wait for the answer where it is async. Only True is a yes. Raises `InvalidInput` for what
        is no principal."""
        check_principal(principal)
        answer = self._authorize(principal, action, resource)
        if inspect.isawaitable(answer):
            answer = await answer
        return answer is True

    async def run(self, run_id: str, principal: Principal | None, action: Action) -> RunRecord:
        """Return a run. Raises `RunNotFound`, `BufferUnavailable`."""
        check_principal(principal)
        check_run_id(run_id)
        run = await self._buffer.get(run_id)
        owner = run.principal.id if run.principal else None
        tenant = run.principal.tenant if run.principal else None
        resource = Resource(owner, tenant, run_id=run_id, conversation_id=run.conversation_id)
        if not await self.allows(principal, action, resource):
            raise RunNotFound(f"no run {run_id!r} for {principal!r}")
        if run.log_version != LOG_VERSION and not run.over:
            self._tell_of(run)
        return run

    def _tell_of(self, run: RunRecord) -> None:
        """Say once for each version why a run is not worked on here."""
        if run.log_version not in self._unknown_versions:
            self._unknown_versions.add(run.log_version)
            log.warning(
                "run %s has the log version %d, this streamchat works on version %d: it is left to a worker "
                "that knows it (upgrade this one, or roll the other back)",
                run.run_id,
                run.log_version,
                LOG_VERSION,
            )

    async def conversation(
        self, conversation_id: str, principal: Principal | None, action: Action
    ) -> ConversationRecord:
        """Return a conversation. Raises `ConversationNotFound`, `BufferUnavailable`."""
        check_principal(principal)
        check_conversation_id(conversation_id)
        known = await self._buffer.conversation(conversation_id)
        resource = Resource(known.owner, known.tenant, conversation_id=conversation_id)
        if not await self.allows(principal, action, resource):
            raise ConversationNotFound(f"no conversation {conversation_id!r} for {principal!r}")
        return known

    async def conversation_to_start_in(
        self, conversation_id: str | None, principal: Principal | None
    ) -> ConversationRecord | None:
        """Return the conversation for a new run, None where it is to be made.

        Raises `ConversationNotFound` for another's, and for an unknown one where clients give no ids;
        `NotAuthorized` for who may make none.
        """
        if conversation_id is not None:
            try:
                return await self.conversation(conversation_id, principal, "start")
            except ConversationNotFound:
                if not self._client_ids:
                    raise
                if await self._is_known(conversation_id):
                    # Another's, or made since the first look, by a request of the same client that is
                    # repeated.
                    return await self.conversation(conversation_id, principal, "start")
        new = Resource(
            principal.id if principal else None,
            principal.tenant if principal else None,
            conversation_id=conversation_id,
        )
        if not await self.allows(principal, "start", new):
            raise NotAuthorized(f"{principal!r} may not start conversations")
        return None

    async def _is_known(self, conversation_id: str) -> bool:
        try:
            await self._buffer.conversation(conversation_id)
        except ConversationNotFound:
            return False
        return True


def check_principal(principal: object) -> None:
    """Raise `InvalidInput` for what is neither a `Principal` nor None."""
    check_instance("principal", principal, Principal, "a Principal, or None for nobody", none=True)
