"""``streamchat chat``: talks to a server's endpoints in the terminal, or through pipes."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from streamchat.errors import MissingDependency, StreamChatError

if TYPE_CHECKING:
    from streamchat.cli.chat_view import Screen

__all__ = ["add_to"]

_TOKEN = "STREAMCHAT_TOKEN"


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "chat",
        help="talk to a server in the terminal",
        description="Asks a server and shows the answer as it comes; a connection that drops is followed by "
        "another one. Without a message it asks for one after the other, from the terminal or from standard "
        "input. Ctrl+C cancels the answer, a second one leaves. Where standard output is no terminal, the "
        "answer alone goes there, and all else to standard error.",
        epilog=f"A token in {_TOKEN} is sent as `Authorization: Bearer`. The exit status is 1 where the last "
        "answer did not succeed.",
    )
    command.add_argument(
        "url", metavar="URL", help="where the endpoints are, the prefix included: http://localhost:8000/chat"
    )
    command.add_argument("message", metavar="MESSAGE", nargs="*", help="what to ask; its words are joined")
    command.add_argument("--conversation", metavar="ID", help="go on with this conversation")
    command.add_argument("--run", metavar="ID", dest="run_id", help="show this run first, from its beginning")
    command.add_argument(
        "--header", metavar="'NAME: VALUE'", action="append", default=[], help="sent with each request"
    )
    command.add_argument(
        "--approve",
        choices=("ask", "yes", "no"),
        default="ask",
        help="what to say to calls that somebody must allow (default: %(default)s)",
    )
    command.add_argument(
        "--patience",
        metavar="SECONDS",
        type=float,
        default=120.0,
        help="how long to try without any progress (default: %(default)g)",
    )
    command.add_argument("--plain", action="store_true", help="no colours, no spinners, no cursor movement")
    command.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from streamchat.cli.chat_session import Session

    headers = _headers(arguments.header)
    screen = _screen(arguments.plain)
    session = Session(
        arguments.url,
        screen,
        headers=headers,
        patience=arguments.patience,
        conversation_id=arguments.conversation,
        approve={"ask": None, "yes": True, "no": False}[arguments.approve],
    )
    try:
        return session.run(" ".join(arguments.message) or None, run_id=arguments.run_id)
    except BrokenPipeError:
        # Whoever read has gone; what is buffered must not be written again when the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _screen(plain: bool) -> Screen:
    if plain or not sys.stdout.isatty():
        from streamchat.cli.chat_plain import PlainScreen

        return PlainScreen()
    try:
        import rich as _rich  # noqa: F401
    except ImportError as error:
        raise MissingDependency("streamchat chat (without --plain)", "terminal", "rich") from error
    from streamchat.cli.chat_rich import RichScreen

    return RichScreen()


def _headers(given: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    if token := os.environ.get(_TOKEN):
        headers["authorization"] = f"Bearer {token}"
    for each in given:
        name, colon, value = each.partition(":")
        if not (colon and name.strip()):
            raise StreamChatError(f"--header {name!r}: give a name and a value, as in 'X-User: ann'")
        headers[name.strip().lower()] = value.strip()
    return headers
