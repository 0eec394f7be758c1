"""Conversations and runs in Django's admin: to look at, never to change.

Who, which status, when: that is shown. What people and models have said is shown only with
``STREAMCHAT["ADMIN_SHOWS_CONTENT"]``, and where no codec of another process is needed to read it.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from django.contrib import admin
from django.utils.timezone import localtime

from streamchat.adapters.django import conf
from streamchat.adapters.django.models import Conversation, Event, Message, Run
from streamchat.errors import BufferError

__all__ = ["ConversationAdmin", "MessageInline", "RunAdmin", "RunInline"]

_EVENTS = 50


def _time(name: str, label: str) -> Any:
    """Return a column that shows the milliseconds of ``name`` as a time."""

    @admin.display(description=label, ordering=name)
    def shown(self: Any, row: Any) -> datetime | None:
        at = getattr(row, name)
        return None if at is None else localtime(datetime.fromtimestamp(at / 1000, UTC))

    return shown


def _said(stored: bytes | None) -> str:
    """Return payload for people, or how much of it is hidden."""
    if stored is None:
        return ""
    if not conf.shows_content():
        return f"hidden ({len(stored)} bytes)"
    try:
        return conf.payloads().get(stored).decode("utf-8", "replace")
    except BufferError as error:
        return f"not readable here: {error}"


def _words(content: str) -> str:
    """Return the text of a message's parts, and the names of the others; as it is where it is no list."""
    try:
        parts = json.loads(content)
        return "\n".join(part.get("text") or f"[{part['type']} {part.get('name', '')}]" for part in parts)
    except (ValueError, AttributeError, TypeError, KeyError):
        return content


class _OnlyLooking:
    """What can be seen by those with the permission to view it, and changed by nobody."""

    def has_add_permission(self, *_: Any) -> bool:
        return False

    def has_change_permission(self, *_: Any) -> bool:
        return False

    def has_delete_permission(self, *_: Any) -> bool:
        return False

    def get_queryset(self, request: Any) -> Any:
        # The admin's own queries go where routers say; runs are where the setting says.
        return super().get_queryset(request).using(conf.database())  # type: ignore[misc]


class MessageInline(_OnlyLooking, admin.TabularInline):  # type: ignore[misc, unused-ignore]
    """A conversation's messages, in order."""

    model = Message
    ordering = ("number",)
    fields = ("message_id", "role", "status", "kind", "created", "content_shown")
    readonly_fields = fields
    extra = 0
    created = _time("created_at", "created")

    @admin.display(description="content")
    def content_shown(self, row: Any) -> str:
        """Return what was said, where that may be shown."""
        return _words(_said(row.content))


class RunInline(_OnlyLooking, admin.TabularInline):  # type: ignore[misc, unused-ignore]
    """A conversation's runs, in order."""

    model = Run
    ordering = ("number",)
    fields = ("run_id", "status", "created", "ended", "head_seq")
    readonly_fields = fields
    extra = 0
    show_change_link = True
    created = _time("created_at", "created")
    ended = _time("ended_at", "ended")


@admin.register(Conversation)
class ConversationAdmin(_OnlyLooking, admin.ModelAdmin):  # type: ignore[misc, unused-ignore]
    """Whose conversations there are, and which run each is at."""

    list_display = ("conversation_id", "owner", "tenant", "active_run_id", "created", "updated")
    search_fields = ("=conversation_id", "=owner", "=tenant")
    ordering = ("-updated_at",)
    show_full_result_count = False
    fields = ("conversation_id", "owner", "tenant", "title_shown", "active_run_id", "created", "updated")
    readonly_fields = fields
    inlines = (MessageInline, RunInline)
    created = _time("created_at", "created")
    updated = _time("updated_at", "changed")

    @admin.display(description="title")
    def title_shown(self, row: Any) -> str:
        """Return the title: it may be a person's words."""
        return _said(row.title)


@admin.register(Run)
class RunAdmin(_OnlyLooking, admin.ModelAdmin):  # type: ignore[misc, unused-ignore]
    """Who asked, what has become of it, which worker is at it, and how long it took."""

    list_display = (
        "run_id",
        "principal",
        "tenant",
        "status",
        "created",
        "ended",
        "took",
        "owner",
        "head_seq",
    )
    list_filter = ("status",)
    search_fields = ("=run_id", "=conversation__conversation_id", "=principal", "=tenant")
    ordering = ("-number",)
    show_full_result_count = False
    fields = (
        *("run_id", "conversation", "message_id", "parent_run_id", "principal", "tenant", "status"),
        *("created", "updated", "ended", "took", "ready", "owner", "lease", "fence"),
        *("head_seq", "log_bytes", "unread", "log"),
    )
    readonly_fields = fields
    created = _time("created_at", "created")
    updated = _time("updated_at", "changed")
    ended = _time("ended_at", "ended")
    ready = _time("ready_at", "to be had from")
    lease = _time("lease_until", "lease until")

    @admin.display(description="took (s)")
    def took(self, row: Any) -> str:
        """Return the seconds from its creation to its end."""
        return "" if row.ended_at is None else f"{(row.ended_at - row.created_at) / 1000:.3f}"

    @admin.display(description="unread inputs")
    def unread(self, row: Any) -> int:
        """Return how many answers its holder has not taken yet."""
        return int(row.posted - row.consumed)

    @admin.display(description=f"last {_EVENTS} events")
    def log(self, row: Any) -> str:
        """Return the end of the log: types and times, and content where that may be shown."""
        events = Event._base_manager.using(conf.database()).filter(run_id=row.run_id).order_by("-seq")
        lines = []
        for event in reversed(events[:_EVENTS]):
            at = datetime.fromtimestamp(event.at / 1000, UTC).isoformat(sep=" ", timespec="milliseconds")
            shown = f" {_said(event.data)}" if conf.shows_content() else ""
            lines.append(f"{event.seq} {at} {event.type}{shown}")
        return "\n".join(lines)
