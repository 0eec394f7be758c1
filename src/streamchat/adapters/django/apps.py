"""The Django application's configuration."""

from __future__ import annotations

from django.apps import AppConfig

__all__ = ["StreamChatDjangoConfig"]


class StreamChatDjangoConfig(AppConfig):
    """Named ``streamchat`` among the project's applications."""

    name = "streamchat.adapters.django"
    label = "streamchat"
    verbose_name = "Chat"

    def ready(self) -> None:
        """Register the system checks."""
        from streamchat.adapters.django import checks  # noqa: F401
