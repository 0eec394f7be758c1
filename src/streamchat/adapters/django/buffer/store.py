"""Django's connections as the writing thread and the reading ones use them: each its own, for as long as the
buffer is open.

Django keeps a connection for each thread, and closes it with the request. These threads serve no request, so
nothing of Django's opens or closes theirs: neither ``CONN_MAX_AGE`` nor ``ATOMIC_REQUESTS`` nor a view's
transaction has a say. What a view has not committed, they do not see; what they write stands whatever becomes
of the view.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar, cast

from django.db import connections, transaction

from streamchat.adapters.django.buffer.errors import Fault, fault_of, translate
from streamchat.adapters.django.buffer.tx import Tx
from streamchat.adapters.django.models import Run
from streamchat.buffers.codec import Payloads
from streamchat.buffers.shared import Clock, Token, now_ms
from streamchat.buffers.transactional.appending import AppendJob, append_many
from streamchat.buffers.transactional.jobs import Job
from streamchat.errors import BufferUnavailable, StreamChatError

__all__ = ["DjangoSession", "DjangoStore"]

R = TypeVar("R")

_LOCK_MILLISECONDS = 300
"""How long a statement waits on PostgreSQL for a row that another has locked; on MySQL it is a second."""
_LOCKED = 3
"""So often a job is tried against rows that others have locked: all other jobs wait meanwhile."""
_CLASHES = 5

_NOW = {
    "postgresql": "SELECT (extract(epoch from clock_timestamp()) * 1000)::bigint",
    "mysql": "SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) DIV 1000",
}


def _atomic(using: str, *, durable: bool = False) -> Any:
    # It is a decorator as well, which confuses those who read it without types.
    return cast(Any, transaction.atomic)(using=using, durable=durable)


class _Tries:
    """What a transaction has met with so far, and whether it is tried once more; ``alone``: with one job."""

    def __init__(self, seconds: float, *, alone: bool) -> None:
        self._deadline = time.monotonic() + seconds
        self._alone = alone
        self._met: Counter[Fault] = Counter()
        self.stage: Literal["begin", "work", "commit"] = "begin"

    def again(self, fault: Fault | None, vendor: str) -> bool:
        """Note a failure, and say whether to try again."""
        if fault is None or time.monotonic() > self._deadline:
            return False
        self._met[fault] += 1
        if fault == "gone":
            return self.stage != "commit" and self._met[fault] == 1
        if fault == "clash":
            return self._alone and self._met[fault] <= _CLASHES
        if vendor == "sqlite":  # it has no locked rows: it is the whole database, and passes
            return True
        return (self._alone or fault == "deadlock") and self._met["locked"] + self._met["deadlock"] < _LOCKED

    def pause(self) -> None:
        """Let others go on."""
        longest = 0.002 if self.stage == "begin" else min(0.002 * 2 ** self._met.total(), 0.1)
        time.sleep(random.uniform(longest / 20, longest))


class DjangoStore:
    """What the writer needs of the project's database ``using``; sessions to read by are made here too."""

    def __init__(
        self,
        using: str,
        payloads: Payloads,
        *,
        clock: Clock | None,
        token: Token,
        busy_seconds: float,
    ) -> None:
        self._using = using
        self._payloads = payloads
        self._clock = clock
        self._token = token
        self._busy_seconds = busy_seconds
        self.where = f"database {using!r}"

    def session(self) -> DjangoSession:
        """Return the calling thread's way to read."""
        return DjangoSession(self)

    def connect(self) -> None:
        """Open the writing connection, and check that there is something to work with."""
        if not self._is_known():
            known = ", ".join(map(repr, connections))
            raise BufferUnavailable(f"{self.where} is no entry of DATABASES, which has {known}")
        connection = self.connected(writes=True)
        if connection.vendor not in ("sqlite", "postgresql", "mysql"):
            raise BufferUnavailable(
                f"{self.where} is of the kind {connection.vendor!r}: DjangoEventBuffer works on SQLite, "
                f"PostgreSQL, MariaDB and MySQL"
            )
        if connection.settings_dict["NAME"] == ":memory:":
            raise BufferUnavailable(
                f"{self.where} is in memory, where each thread has its own: use a file, or MemoryEventBuffer"
            )
        Run._base_manager.using(self._using).exists()

    def disconnect(self) -> None:
        """Close the calling thread's connection."""
        if self._is_known():
            connections[self._using].close()

    def _is_known(self) -> bool:
        return self._using in cast(Any, connections.settings)

    def translate(self, error: Exception, *, change: bool = False) -> Exception:
        """Return the error that callers are to see."""
        return translate(error, self.where, change=change)

    def transact(self, jobs: Sequence[Job[Tx, Any]], *, durable: bool) -> None:
        """Do all jobs in one transaction; see `Store.transact`.

        What stands in the way of a single job is tried again for a while. With several, it is told: they are
        then tried one by one, and no other is held up for longer than that.
        """
        tries = _Tries(self._busy_seconds, alone=len(jobs) == 1)
        while True:
            tries.stage = "begin"
            connection = self._writing()
            driver = connection.connection
            try:
                self._sync(connection, durable)
                with _atomic(self._using, durable=True):
                    tries.stage = "work"
                    self._perform(self._begun(connection, writes=True), jobs)
                    tries.stage = "commit"
                return
            except StreamChatError:
                raise
            except Exception as error:
                fault = fault_of(error, connection, driver)
                if fault == "gone":
                    connection.close()
                if not tries.again(fault, connection.vendor):
                    told = self.translate(error, change=True)
                    if tries.stage == "work" or told is error:
                        raise
                    # No job alone would fare better. And after a commit that nobody answered, only the caller
                    # knows how to find out whether it was written.
                    raise told from error
            finally:
                connection.queries_log.clear()  # with DEBUG, Django keeps what was executed
            tries.pause()

    def connected(self, *, writes: bool) -> Any:
        """Return the calling thread's connection, open and set up."""
        connection = connections[self._using]
        if connection.connection is not None and connection.errors_occurred:
            if connection.is_usable():
                connection.errors_occurred = False
            else:
                connection.close()
        connection.ensure_connection()
        # Django also connects by itself: where a connection breaks in a transaction.
        if getattr(connection, "_streamchat_set_up", None) is not connection.connection:
            self._set_up(connection, writes=writes)
            connection._streamchat_set_up = connection.connection
        return connection

    @staticmethod
    def _time(connection: Any) -> int:
        """Return the database's time; SQLite's is this machine's."""
        statement = _NOW.get(connection.vendor)
        if statement is None:
            return now_ms()
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return int(cursor.fetchone()[0])

    @staticmethod
    def _sync(connection: Any, durable: bool) -> None:
        """On SQLite, in WAL mode, sync what must last, and with it all that went before; deltas are not
        waited for."""
        if connection.vendor != "sqlite" or connection._streamchat_syncs in (None, durable):
            return
        with connection.cursor() as cursor:
            cursor.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        connection._streamchat_syncs = durable

    @staticmethod
    def _set_up(connection: Any, *, writes: bool) -> None:
        statements: list[str] = []
        if connection.vendor == "sqlite":
            # A transaction that turns to writing fails whenever somebody else wrote in between.
            connection.transaction_mode = "IMMEDIATE" if writes else None
            # Its own waiting goes by a fixed scheme, which starved one of two processes.
            statements = ["PRAGMA busy_timeout = 0"] if writes else []
            with connection.cursor() as cursor:
                cursor.execute("PRAGMA journal_mode")
                (mode,) = cursor.fetchone()
            syncs = writes and mode == "wal"
            statements += ["PRAGMA synchronous = FULL"] if syncs else []
            # None: left as it is. Without WAL, NORMAL could damage the file.
            connection._streamchat_syncs = True if syncs else None
        elif connection.vendor == "mysql":
            level = "READ COMMITTED" if writes else "REPEATABLE READ"
            statements = [
                f"SET SESSION TRANSACTION ISOLATION LEVEL {level}",
                "SET SESSION innodb_lock_wait_timeout = 1",
            ]
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def _writing(self) -> Any:
        try:
            return self.connected(writes=True)
        except Exception as error:
            told = self.translate(error)
            if told is error:
                raise
            raise told from error

    def _begun(self, connection: Any, *, writes: bool) -> Tx:
        """Return the inside of the transaction that was just begun."""
        moment = self._clock or (lambda: self._time(connection))
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                # For this transaction only: the connection may come from a pool, and go back there.
                if writes:
                    cursor.execute("SELECT set_config('lock_timeout', %s, true)", [f"{_LOCK_MILLISECONDS}ms"])
                else:
                    cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        return Tx(connection, self._payloads, self._token, moment)

    def _perform(self, tx: Tx, jobs: Sequence[Job[Tx, Any]]) -> None:
        for job in jobs:
            job.result = job.error = None  # of an earlier try
        # Who waits in one transaction waits at the same time, so any order among them is a true one.
        plain = [job for job in jobs if isinstance(job, AppendJob) and job.plain]
        while plain:
            first = {job.run_id: job for job in reversed(plain)}
            append_many(tx, list(first.values()))
            plain = [job for job in plain if first[job.run_id] is not job]
        for job in jobs:
            if not job.plain:
                try:
                    with _atomic(self._using):
                        job.result = job.body(tx)
                except StreamChatError as error:
                    job.error = error


class DjangoSession:
    """A reading thread's own connection: see `readers.Session`."""

    def __init__(self, store: DjangoStore) -> None:
        self._store = store

    def look(self, body: Callable[[Tx], R]) -> R:
        """Run ``body`` in a transaction that sees one moment; once more where the connection was gone."""
        tried = False
        while True:
            connection = self._store.connected(writes=False)
            driver = connection.connection
            try:
                with _atomic(connection.alias):
                    return body(self._store._begun(connection, writes=False))
            except Exception as error:
                if tried or fault_of(error, connection, driver) != "gone":
                    raise
                connection.close()
                tried = True
            finally:
                connection.queries_log.clear()

    def close(self) -> None:
        """Close the connection."""
        self._store.disconnect()
