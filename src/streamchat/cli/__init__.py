"""The ``streamchat`` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from streamchat import __version__
from streamchat.errors import StreamChatError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 for a check that says no, 2 for what cannot be done
    (told in one sentence)."""
    parser = argparse.ArgumentParser(
        prog="streamchat", description="Streaming chat, where every answer is a run."
    )
    parser.add_argument("--version", action="version", version=f"streamchat {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    from streamchat.cli import chat, demo, migrate, serve, trim, worker

    for command in (demo, chat, serve, worker, migrate, trim):
        command.add_to(commands)
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except StreamChatError as error:
        print(f"streamchat: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
