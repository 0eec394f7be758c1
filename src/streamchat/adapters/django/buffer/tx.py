"""The inside of a transaction over Django's connection: `Tx`, and what comes along with a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from django.db.models import F, Value
from django.db.models.functions import Coalesce, NullIf

from streamchat.adapters.django.buffer.hot import DjangoHotPath
from streamchat.adapters.django.models import Conversation, Message, PostedInput, Run
from streamchat.buffers import refusals
from streamchat.buffers.base import MessageRecord
from streamchat.buffers.codec import Payloads
from streamchat.buffers.shared import Token
from streamchat.buffers.transactional.hot import Batch, Head, HotPath
from streamchat.core.append_rule import ready_at, slot_after

__all__ = ["Tx", "enqueued_in"]


def enqueued_in(conversation_id: str) -> dict[str, Any]:
    """Return what is true of the runs that wait for a conversation's slot (`append_rule.is_enqueued`)."""
    return {"conversation_id": conversation_id, "status": "queued", "ready_at__isnull": True}


class Tx:
    """A connection with a transaction on it; see `Transaction`."""

    def __init__(self, connection: Any, payloads: Payloads, token: Token, moment: Callable[[], int]) -> None:
        """``moment`` gives the transaction's time; it is asked once, when somebody wants to know."""
        self._connection = connection
        self._moment = moment
        self._now: int | None = None
        self.payloads = payloads
        self.token = token
        self.hot: HotPath = DjangoHotPath(connection)

    @property
    def now(self) -> int:
        """The transaction's time: one moment, however long it takes."""
        if self._now is None:
            self._now = self._moment()
        return self._now

    @property
    def features(self) -> Any:
        """What the database can do."""
        return self._connection.features

    def rows(self, model: Any) -> Any:
        """Return all rows of a model, in this transaction's database whatever routers say."""
        return model._base_manager.using(self._connection.alias)

    def consume(self, run_id: str, names: Sequence[str]) -> int:
        """See `Transaction.consume`."""
        done = 0
        for name in dict.fromkeys(names):
            kind, _, key = name.partition(":")
            unread = self.rows(PostedInput).filter(run_id=run_id, kind=kind, key=key, consumed_at=None)
            done += unread.update(consumed_at=self.now)
        if done:
            self.rows(Run).filter(run_id=run_id).update(consumed=F("consumed") + done)
        return done

    def give_up(self, head: Head, batch: Batch) -> None:
        """See `Transaction.give_up`."""
        self.rows(Run).filter(run_id=head.run_id).update(
            status=batch.status,
            owner=None,
            lease_until=None,
            ready_at=ready_at(batch.then, now=self.now, wake_at=batch.wake_at),
            ended_at=self.now if batch.then == "over" else None,
            updated_at=self.now,
        )
        moved = slot_after(batch.then, keep_slot=batch.keep_slot)
        slot = {} if moved is None else {moved: head.run_id}
        self.touch_conversation(head.conversation_id, **slot)

    def touch_conversation(
        self, conversation_id: str, free: str | None = None, take: str | None = None
    ) -> None:
        """See `Transaction.touch_conversation`."""
        values: dict[str, Any] = {"updated_at": self.now}
        if free is not None:
            values["active_run_id"] = NullIf(F("active_run_id"), Value(free))
        elif take is not None:
            values["active_run_id"] = Coalesce(F("active_run_id"), Value(take))
        self.rows(Conversation).filter(conversation_id=conversation_id).update(**values)
        if free is not None:
            self._give_on(conversation_id)

    def _give_on(self, conversation_id: str) -> None:
        """Give the slot, if it is free, to the oldest run that waits for it.

        The conversation is locked by now, so nobody joins the line meanwhile. Who leaves it (cancelled,
        deleted) is seen by the second look, which is the write.
        """
        home = self.rows(Conversation).filter(conversation_id=conversation_id)
        waiting = self.rows(Run).filter(**enqueued_in(conversation_id))
        # The look locks nothing: it could wait for a run whose holder waits for the conversation.
        while (first := waiting.order_by("number").values_list("run_id", flat=True).first()) is not None:
            if home.values_list("active_run_id", flat=True).first() is not None:
                return
            if waiting.filter(run_id=first).update(ready_at=self.now):
                home.update(active_run_id=first)
                return

    def put_messages(self, records: Iterable[MessageRecord]) -> None:
        """See `Transaction.put_messages`."""
        messages = self.rows(Message)
        for record in records:
            values = {
                "conversation_id": record.conversation_id,
                "role": record.role,
                "status": record.status,
                "kind": record.kind,
                "content": self.payloads.put(record.content),
                "private": self.payloads.put_optional(record.private),
                "run_id": record.run_id,
            }
            named = messages.filter(message_id=record.message_id)
            home = named.values_list("conversation_id", flat=True).first()
            if home is None:
                given = {"message_id": record.message_id, "parent_id": record.parent_id}
                messages.create(**given, created_at=self.now, **values)
            elif home == record.conversation_id:
                named.update(**values)
            else:
                raise refusals.message_id_taken(record.message_id)
