"""`DjangoEventBuffer`: runs in the project's own database, on tables that ``manage.py migrate`` makes."""

from __future__ import annotations

from streamchat.adapters.django.buffer.buffer import DjangoEventBuffer

__all__ = ["DjangoEventBuffer"]
