"""A run's life outside of its log: created, claimed, renewed, posted to."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from sqlalchemy import Select, insert, select, update

from streamchat.buffers import refusals
from streamchat.buffers.base import (
    Claim,
    Created,
    Input,
    Lease,
    MessageRecord,
    NewEvent,
    NewRun,
    Posted,
    RunRecord,
)
from streamchat.buffers.shared import beside, encode_body, event_bytes, owner_and_tenant, same_run
from streamchat.buffers.sql.schema import Schema
from streamchat.buffers.sql.transaction import Tx
from streamchat.buffers.transactional.appending import event_rows, judge
from streamchat.buffers.transactional.records import (
    claim_of,
    encode_claims,
    encode_text,
    longest_waiting,
    run_record,
)
from streamchat.core.append_rule import (
    decide_entrance,
    decide_post,
    idempotency_slot,
    is_enqueued,
    status_after_post,
    wakes,
)
from streamchat.core.cursor import next_generation
from streamchat.principal import Principal

__all__ = ["claim", "create", "created", "get_run", "post", "renew", "select_run"]


def select_run(schema: Schema) -> Select[Any]:
    """Return the query for runs as `run_record` takes them."""
    runs, requests = schema.runs, schema.requests
    return select(runs, requests.c.request, requests.c.claims).join(
        requests, requests.c.run_id == runs.c.run_id
    )


def get_run(tx: Tx, run_id: str) -> RunRecord | None:
    """Return a run's record, or None."""
    row = tx.connection.execute(select_run(tx.schema).where(tx.schema.runs.c.run_id == run_id)).first()
    return None if row is None else run_record(tx.payloads, row)


# --------------------------------------------------------------------------------------------------- create


def create(tx: Tx, run: NewRun, messages: Sequence[MessageRecord], kept: Sequence[NewEvent]) -> Created:
    """See `EventBuffer.create`."""
    owner, tenant = owner_and_tenant(run.principal)
    slot = None if run.idempotency_key is None else idempotency_slot(owner, tenant, run.idempotency_key)
    # Locked before anything is looked up: of two that come at once, the later sees what the earlier made.
    conversation = _locked_conversation(tx, run.conversation_id)
    known = _known(tx, run, slot)
    if known is not None:
        return Created(known, new=False)
    active = _enter(tx, run, owner, tenant, conversation)
    messages = _placed(tx, run, messages)
    events = (run.started, *kept)
    generation = next_generation(tx.token(), tx.token())
    tx.connection.execute(
        insert(tx.schema.runs).values(
            run_id=run.run_id,
            conversation_id=run.conversation_id,
            message_id=run.message_id,
            parent_run_id=run.parent_run_id,
            principal=owner,
            tenant=tenant,
            slot=slot,
            digest=run.digest,
            log_version=run.log_version,
            created_at=tx.now,
            status="queued",
            ready_at=tx.now if active else None,
            updated_at=tx.now,
            generation=generation,
            fence=0,
            first_seq=1,
            batch_seq=1,
            head_seq=len(events),
            log_bytes=event_bytes(events),
            posted=0,
            consumed=0,
        )
    )
    tx.connection.execute(
        insert(tx.schema.requests).values(
            run_id=run.run_id,
            request=tx.payloads.put(run.request),
            claims=encode_claims(tx.payloads, run.principal),
        )
    )
    _begin_segment(tx, run.run_id, 0, generation, 1)
    coded = [(e.type, tx.payloads.put(e.data), tx.payloads.put_optional(e.private)) for e in events]
    tx.hot.insert(event_rows(tx, run.run_id, 0, coded))
    tx.put_messages(messages)
    made = get_run(tx, run.run_id)
    assert made is not None
    return Created(made, new=True)


def _placed(tx: Tx, run: NewRun, messages: Sequence[MessageRecord]) -> Sequence[MessageRecord]:
    """Return the messages as they are to be put, under the conversation's lock."""
    if run.parent_run_id is None:
        return messages
    runs, rows, tombstones = tx.schema.runs, tx.schema.messages, tx.schema.tombstones
    answer = tx.connection.execute(
        select(rows.c.parent_id)
        .join(runs, runs.c.message_id == rows.c.message_id)
        .where(runs.c.run_id == run.parent_run_id, rows.c.conversation_id == run.conversation_id)
    ).first()
    if answer is not None:
        return beside(run, messages, answer.parent_id)
    deleted = select(tombstones.c.id).where(tombstones.c.kind == "run", tombstones.c.id == run.parent_run_id)
    if tx.connection.execute(deleted).first() is not None:
        raise refusals.run_unknown(run.parent_run_id)
    return messages


