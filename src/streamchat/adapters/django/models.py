"""The tables of `DjangoEventBuffer`, in the project's own database.

They are the buffer's to write: a row that is changed by hand is not told to readers, and may be refused by
the rules of the log. Times are integer milliseconds since the epoch, by the database's clock. Payload columns
are bytes, never text or JSON: a NUL or a lone surrogate would poison a transaction. What changes with every
append is kept small, so a run's request stands in a table of its own.
"""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import models

from streamchat.adapters.django.fields import ExactField, PayloadField

__all__ = [
    "Conversation",
    "Event",
    "Message",
    "Note",
    "PostedInput",
    "Run",
    "RunRequest",
    "Segment",
    "Tombstone",
]


def _belongs_to(model: Any, **options: Any) -> dict[str, Any]:
    """Return the arguments of a key to ``model`` that the database does not check: the buffer deletes in its
    own order, and checking would lock rows."""
    return {"to": model, "on_delete": models.DO_NOTHING, "db_constraint": False, **options}


class Conversation(models.Model):
    """A conversation: whose it is, and which run holds its slot."""

    conversation_id = ExactField(primary_key=True)
    owner = ExactField(null=True)
    tenant = ExactField(null=True)
    title = PayloadField(null=True)
    active_run_id = ExactField(null=True)
    leaf_id = ExactField(null=True)
    created_at = models.BigIntegerField()
    updated_at = models.BigIntegerField()

    class Meta:
        default_permissions = ("view",)
        indexes: ClassVar = [
            models.Index(
                fields=["owner", "tenant", "updated_at", "conversation_id"], name="streamchat_conv_of"
            )
        ]

    def __str__(self) -> str:
        return str(self.conversation_id)


class Run(models.Model):
    """A run: where its log is, who holds it, and when what may happen to it."""

    number = models.BigAutoField(primary_key=True)
    run_id = ExactField(unique=True)
    conversation = models.ForeignKey(**_belongs_to(Conversation), related_name="runs", db_index=False)
    message_id = ExactField()
    parent_run_id = ExactField(null=True)
    principal = ExactField(null=True)
    tenant = ExactField(null=True)
    slot = ExactField(max_length=64, null=True, unique=True)
    digest = ExactField(null=True)
    log_version = models.SmallIntegerField()
    created_at = models.BigIntegerField()
    status = ExactField(max_length=16)
    ready_at = models.BigIntegerField(null=True)
    ended_at = models.BigIntegerField(null=True)
    updated_at = models.BigIntegerField()
    generation = ExactField(max_length=64)
    fence = models.IntegerField()
    owner = ExactField(null=True)
    lease_until = models.BigIntegerField(null=True)
    first_seq = models.BigIntegerField()
    batch_seq = models.BigIntegerField()
    head_seq = models.BigIntegerField()
    log_bytes = models.BigIntegerField()
    posted = models.IntegerField()
    consumed = models.IntegerField()

    class Meta:
        default_permissions = ("view",)
        indexes: ClassVar = [
            models.Index(fields=["status", "ready_at"], name="streamchat_run_ready"),
            models.Index(fields=["conversation", "number"], name="streamchat_run_of"),
            models.Index(fields=["principal", "tenant"], name="streamchat_run_by"),
            models.Index(fields=["ended_at"], name="streamchat_run_ended"),
        ]

    def __str__(self) -> str:
        return str(self.run_id)


class RunRequest(models.Model):
    """What a fresh process needs to go on with a run, and its principal's claims."""

    run = models.OneToOneField(
        **_belongs_to(Run, to_field="run_id", primary_key=True, related_name="body", db_column="run_id")
    )
    request = PayloadField()
    claims = PayloadField(null=True)

    class Meta:
        default_permissions = ()


class Message(models.Model):
    """A message of a conversation; ``content`` is JSON, maybe encrypted."""

    number = models.BigAutoField(primary_key=True)
    message_id = ExactField(unique=True)
    conversation = models.ForeignKey(**_belongs_to(Conversation), related_name="messages", db_index=False)
    role = ExactField(max_length=16)
    status = ExactField(max_length=16)
    kind = ExactField(max_length=64)
    content = PayloadField()
    private = PayloadField(null=True)
    run_id = ExactField(null=True)
    parent_id = ExactField(null=True)
    created_at = models.BigIntegerField()

    class Meta:
        default_permissions = ("view",)
        indexes: ClassVar = [
            models.Index(fields=["conversation", "number"], name="streamchat_message_of"),
            models.Index(fields=["run_id"], name="streamchat_message_by_run"),
        ]

    def __str__(self) -> str:
        return str(self.message_id)


class Segment(models.Model):
    """What one holder appended in a row; never trimmed."""

    pk = models.CompositePrimaryKey("run_id", "fence")
    run_id = ExactField()
    fence = models.IntegerField()
    generation = ExactField(max_length=64)
    first_seq = models.BigIntegerField()
    claimed_at = models.BigIntegerField()

    class Meta:
        default_permissions = ()


class Event(models.Model):
    """An event of a run's log."""

    pk = models.CompositePrimaryKey("run_id", "seq")
    run_id = ExactField()
    seq = models.BigIntegerField()
    type = ExactField()
    data = PayloadField()
    private = PayloadField(null=True)
    at = models.BigIntegerField()

    class Meta:
        default_permissions = ()


class PostedInput(models.Model):
    """What was posted to a run from outside: a cancel, or an answer."""

    pk = models.CompositePrimaryKey("run_id", "kind", "key")
    run_id = ExactField()
    kind = ExactField(max_length=32)
    key = ExactField()
    number = models.IntegerField()
    body = PayloadField()
    posted_by = ExactField(null=True)
    at = models.BigIntegerField()
    consumed_at = models.BigIntegerField(null=True)

    class Meta:
        default_permissions = ()


class Note(models.Model):
    """What stands beside a run for a while."""

    pk = models.CompositePrimaryKey("run_id", "name")
    run_id = ExactField()
    name = ExactField()
    body = PayloadField()
    expires_at = models.BigIntegerField()

    class Meta:
        default_permissions = ()
        indexes: ClassVar = [models.Index(fields=["expires_at"], name="streamchat_note_due")]


class Tombstone(models.Model):
    """The id of something that was deleted, so that it is not taken again."""

    pk = models.CompositePrimaryKey("kind", "id")
    kind = ExactField(max_length=16)
    id = ExactField()
    deleted_at = models.BigIntegerField()

    class Meta:
        default_permissions = ()
