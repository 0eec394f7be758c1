"""What leaves the store: old events of finished runs, and all that somebody wants deleted."""

from __future__ import annotations

from collections.abc import Sequence

from django.db.models import F, Sum
from django.db.models.functions import Coalesce, Length

from streamchat.adapters.django.buffer.tx import Tx
from streamchat.adapters.django.models import (
    Conversation,
    Event,
    Message,
    Note,
    PostedInput,
    Run,
    RunRequest,
    Segment,
    Tombstone,
)
from streamchat.buffers.shared import kept_ancestors

__all__ = ["delete_conversation", "delete_owner", "delete_run", "trim"]

_OF_A_RUN = (Run, RunRequest, Event, Segment, PostedInput, Note)


def trim(tx: Tx, older_than: int, limit: int) -> int:
    """See `EventBuffer.trim`."""
    old = tx.rows(Run).filter(ended_at__lt=older_than, first_seq__lt=F("batch_seq"))
    found = list(old.order_by("ended_at", "run_id").values_list("run_id", "batch_seq")[:limit])
    for run_id, batch_seq in found:
        log = tx.rows(Event).filter(run_id=run_id)
        size = Length("data") + Coalesce(Length("private"), 0)
        left = log.filter(seq__gte=batch_seq).aggregate(left=Sum(size))["left"]
        tx.rows(Run).filter(run_id=run_id).update(first_seq=batch_seq, log_bytes=left or 0)
        log.filter(seq__lt=batch_seq).delete()
    return len(found)


def delete_run(tx: Tx, run_id: str) -> list[str]:
    """Delete a run and its messages; return its id, or nothing where it is unknown."""
    # Locked first: what its holder is writing at this moment, messages too, is there before it goes.
    run = tx.rows(Run).select_for_update().filter(run_id=run_id).first()
    if run is None:
        return []
    conversation_id = run.conversation_id
    _remove_runs(tx, [run_id])
    # This locks the conversation: from here on nobody writes a message that follows one of these.
    tx.touch_conversation(conversation_id, free=run_id)
    kept = tx.rows(Message).filter(conversation_id=conversation_id)
    doomed = tx.rows(Message).filter(run_id=run_id)
    ancestors = kept_ancestors(dict(doomed.values_list("message_id", "parent_id")))
    doomed.delete()
    for message_id, ancestor in ancestors.items():
        kept.filter(parent_id=message_id).update(parent_id=ancestor)
    left = kept.order_by("-number")
    leaf_id = left.values_list("message_id", flat=True).first()
    tx.rows(Conversation).filter(conversation_id=conversation_id).update(leaf_id=leaf_id)
    return [run_id]


def delete_conversation(tx: Tx, conversation_id: str) -> list[str]:
    """Delete a conversation with all that is in it; return its runs' ids."""
    gone, _ = tx.rows(Conversation).filter(conversation_id=conversation_id).delete()
    if not gone:
        return []
    tx.rows(Message).filter(conversation_id=conversation_id).delete()
    runs = tx.rows(Run).filter(conversation_id=conversation_id).order_by("run_id")
    run_ids = list(runs.values_list("run_id", flat=True))
    _remove_runs(tx, run_ids)
    _bury(tx, "conversation", [conversation_id])
    return run_ids


def delete_owner(tx: Tx, owner: str, tenant: str | None) -> list[str]:
    """Delete all that belongs to a principal; return its runs' ids."""
    mine = tx.rows(Conversation).filter(owner=owner, tenant=tenant).order_by("conversation_id")
    run_ids: list[str] = []
    for conversation_id in list(mine.values_list("conversation_id", flat=True)):
        run_ids += delete_conversation(tx, conversation_id)
    return run_ids


def _remove_runs(tx: Tx, run_ids: Sequence[str]) -> None:
    for run_id in run_ids:
        for model in _OF_A_RUN:
            tx.rows(model).filter(run_id=run_id).delete()
    _bury(tx, "run", run_ids)


def _bury(tx: Tx, kind: str, ids: Sequence[str]) -> None:
    tx.rows(Tombstone).bulk_create([Tombstone(kind=kind, id=name, deleted_at=tx.now) for name in ids])