def _known(tx: Tx, run: NewRun, slot: str | None) -> RunRecord | None:
    """Return the run that this `create` made before, if it did; raise where it clashes with another."""
    runs, tombstones = tx.schema.runs, tx.schema.tombstones
    if slot is not None:
        known = _made_under(tx, slot, run.idempotency_key, run.digest)
        if known is not None:
            return known
    row = tx.connection.execute(select_run(tx.schema).where(runs.c.run_id == run.run_id)).first()
    if row is not None:
        record = run_record(tx.payloads, row)
        if row.slot == slot and same_run(record, run):
            return record
        raise refusals.run_id_taken(run.run_id)
    deleted = select(tombstones.c.id).where(tombstones.c.kind == "run", tombstones.c.id == run.run_id)
    if tx.connection.execute(deleted).first() is not None:
        raise refusals.run_id_taken(run.run_id)
    return None


def created(tx: Tx, principal: Principal | None, key: str, digest: str) -> RunRecord | None:
    """See `EventBuffer.created`."""
    return _made_under(tx, idempotency_slot(*owner_and_tenant(principal), key), key, digest)


def _made_under(tx: Tx, slot: str, key: str | None, digest: str | None) -> RunRecord | None:
    row = tx.connection.execute(select_run(tx.schema).where(tx.schema.runs.c.slot == slot)).first()
    if row is None:
        return None
    if row.digest != digest:
        raise refusals.key_used(key, row.run_id)
    return run_record(tx.payloads, row)


def _locked_conversation(tx: Tx, conversation_id: str) -> Any:
    conversations = tx.schema.conversations
    found = select(conversations).where(conversations.c.conversation_id == conversation_id)
    return tx.connection.execute(found.with_for_update()).first()


def _enter(tx: Tx, run: NewRun, owner: str | None, tenant: str | None, row: Any) -> bool:
    """Make the conversation, or enter it if it is the principal's; ``row`` is what is there. Return whether
    the run has the slot."""
    conversations, tombstones = tx.schema.conversations, tx.schema.tombstones
    values = {"active_run_id": run.run_id, "leaf_id": run.message_id, "updated_at": tx.now}
    if row is not None:
        if (row.owner, row.tenant) != (owner, tenant):
            raise refusals.conversation_foreign(run.conversation_id)
        entrance = decide_entrance(
            active_run_id=row.active_run_id, enqueue=run.enqueue, leaf_id=row.leaf_id, follows=run.follows
        )
        if entrance == "busy":
            raise refusals.conversation_busy(run.conversation_id, row.active_run_id)
        if entrance == "moved":
            raise refusals.conversation_moved(run.conversation_id, run.follows)
        if entrance == "enqueued":
            del values["active_run_id"]
        mine = conversations.c.conversation_id == run.conversation_id
        tx.connection.execute(update(conversations).where(mine).values(values))
        return entrance == "active"
    deleted = select(tombstones.c.id).where(
        tombstones.c.kind == "conversation", tombstones.c.id == run.conversation_id
    )
    if tx.connection.execute(deleted).first() is not None:
        raise refusals.conversation_deleted(run.conversation_id)
    if run.follows:
        raise refusals.conversation_moved(run.conversation_id, run.follows)
    title = None if run.title is None else tx.payloads.put(encode_text(run.title))
    tx.connection.execute(
        insert(conversations).values(
            conversation_id=run.conversation_id,
            owner=owner,
            tenant=tenant,
            title=title,
            created_at=tx.now,
            **values,
        )
    )
    return True


def _begin_segment(tx: Tx, run_id: str, fence: int, generation: str, first_seq: int) -> None:
    tx.connection.execute(
        insert(tx.schema.segments).values(
            run_id=run_id, fence=fence, generation=generation, first_seq=first_seq, claimed_at=tx.now
        )
    )


# ---------------------------------------------------------------------------------------------------- claim


