"""``streamchat migrate``: makes the tables of a database, or brings them to this version."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from streamchat.buffers.by_url import need_sql

__all__ = ["add_to"]


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "migrate",
        help="make or upgrade a database's tables",
        description="Makes the tables of SQLEventBuffer, or brings older ones to this version. May be run "
        "again, and by several processes at once. Ends with 1 if --check finds something to do.",
    )
    command.add_argument(
        "--db",
        metavar="URL",
        required=True,
        help="sqlite:///FILE, postgresql://USER:PASSWORD@HOST/DATABASE or mysql://…",
    )
    command.add_argument(
        "--prefix", default="streamchat_", help="with which the tables' names begin (default: %(default)s)"
    )
    only = command.add_mutually_exclusive_group()
    only.add_argument("--check", action="store_true", help="change nothing, say whether there is work")
    only.add_argument("--sql", action="store_true", help="change nothing, print the statements")
    command.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    need_sql(arguments.db)
    from streamchat.buffers.sql import migrate

    dry = arguments.check or arguments.sql
    done = asyncio.run(migrate(arguments.db, prefix=arguments.prefix, dry_run=dry))
    if arguments.sql:
        if done.sql:
            print(done.sql)
        return 0
    tables = f"{done.where}: the tables {arguments.prefix}*"
    if not done.steps:
        print(f"{tables} are up to date (version {done.version})")
        return 0
    if arguments.check:
        are = "are missing" if done.found is None else f"have version {done.found}"
        print(f"{tables} {are}, this streamchat works with version {done.version}: run `streamchat migrate`")
        return 1
    if done.found is None:
        print(f"{tables} were made (version {done.version})")
        return 0
    print(f"{tables} were brought from version {done.found} to {done.version}")
    for step in done.steps:
        print(f"  {step}")
    return 0
