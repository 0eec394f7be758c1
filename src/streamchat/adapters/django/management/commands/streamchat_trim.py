"""``manage.py streamchat_trim``: drops the events of runs that ended long ago, but for each run's last
batch."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from streamchat.adapters.commands import age, positive_number, trim_all
from streamchat.adapters.django import conf
from streamchat.errors import StreamChatError

__all__ = ["Command"]


class Command(BaseCommand):
    """Trims the store of the project's StreamChat, whichever buffer that is."""

    help = (
        "Drops the events of runs that ended long ago, but for each run's last batch, which has the whole "
        "message. Conversations and messages stay. Readers who come later get one history_reset."
    )

    def add_arguments(self, parser: Any) -> None:
        """Add the command's own."""
        parser.add_argument(
            "--older-than",
            metavar="AGE",
            type=age,
            required=True,
            help="how long ago a run must have ended: a number and s, m, h, d or w, as in 30d",
        )
        parser.add_argument(
            "--batch",
            metavar="N",
            type=positive_number,
            default=100,
            help="how many runs a transaction trims (default: %(default)s)",
        )

    def handle(self, *args: Any, older_than: int, batch: int, **options: Any) -> None:
        """Trim until there is nothing more to trim."""
        before = int((time.time() - older_than) * 1000)
        try:
            count = asyncio.run(trim_all(conf.chat().buffer, before, batch))
        except StreamChatError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"trimmed {count} {'run' if count == 1 else 'runs'}")
