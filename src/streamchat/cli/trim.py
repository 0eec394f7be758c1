"""``streamchat trim``: drops the events of runs that ended long ago, but for each run's last batch."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
import warnings
from datetime import UTC, datetime
from typing import Any

from streamchat.adapters.commands import age, positive_number, trim_all
from streamchat.buffers import buffer_for

__all__ = ["add_to"]


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "trim",
        help="drop the events of old runs",
        description="Drops the events of runs that ended long ago, but for each run's last batch, which has "
        "the whole message. Conversations and messages stay. Readers who come later get one history_reset.",
    )
    command.add_argument(
        "--db", metavar="URL", required=True, help="as for `streamchat migrate`, or redis://HOST"
    )
    command.add_argument("--prefix", help="with which the names of tables or keys begin")
    command.add_argument(
        "--older-than",
        metavar="AGE",
        type=age,
        required=True,
        help="how long ago a run must have ended: a number and s, m, h, d or w, as in 30d",
    )
    command.add_argument(
        "--batch",
        metavar="N",
        type=positive_number,
        default=100,
        help="how many runs a transaction trims (default: %(default)s)",
    )
    command.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    before = time.time() - arguments.older_than
    with warnings.catch_warnings(record=True) as told:
        # Made tables would only hide that the URL is a wrong one.
        buffer = buffer_for(arguments.db, prefix=arguments.prefix, create_tables=False)
        count = asyncio.run(trim_all(buffer, int(before * 1000), arguments.batch))
    for warning in told:
        print(f"streamchat: warning: {warning.message}", file=sys.stderr)
    moment = datetime.fromtimestamp(max(before, 0), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    print(f"trimmed {count} {'run' if count == 1 else 'runs'} that ended before {moment}")
    return 0
