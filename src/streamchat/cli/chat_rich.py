"""The rich screen: text as it comes, tools with spinners and the time that they take.

What may still be withdrawn, or change, is in a live region at the bottom of the terminal; what stands is
printed above it, for good.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markdown import Markdown
from rich.spinner import Spinner
from rich.text import Text

from streamchat.cli.chat_view import Screen, ToolView
from streamchat.events import Finalized

__all__ = ["RichScreen"]

_SIGNS = {"ok": ("✓", "green"), "denied": ("✗", "yellow"), "cancelled": ("✗", "yellow")}
_REASONING_LINES = 3


class RichScreen(Screen):
    """For a terminal; ``console`` is rich's."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        with suppress(ImportError):  # not on Windows
            importlib.import_module("readline")  # what is typed can be edited, and called back
        self._console = console or Console(highlight=False)
        self._live: Live | None = None
        self._parts: dict[int, tuple[str, list[str]]] = {}
        self._doing = ""
        self._over = False
        self._since = time.monotonic()
        self._spinner = Spinner("dots", style="cyan")

    def __enter__(self) -> Self:
        self._live = Live(
            self._render(), console=self._console, auto_refresh=False, transient=True, redirect_stdout=False
        )
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()
        for what, text in self._texts():  # it was left in the middle
            if what != "reasoning":
                self._console.print(Text(text))
        self._parts.clear()

    def said(self, kind: str, part: int, text: str) -> None:
        """Keep it for the live region."""
        self._parts.setdefault(part, (kind, []))[1].append(text)

    def settled(self, replaced: Mapping[int, str]) -> None:
        """Print it for good."""
        for part, text in replaced.items():
            kind = self._parts[part][0] if part in self._parts else "text"
            self._parts[part] = (kind, [text])
        texts = self._texts()
        self._parts.clear()
        self._doing = ""
        for kind, text in texts:
            if kind == "reasoning":
                self._print(Text(text.strip(), style="dim italic"))
            elif text.strip():
                # A link shows where it leads: its text is a model's.
                self._print(Markdown(text, hyperlinks=False))

    def withdrawn(self) -> None:
        """Take it out of the live region."""
        self._parts.clear()

    def doing(self, what: str) -> None:
        """Shown while nothing is said."""
        self._doing = what

    def tool_ended(self, tool: ToolView, outcome: str, output: str, seconds: float | None) -> None:
        """Print a line for it."""
        sign, colour = _SIGNS.get(outcome, ("✗", "red"))
        line = Text.assemble((f"{sign} ", colour), tool.label)
        if seconds is not None:
            line.append(f"  {seconds:.1f} s", "dim")
        if outcome != "ok":
            line.append(f"  {outcome}", colour)
        line.append(f"  {output}", "dim")
        line.no_wrap, line.overflow = True, "ellipsis"
        self._print(line)

    def notice(self, text: str, *, bad: bool = False) -> None:
        """Print it."""
        self._print(Text(text, style="red" if bad else "yellow"))

    def ended(self, event: Finalized) -> None:
        """Print what it took."""
        self.settled({})
        self.tools.clear()
        self._over = True
        took = [] if event.duration is None else [f"{event.duration:.1f} s"]
        if event.usage is not None:
            took.append(f"{event.usage.total_tokens} tokens")
        self._print(Text(", ".join(took), style="dim"))

    def begin(self) -> None:
        """Another run is shown from here on."""
        super().begin()
        self._parts.clear()
        self._doing = ""
        self._over = False
        self._since = time.monotonic()

    def tick(self) -> None:
        """Draw the live region."""
        if self._live is not None:
            self._live.update(self._render(), refresh=True)

    def _print(self, what: RenderableType) -> None:
        """Print above the live region, which is drawn anew below."""
        if self._live is not None:
            self._live.update(self._render())
        self._console.print(what)

    def _texts(self) -> list[tuple[str, str]]:
        return [(kind, "".join(texts)) for _, (kind, texts) in sorted(self._parts.items())]

    def _render(self) -> RenderableType:
        now = time.monotonic()
        tools = [self._line(tool.label, tool, now) for tool in self.tools.values()]
        texts = self._texts()
        room = max(3, self._console.height - len(tools) - 2)
        shown: list[RenderableType] = []
        for kind, text in texts:
            quiet = kind == "reasoning"
            shown.append(
                self._tail(
                    text, min(room, _REASONING_LINES) if quiet else room, "dim italic" if quiet else ""
                )
            )
        if not texts and not tools and not self._over:
            shown.append(self._line(self._doing or "thinking", None, now))
        # Of several parts the last is what grows; all in all it must fit into the terminal.
        return Group(*shown[-1:], *tools[: self._console.height - 2])

    def _tail(self, text: str, lines: int, style: str) -> Text:
        """The last lines of a text, as it wraps."""
        width = self._console.width
        wrapped = Text(text[-lines * width :], style=style).wrap(self._console, width)
        return Text("\n").join(wrapped[-lines:])

    def _line(self, what: str, tool: ToolView | None, now: float) -> Text:
        spinner = self._spinner.render(now)
        line = Text.assemble(spinner if isinstance(spinner, Text) else "", " ", what)
        if tool is not None and tool.waiting:
            line.append(f"  waits {tool.waiting}", "yellow")
        line.append(f"  {now - (self._since if tool is None else tool.since):.1f} s", "dim")
        if tool is not None and tool.progress:
            line.append(f"  {tool.progress}", "dim")
        line.no_wrap, line.overflow = True, "ellipsis"
        return line
