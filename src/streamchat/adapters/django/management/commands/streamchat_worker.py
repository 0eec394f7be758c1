"""``manage.py streamchat_worker``: works on the project's runs, without HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from streamchat.adapters.commands import work_until_told
from streamchat.adapters.django import conf
from streamchat.errors import StreamChatError

__all__ = ["Command"]


class Command(BaseCommand):
    """Claims runs from the store and works on them until SIGTERM."""

    help = (
        "Claims runs from the store of the project's StreamChat and works on them, without HTTP. The "
        "processes that serve may be made with StreamChat(work=False). SIGTERM lets runs finish for the "
        "limits' drain_seconds and hands over the rest; a second one hands over at once."
    )

    def add_arguments(self, parser: Any) -> None:
        """Add the command's own."""
        parser.add_argument(
            "--look-every",
            metavar="SECONDS",
            type=float,
            default=0.5,
            help="how often to look for runs that wait in the store (default: %(default)s)",
        )

    def handle(self, *args: Any, look_every: float, **options: Any) -> None:
        """Work until told to stop."""
        if not look_every > 0:
            raise CommandError(f"--look-every {look_every:g}: it must be above 0 seconds")

        def say(text: str) -> None:
            self.stdout.write(f"streamchat worker: {text}")
            self.stdout.flush()

        try:
            asyncio.run(work_until_told(conf.chat(), look_every, say))
        except StreamChatError as error:
            raise CommandError(str(error)) from error
