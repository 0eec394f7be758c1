"""What is read, each in one script, so that it is true of one moment."""

from __future__ import annotations

from typing import Any

from streamchat.buffers import refusals
from streamchat.buffers.base import ConversationRecord, Input, MessageRecord, Page, RunRecord
from streamchat.buffers.codec import Payloads
from streamchat.buffers.redis import answers, records, scripts
from streamchat.buffers.redis.lanes import Argument
from streamchat.buffers.redis.records import optional, raw, text
from streamchat.buffers.redis.scripts import Script
from streamchat.buffers.shared import check_conversation_id, check_page, check_run_id, owner_and_tenant
from streamchat.core.append_rule import idempotency_slot
from streamchat.principal import Principal

__all__ = ["RedisReading"]

_PAGE_BYTES = 1024 * 1024


class RedisReading:
    """The part of `RedisEventBuffer` that reads."""

    _payloads: Payloads

    async def _read(self, script: Script, *arguments: Argument) -> Any:
        raise NotImplementedError

    async def created(
        self, principal: Principal | None, idempotency_key: str, digest: str
    ) -> RunRecord | None:
        """Return the run that was made under this key; see `EventBuffer.created`."""
        slot = idempotency_slot(*owner_and_tenant(principal), idempotency_key)
        answer = await self._read(scripts.CREATED, slot)
        if answer is None:
            return None
        run_id = text(answer[0])
        record = records.run_record(self._payloads, run_id, answer[1])
        if record is not None and text(records.fields(answer[1])[b"digest"]) != digest:
            raise refusals.key_used(idempotency_key, run_id)
        return record

    async def read(self, run_id: str, after: int = 0, limit: int = 1000) -> Page:
        """Return a page of the log; see `EventBuffer.read`. One of large events may be shorter than
        ``limit``.

        Where entries are missing that nobody trimmed (someone else deleted them), ``first_seq`` is that of
        the next event that is there, so that a reader sees the gap.
        """
        check_page(after, limit)
        check_run_id(run_id)
        answer = await self._read(scripts.READ, raw(run_id), after, limit, _PAGE_BYTES)
        if answer is None:
            raise refusals.run_unknown(run_id)
        return answers.page(self._payloads, after, limit, answer)

    async def inputs(self, run_id: str) -> list[Input]:
        """Return the inputs that were not consumed yet, oldest first."""
        check_run_id(run_id)
        found = await self._read(scripts.INPUTS, raw(run_id))
        if found is None:
            raise refusals.run_unknown(run_id)
        return [records.posted_input(self._payloads, row) for row in found]

    async def get(self, run_id: str) -> RunRecord:
        """Return the run's record."""
        check_run_id(run_id)
        record = records.run_record(self._payloads, run_id, await self._read(scripts.RUN, raw(run_id)))
        if record is None:
            raise refusals.run_unknown(run_id)
        return record

    async def find(self, conversation_id: str) -> RunRecord | None:
        """Return the conversation's newest run that is neither over nor enqueued, or None."""
        found = await self._read(scripts.FIND, raw(conversation_id))
        return None if found is None else records.run_record(self._payloads, text(found[0]), found[1])

    async def enqueued(self, conversation_id: str) -> list[RunRecord]:
        """Return the conversation's enqueued runs, the next one first."""
        found = await self._read(scripts.ENQUEUED, raw(conversation_id))
        listed = (records.run_record(self._payloads, text(name), flat) for name, flat in found)
        return [record for record in listed if record is not None]

    async def conversation(self, conversation_id: str) -> ConversationRecord:
        """Return a conversation."""
        check_conversation_id(conversation_id)
        flat = await self._read(scripts.CONVERSATION, raw(conversation_id))
        record = records.conversation_record(self._payloads, conversation_id, flat)
        if record is None:
            raise refusals.conversation_unknown(conversation_id)
        return record

    async def conversations(
        self, owner: str | None, tenant: str | None = None, *, after: str | None = None, limit: int = 50
    ) -> list[ConversationRecord]:
        """Return a principal's conversations, most recently changed first."""
        check_page(0, limit)
        found = await self._read(
            scripts.LIST_CONVERSATIONS, records.whose(owner, tenant), optional(after), limit
        )
        if found is None:
            raise refusals.name_unknown(after or "")
        listed = (records.conversation_record(self._payloads, text(name), flat) for name, flat in found)
        return [record for record in listed if record is not None]

    async def messages(
        self, conversation_id: str, *, after: str | None = None, limit: int = 1000
    ) -> list[MessageRecord]:
        """Return a conversation's messages in the order they were written."""
        check_page(0, limit)
        check_conversation_id(conversation_id)
        answer = await self._read(scripts.LIST_MESSAGES, raw(conversation_id), optional(after), limit)
        if answer[0] == b"unknown":
            raise refusals.conversation_unknown(conversation_id)
        if answer[0] == b"no_such_name":
            raise refusals.name_unknown(after or "")
        return [records.message_record(self._payloads, row) for row in answer[1]]