def claim(tx: Tx, worker: str, ttl: float, run_id: str | None, log_versions: Collection[int]) -> Claim | None:
    """See `EventBuffer.claim`."""
    row = _waiting_longest(tx, run_id, log_versions)
    if row is None:
        return None
    runs = tx.schema.runs
    generation = next_generation(row.generation, tx.token())
    tx.connection.execute(
        update(runs)
        .where(runs.c.run_id == row.run_id)
        .values(
            status="running",
            owner=worker,
            lease_until=tx.now + int(ttl * 1000),
            fence=row.fence + 1,
            generation=generation,
            ready_at=None,
            updated_at=tx.now,
        )
    )
    _begin_segment(tx, row.run_id, row.fence + 1, generation, row.head_seq + 1)
    record = get_run(tx, row.run_id)
    assert record is not None
    return claim_of(record, row)


def _waiting_longest(tx: Tx, run_id: str | None, log_versions: Collection[int]) -> Any:
    """Return the row of the run to take; that of the named one, if it is to be had.

    A row that somebody has locked is passed over, unless just that one is meant: it is waited for.
    """
    rows = (
        tx.connection.execute(query.with_for_update(skip_locked=run_id is None)).first()
        for query in _candidates(tx, run_id, log_versions)
    )
    return longest_waiting(rows, tx.now)


def _candidates(tx: Tx, run_id: str | None, log_versions: Collection[int]) -> Iterator[Select[Any]]:
    """Yield a query for each state that a run may be taken from, so that each finds its index."""
    runs = tx.schema.runs
    known = select(runs).where(runs.c.log_version.in_(sorted(log_versions))).limit(1)
    if run_id is not None:
        yield known.where(runs.c.run_id == run_id)
        return
    for status, since in (
        ("queued", runs.c.ready_at),
        ("running", runs.c.lease_until),
        ("suspended", runs.c.ready_at),
    ):
        yield known.where(runs.c.status == status, since <= tx.now).order_by(since, runs.c.number)


def renew(tx: Tx, lease: Lease, ttl: float) -> Lease:
    """See `EventBuffer.renew`."""
    head = tx.hot.heads([lease.run_id]).get(lease.run_id)
    if head is None or judge(tx, head, lease, (), keeps=True) != "write":
        raise refusals.lease_lost(lease, *((None, 0) if head is None else (head.generation, head.head_seq)))
    runs = tx.schema.runs
    until = tx.now + int(ttl * 1000)
    tx.connection.execute(update(runs).where(runs.c.run_id == lease.run_id).values(lease_until=until))
    return Lease(
        run_id=lease.run_id,
        worker=lease.worker,
        generation=lease.generation,
        fence=lease.fence,
        head_seq=lease.head_seq,
        expires_at=until,
        inputs=head.unread > 0,
    )


# ----------------------------------------------------------------------------------------------------- post


def post(tx: Tx, run_id: str, posted: Input) -> Posted:
    """See `EventBuffer.post`. The run's row is locked first, or a run could be suspended between look and
    leap."""
    runs, inputs = tx.schema.runs, tx.schema.inputs
    body = encode_body(posted)
    run = tx.connection.execute(select(runs).where(runs.c.run_id == run_id).with_for_update()).first()
    if run is None:
        raise refusals.run_unknown(run_id)
    first = tx.connection.execute(
        select(inputs.c.body).where(
            inputs.c.run_id == run_id, inputs.c.kind == posted.kind, inputs.c.key == posted.key
        )
    ).first()
    before = None if first is None else tx.payloads.get(first.body)
    reception = decide_post(posted.kind, body, before=before, over=run.ended_at is not None)
    if reception == "conflict":
        raise refusals.answered_otherwise(run_id, posted)
    if reception == "over":
        raise refusals.run_over(run_id, run.status, posted)
    if reception == "new":
        number = run.posted + 1
        tx.connection.execute(
            insert(inputs).values(
                run_id=run_id,
                kind=posted.kind,
                key=posted.key,
                number=number,
                body=tx.payloads.put(body),
                posted_by=posted.by,
                at=tx.now,
            )
        )
        values = {"posted": number, "status": status_after_post(run.status), "updated_at": tx.now}
        enqueued = is_enqueued(run.status, queued_at=run.ready_at)
        if wakes(posted.kind, status=run.status, enqueued=enqueued):
            values["ready_at"] = tx.now
        tx.connection.execute(update(runs).where(runs.c.run_id == run_id).values(values))
    after = get_run(tx, run_id)
    assert after is not None
    return Posted(after, new=reception == "new")
