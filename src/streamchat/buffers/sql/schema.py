"""The tables, in the form that every SQL dialect gets, and their version.

What changes with every append is kept small: ``runs`` holds no payload (a run's request and its principal's
claims are in ``requests``), so that moving a head rewrites some hundred bytes. Payload columns are bytes,
never text or JSON: a NUL or a lone surrogate would poison a transaction.
"""

from __future__ import annotations

import re

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    UniqueConstraint,
    and_,
)

from streamchat.buffers.sql.columns import PAYLOAD, Exact
from streamchat.core.given import check_instance
from streamchat.errors import InvalidInput

__all__ = ["SCHEMA_VERSION", "Schema", "enqueued_in"]

SCHEMA_VERSION = 2
"""The version of these tables; other versions are refused. A new one takes a step in `migrations`."""

# Ids are ours or a principal's; keys in MySQL may have at most 3072 bytes.
_ID = Exact(191)
# An integer primary key counts up by itself on SQLite only if it is called INTEGER there.
_NUMBER = BigInteger().with_variant(Integer, "sqlite")


class Schema:
    """The tables under one ``prefix`` (lowercase letters, digits and underscores, at most 32)."""

    def __init__(self, prefix: str) -> None:
        check_instance("prefix", prefix, str, "text with which the tables' names begin")
        if re.fullmatch(r"[a-z0-9_]{0,32}", prefix) is None:
            raise InvalidInput(
                f"the table prefix {prefix!r} must be of a-z, 0-9 and _, at most 32 characters",
                field="prefix",
            )
        self.prefix = prefix
        self.metadata = MetaData()
        self.version = self._table("schema", Column("version", Integer, nullable=False))
        self.conversations = self._conversations()
        self.messages = self._messages()
        self.runs = self._runs()
        self.requests = self._table(
            "requests",
            Column("run_id", _ID, primary_key=True),
            Column("request", PAYLOAD, nullable=False),
            Column("claims", PAYLOAD),
        )
        self.segments = self._table(
            "segments",
            Column("run_id", _ID, primary_key=True),
            Column("fence", Integer, primary_key=True, autoincrement=False),
            Column("generation", Exact(64), nullable=False),
            Column("first_seq", BigInteger, nullable=False),
            Column("claimed_at", BigInteger, nullable=False),
            clustered=True,
        )
        self.events = self._table(
            "events",
            Column("run_id", _ID, primary_key=True),
            Column("seq", BigInteger, primary_key=True, autoincrement=False),
            Column("type", Exact(191), nullable=False),
            Column("data", PAYLOAD, nullable=False),
            Column("private", PAYLOAD),
            Column("at", BigInteger, nullable=False),
            clustered=True,
        )
        self.inputs = self._table(
            "inputs",
            Column("run_id", _ID, primary_key=True),
            Column("kind", Exact(32), primary_key=True),
            Column("key", _ID, primary_key=True),
            Column("number", Integer, nullable=False),
            Column("body", PAYLOAD, nullable=False),
            Column("posted_by", _ID),
            Column("at", BigInteger, nullable=False),
            Column("consumed_at", BigInteger),
            clustered=True,
        )
        self.notes = self._table(
            "notes",
            Column("run_id", _ID, primary_key=True),
            Column("name", _ID, primary_key=True),
            Column("body", PAYLOAD, nullable=False),
            Column("expires_at", BigInteger, nullable=False),
            Index(f"{prefix}notes_due", "expires_at"),
            clustered=True,
        )
        self.tombstones = self._table(
            "tombstones",
            Column("kind", Exact(16), primary_key=True),
            Column("id", _ID, primary_key=True),
            Column("deleted_at", BigInteger, nullable=False),
        )

    def _table(
        self,
        name: str,
        *columns: Column[object] | Index | UniqueConstraint,
        clustered: bool = False,
        fill: int | None = None,
    ) -> Table:
        # Clustered: rows lie in the order of their key. On SQLite that saves an index and half of the
        # writing.
        return Table(
            self.prefix + name,
            self.metadata,
            *columns,
            sqlite_with_rowid=not clustered,
            postgresql_with=None if fill is None else {"fillfactor": fill},
            mysql_engine="InnoDB",
            mariadb_engine="InnoDB",
        )

    def _conversations(self) -> Table:
        name = self.prefix + "conversations"
        return self._table(
            "conversations",
            Column("conversation_id", _ID, primary_key=True),
            Column("owner", _ID),
            Column("tenant", _ID),
            Column("title", PAYLOAD),
            Column("active_run_id", _ID),
            Column("leaf_id", _ID),
            Column("created_at", BigInteger, nullable=False),
            Column("updated_at", BigInteger, nullable=False),
            Index(f"{name}_of", "owner", "tenant", "updated_at", "conversation_id"),
        )

    def _messages(self) -> Table:
        return self._table(
            "messages",
            Column("number", _NUMBER, primary_key=True, autoincrement=True),
            Column("message_id", _ID, nullable=False, unique=True),
            Column("conversation_id", _ID, nullable=False),
            Column("role", Exact(16), nullable=False),
            Column("status", Exact(16), nullable=False),
            Column("kind", Exact(64), nullable=False),
            Column("content", PAYLOAD, nullable=False),
            Column("private", PAYLOAD),
            Column("run_id", _ID),
            Column("parent_id", _ID),
            Column("created_at", BigInteger, nullable=False),
            Index(f"{self.prefix}messages_of", "conversation_id", "number"),
            Index(f"{self.prefix}messages_by_run", "run_id"),
        )

    def _runs(self) -> Table:
        # No index on what an append or a renewal changes, and room in each page for the new version of a row:
        # PostgreSQL can then leave the indexes as they are.
        return self._table(
            "runs",
            Column("number", _NUMBER, primary_key=True, autoincrement=True),
            Column("run_id", _ID, nullable=False, unique=True),
            Column("conversation_id", _ID, nullable=False),
            Column("message_id", _ID, nullable=False),
            Column("parent_run_id", _ID),
            Column("principal", _ID),
            Column("tenant", _ID),
            Column("slot", Exact(64), unique=True),
            Column("digest", Exact(191)),
            Column("log_version", SmallInteger, nullable=False),
            Column("created_at", BigInteger, nullable=False),
            Column("status", Exact(16), nullable=False),
            Column("ready_at", BigInteger),
            Column("ended_at", BigInteger),
            Column("updated_at", BigInteger, nullable=False),
            Column("generation", Exact(64), nullable=False),
            Column("fence", Integer, nullable=False),
            Column("owner", Exact(191)),
            Column("lease_until", BigInteger),
            Column("first_seq", BigInteger, nullable=False),
            Column("batch_seq", BigInteger, nullable=False),
            Column("head_seq", BigInteger, nullable=False),
            Column("log_bytes", BigInteger, nullable=False),
            Column("posted", Integer, nullable=False),
            Column("consumed", Integer, nullable=False),
            Index(f"{self.prefix}runs_ready", "status", "ready_at"),
            Index(f"{self.prefix}runs_of", "conversation_id", "number"),
            Index(f"{self.prefix}runs_by", "principal", "tenant"),
            Index(f"{self.prefix}runs_ended", "ended_at"),
            fill=70,
        )


def enqueued_in(schema: Schema, conversation_id: str) -> ColumnElement[bool]:
    """Return what is true of the runs that wait for a conversation's slot (`append_rule.is_enqueued`)."""
    runs = schema.runs
    return and_(
        runs.c.conversation_id == conversation_id, runs.c.status == "queued", runs.c.ready_at.is_(None)
    )
