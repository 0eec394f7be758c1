"""The plain screen: the answer goes to standard output, and all else to standard error."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from streamchat.cli.chat_view import Screen, ToolView
from streamchat.events import Finalized

__all__ = ["PlainScreen"]


class PlainScreen(Screen):
    """For pipes, logs and terminals that cannot move the cursor; needs nothing but Python."""

    def __init__(self) -> None:
        super().__init__()
        self._open_line = False
        self._last_part = -1
        self._prompting = sys.stdin.isatty()

    def said(self, kind: str, part: int, text: str) -> None:
        """Write it at once; reasoning is left out."""
        if kind == "reasoning":
            return
        if part != self._last_part:
            self._end_line()
            self._last_part = part
        sys.stdout.write(text)
        sys.stdout.flush()
        self._open_line = not text.endswith("\n") if text else self._open_line

    def settled(self, replaced: Mapping[int, str]) -> None:
        """Write what differs from what was written."""
        for text in replaced.values():
            self._end_line()
            self._tell("what it says in truth:")
            sys.stdout.write(text)
            self._open_line = True

    def withdrawn(self) -> None:
        """Begin a new line: what was written cannot be taken back."""
        self._end_line()

    def tool_changed(self, tool: ToolView) -> None:
        """Write what is new."""
        self._tell(
            " ".join(filter(None, (tool.label, tool.waiting and f"waits {tool.waiting}", tool.progress)))
        )

    def tool_ended(self, tool: ToolView, outcome: str, output: str, seconds: float | None) -> None:
        """Write what came of it."""
        took = "" if seconds is None else f" after {seconds:.1f} s"
        self._tell(f"{tool.label}: {outcome}{took}")

    def notice(self, text: str, *, bad: bool = False) -> None:
        """Write it."""
        self._tell(text)

    def ended(self, event: Finalized) -> None:
        """End the line."""
        self._end_line()
        sys.stdout.flush()

    def begin(self) -> None:
        """Forget the parts of the run before."""
        super().begin()
        self._last_part = -1

    def ask(self, prompt: str) -> str:
        """Return a line from the user, who is asked only where there is one."""
        self._end_line()
        if self._prompting:
            sys.stderr.write(prompt)
            sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\n")

    def _tell(self, text: str) -> None:
        self._end_line()
        sys.stderr.write(f"[{text}]\n")
        sys.stderr.flush()

    def _end_line(self) -> None:
        if self._open_line:
            sys.stdout.write("\n")
            sys.stdout.flush()
            self._open_line = False
