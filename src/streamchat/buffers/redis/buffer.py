"""`RedisEventBuffer`: runs in Redis Streams, each change one Lua script, many scripts in one round trip."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

from redis.asyncio import Redis, RedisCluster

from streamchat.buffers import refusals
from streamchat.buffers.base import (
    LOG_VERSION,
    Appended,
    Claim,
    Created,
    Follower,
    Input,
    Lease,
    MessageRecord,
    NewEvent,
    NewRun,
    Posted,
    RunStatus,
    Then,
)
from streamchat.buffers.codec import Codec, Payloads
from streamchat.buffers.following import Followers
from streamchat.buffers.redis import answers, records, scripts
from streamchat.buffers.redis.checking import check_server
from streamchat.buffers.redis.connecting import Server, server_for
from streamchat.buffers.redis.lanes import Argument, Call, Lane
from streamchat.buffers.redis.listening import Listener, RedisFollower
from streamchat.buffers.redis.noting import RedisNotes
from streamchat.buffers.redis.reading import RedisReading
from streamchat.buffers.redis.records import optional, raw, text
from streamchat.buffers.redis.scripts import Script
from streamchat.buffers.redis.tokens import Tokens
from streamchat.buffers.shared import (
    Clock,
    Token,
    check_create,
    check_page,
    check_run_id,
    encode_body,
    input_id,
    owner_and_tenant,
    random_token,
)
from streamchat.concurrency import on_asyncio
from streamchat.core.append_rule import decide_post, idempotency_slot
from streamchat.core.cursor import RUN_PART, next_generation
from streamchat.core.given import check_instance, check_number
from streamchat.errors import BufferUnavailable, InvalidInput, StreamChatError

__all__ = ["RedisEventBuffer"]

_TRIM_TOGETHER = 100
_READ_LINKS = 2
_READ_TOGETHER = 16


@dataclass(slots=True)
class _Opened:
    server: Server
    writes: Lane
    reads: Lane
    listener: Listener


class RedisEventBuffer(RedisReading, RedisNotes):
    """An `EventBuffer` in Redis (6.2 and later) or Valkey, which any number of processes may share.

    ``url_or_client`` is a URL (``redis://``, ``rediss://``, ``valkey://``, ``valkeys://``, ``unix://``; also
    that of a cluster's node) or a `redis.asyncio` client, of which only the settings are used: it stays the
    caller's, and the buffer has connections of its own, closed with it. ``prefix`` begins all keys, as
    ``{prefix}:``, so that in a cluster they are all on one node; two deployments on one server need two
    prefixes. ``codec`` compresses or encrypts payload; ``older_codecs`` read what was written with former
    keys. ``timeout`` (seconds) bounds each round trip, connecting included. ``clock`` (by default the
    server's) and ``token`` are for tests.

    What was acknowledged survives while the server lives. What its crash or failover loses (with
    ``appendfsync everysec`` up to a second or two) shows as `LeaseLost` and as a reset of readers, never as
    wrong data. The server must not evict: ``maxmemory-policy noeviction``. Needs asyncio, and is used on the
    loop that it was opened on.
    """

    def __init__(
        self,
        url_or_client: str | Redis | RedisCluster,
        *,
        prefix: str,
        codec: Codec | None = None,
        older_codecs: Iterable[Codec] = (),
        timeout: float = 5.0,
        clock: Clock | None = None,
        token: Token = random_token,
    ) -> None:
        """Raises `InvalidInput` for a prefix that is empty or has braces in it, and for a URL or client that
        is none."""
        check_instance("prefix", prefix, str, "text with which all keys begin")
        check_number("timeout", timeout, above=0, finite=True)
        if not prefix or "{" in prefix or "}" in prefix:
            raise InvalidInput(
                f"prefix={prefix!r}: it must not be empty (deployments that share a server would mix), "
                f"nor have braces (it is a cluster's hash tag)",
                field="prefix",
            )
        self._given = url_or_client
        self._prefix = prefix
        self._payloads = Payloads(codec, older_codecs)
        self._timeout = timeout
        self._clock = clock
        self._tokens = Tokens(token)
        self._followers = Followers()
        self._opening = asyncio.Lock()
        self._opened: _Opened | None = None
        # A URL that is none is told of where it is written.
        server_for(url_or_client, prefix)

    # ----------------------------------------------------------------------------------- opening and closing

    async def open(self) -> Self:
        """Connect, and look whether the server will do; idempotent.

        Raises `BufferUnavailable` where it cannot be reached, refuses, is older than 6.2 or a replica,
        `InvalidInput` for a database that it has not. Warns (`RedisEvictionWarning`) of a server that evicts.
        """
        if not on_asyncio():
            raise StreamChatError("RedisEventBuffer needs asyncio; on trio, MemoryEventBuffer works")
        async with self._opening:
            if self._opened is not None:
                return self
            server = server_for(self._given, f"{{{self._prefix}}}:")
            writes = Lane(
                server, self._prefix, links=1, timeout=self._timeout, name="streamchat-redis-writer"
            )
            reads = Lane(
                server,
                self._prefix,
                links=_READ_LINKS,
                timeout=self._timeout,
                name="streamchat-redis-reader",
                together=_READ_TOGETHER,
            )
            listener = Listener(server, reads, self._followers, self._prefix, self._timeout)
            opened = _Opened(server, writes, reads, listener)
            writes.start()
            reads.start()
            try:
                # In a cluster, this finds the node that holds the keys; elsewhere, that scripts may be run.
                await writes.do(Call(scripts.HEADS, [b""]))
                info = b""
                with contextlib.suppress(BufferUnavailable):  # not everybody may ask for it
                    info = await writes.do(Call(None, ["INFO"]))
                check_server(info.decode("utf-8", "replace"), server.where)
            except BaseException:
                await self._shut(opened)
                raise
            self._opened = opened
        return self

    async def close(self) -> None:
        """Finish what is waiting, end all tasks and connections; idempotent. A cancellation waits for
        that."""
        self._followers.close()
        opened, self._opened = self._opened, None
        if opened is not None:
            await self._shut(opened)

    async def _shut(self, opened: _Opened) -> None:
        try:
            await opened.listener.stop()
        finally:
            try:
                await opened.writes.stop()
            finally:
                try:
                    await opened.reads.stop()
                finally:
                    await opened.server.close()

    # ----------------------------------------------------------------------------------------------- writing

    async def create(
        self, run: NewRun, messages: Sequence[MessageRecord] = (), kept: Sequence[NewEvent] = ()
    ) -> Created:
        """Write a run; see `EventBuffer.create`. A run id that was used for another run is `InvalidInput`."""
        check_create(run, messages, kept)
        owner, tenant = owner_and_tenant(run.principal)
        slot = "" if run.idempotency_key is None else idempotency_slot(owner, tenant, run.idempotency_key)
        tokens = self._tokens.take(), self._tokens.take()
        generation = next_generation(*tokens)
        arguments = answers.create_arguments(
            self._payloads,
            run,
            messages,
            kept,
            slot=slot,
            whose=records.whose(owner, tenant),
            generation=generation,
        )
        call = Call(scripts.CREATE, self._arguments(arguments), _size(arguments))
        answer = await self._lanes().writes.do(call)
        word = text(answer[0])
        # Under this generation it can only be what an earlier try of this very call wrote.
        new = word == "new" or (word in ("known", "same_id") and _first(answer) == generation)
        if not new and not call.again:
            self._tokens.give_back(*tokens)
        if word not in ("new", "known", "same_id"):
            raise answers.create_refused(word, run, text(answer[1]) if len(answer) > 1 else "")
        record = answers.made_before(self._payloads, run, slot, word, text(answer[3]), answer[1])
        if new:
            self._followers.notify((record.run_id,))
        return Created(record, new=new)

    async def claim(
        self,
        worker: str,
        ttl: float,
        run_id: str | None = None,
        *,
        log_versions: Collection[int] = (LOG_VERSION,),
    ) -> Claim | None:
        """Take a run that nobody holds; see `EventBuffer.claim`. Cancelled, a run that was taken is given
        back."""
        token = self._tokens.take()
        arguments: list[Argument] = [
            token,
            raw(worker),
            int(ttl * 1000),
            RUN_PART,
            optional(run_id),
            *sorted(log_versions),
        ]
        writes = self._lanes().writes
        call = Call(scripts.CLAIM, self._arguments(arguments), undo=lambda: self._give_back(writes, token))
        answer = await writes.do(call)
        if answer is None:
            if not call.again:
                self._tokens.give_back(token)
            return None
        was, unread, name, flat = answer
        record = records.run_record(self._payloads, text(name), flat)
        assert record is not None
        lease = Lease(
            run_id=record.run_id,
            worker=worker,
            generation=record.generation,
            fence=record.fence,
            head_seq=record.head_seq,
            expires_at=record.lease_until or 0,
            inputs=unread > 0,
        )
        return Claim(lease, record, cast(RunStatus, text(was)))

    def _give_back(self, writes: Lane, token: str) -> None:
        """Queue the run again that a claim has taken whose answer nobody got."""
        with contextlib.suppress(StreamChatError):  # closed: the lease runs out
            writes.send(Call(scripts.RELEASE, self._arguments([token, RUN_PART])), late=True)

    async def append(
        self,
        lease: Lease,
        events: Sequence[NewEvent],
        *,
        messages: Sequence[MessageRecord] = (),
        consumed: Sequence[str] = (),
        then: Then = "hold",
        wake_at: int | None = None,
        keep_slot: bool = True,
    ) -> Appended:
        """Write a batch; see `EventBuffer.append`."""
        packed = records.pack_batch(self._payloads, events)
        arguments = answers.append_arguments(
            self._payloads,
            lease,
            events,
            packed,
            messages=messages,
            consumed=consumed,
            then=then,
            wake_at=wake_at,
            keep_slot=keep_slot,
        )
        size = _size(arguments) if messages else len(packed)
        call = Call(scripts.APPEND, self._arguments(arguments), size)
        answer = await self._lanes().writes.do(call)
        if call.again and answers.settles_only_the_first(answer):
            # Readers may have what the first try wrote, and a failover then lost: the holder must know.
            raise BufferUnavailable(
                f"run {lease.run_id!r}: the connection broke under a batch, and nobody knows what became of "
                f"it: send it again unchanged"
            )
        result = answers.appended(self._payloads, lease, events, messages, answer)
        self._followers.notify((lease.run_id,))
        return result

    async def renew(self, lease: Lease, ttl: float) -> Lease:
        """Hold on for ``ttl`` seconds from now; see `EventBuffer.renew`."""
        answer = await self._write(
            scripts.RENEW, raw(lease.run_id), raw(lease.generation), lease.head_seq, int(ttl * 1000)
        )
        if answer[0] != b"renewed":
            raise answers.lease_lost(lease, answer)
        return Lease(
            run_id=lease.run_id,
            worker=lease.worker,
            generation=lease.generation,
            fence=lease.fence,
            head_seq=lease.head_seq,
            expires_at=int(answer[2]),
            inputs=answer[1] > 0,
        )

    async def post(self, run_id: str, posted: Input) -> Posted:
        """Leave an input for the run's holder; see `EventBuffer.post`."""
        check_run_id(run_id)
        body = encode_body(posted)
        name = input_id(posted.kind, posted.key)
        nonce = secrets.token_bytes(8)
        answer = await self._write(
            scripts.POST,
            raw(run_id),
            raw(name),
            self._payloads.put(body),
            optional(posted.by),
            nonce,
            size=len(body),
        )
        word = answer[0]
        if word == b"unknown":
            raise refusals.run_unknown(run_id)
        before = self._payloads.get(answer[1]) if word == b"before" else None
        reception = decide_post(posted.kind, body, before=before, over=word == b"over")
        if reception == "over":
            raise refusals.run_over(run_id, text(answer[1]), posted)
        if reception == "conflict":
            raise refusals.answered_otherwise(run_id, posted)
        record = records.run_record(self._payloads, run_id, answer[-1])
        assert record is not None
        # With this nonce it is what an earlier try of this very call wrote.
        new = word == b"posted" or answer[2] == nonce
        if new:
            self._followers.notify((run_id,))
        return Posted(record, new=new)

    async def trim(self, older_than: int, limit: int = 1000) -> int:
        """Drop old events of finished runs; see `EventBuffer.trim`. The server is given time for others
        between."""
        check_page(0, limit)
        trimmed = 0
        while trimmed < limit:
            most = min(limit - trimmed, _TRIM_TOGETHER)
            count = int(await self._write(scripts.TRIM, older_than, most))
            trimmed += count
            if count < most:
                break
        return trimmed

    async def delete(
        self,
        *,
        run_id: str | None = None,
        conversation_id: str | None = None,
        owner: str | None = None,
        tenant: str | None = None,
    ) -> int:
        """Delete a run, a conversation, or all that belongs to a principal; see `EventBuffer.delete`.

        What belongs to a principal goes conversation by conversation, each as a whole: after an error, call
        it again.
        """
        if sum(x is not None for x in (run_id, conversation_id, owner)) != 1:
            raise refusals.one_selector()
        gone: list[str] = []
        if run_id is not None:
            if await self._write(scripts.DELETE_RUN, raw(run_id)):
                gone = [run_id]
        elif conversation_id is not None:
            gone = await self._delete_conversation(raw(conversation_id), b"")
        else:
            whose = records.whose(owner, tenant).encode()
            while names := await self._write(scripts.OWNED, whose, _TRIM_TOGETHER):
                for name in names:
                    gone += await self._delete_conversation(name, whose)
        self._followers.notify(gone)
        return len(gone)

    async def _delete_conversation(self, conversation: bytes, whose: bytes) -> list[str]:
        return [text(run) for run in await self._write(scripts.DELETE_CONVERSATION, conversation, whose)]

    async def follow(self, run_id: str) -> Follower:
        """Watch a run for appends and posts, by this process and by others."""
        return RedisFollower(self._lanes().listener, self._followers.follow(run_id))

    # --------------------------------------------------------------------------------------------- the parts

    def _lanes(self) -> _Opened:
        if self._opened is None:
            raise BufferUnavailable("the buffer is not open: await its open() first")
        return self._opened

    async def set_title(self, conversation_id: str, title: str | None) -> bool:
        """Give a conversation another title, or none; see `TitleStore.set_title`."""
        stored = b"" if title is None else b"=" + self._payloads.put(records.raw(title))
        return bool(await self._write(scripts.SET_TITLE, records.raw(conversation_id), stored))

    def _arguments(self, arguments: Sequence[Argument]) -> list[Argument]:
        return ["" if self._clock is None else self._clock(), *arguments]

    async def _write(self, script: Script, *arguments: Argument, size: int = 0) -> Any:
        return await self._lanes().writes.do(Call(script, self._arguments(arguments), size))

    async def _read(self, script: Script, *arguments: Argument) -> Any:
        return await self._lanes().reads.do(Call(script, self._arguments(arguments)))


def _first(made: Sequence[Any]) -> str:
    """Return the generation that a run began with."""
    return records.segment(made[2]).generation


def _size(arguments: Sequence[Argument]) -> int:
    return sum(len(one) for one in arguments if isinstance(one, bytes))
