"""The tools of the runs under attack: what they do is written down outside of the process, on the disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from streamchat.tools import OutcomeUnknown, Return, ToolContext, ToolRegistry
from tests.chaos.ledger import Ledger, read_ledger
from tests.chaos.seams import KillPoints

__all__ = ["BIG", "IDEMPOTENT", "ONCE", "POISON", "make_tools"]

ONCE = ("charge", "pay", "report", "big", "poison")
"""Tools whose effect may happen at most once for each call."""

IDEMPOTENT = ("book",)
"""Tools whose effect may happen again, under the same key."""

BIG = 8_000_000
"""Bytes of what the tool ``big`` returns."""

POISON = "before \0 and \ud800 and \udc00\ud800 after"
"""Text that no store and no client can be trusted with: NUL, and halves of characters."""


class _Doing:
    """What a tool does: wait, take effect, wait."""

    def __init__(self, effects: Path, points: KillPoints, pause: float) -> None:
        self._ledger = Ledger(effects, sync=True)
        self._points = points
        self._pause = pause

    async def __call__(self, ctx: ToolContext, amount: int) -> str:
        about = {
            "tool": ctx.name,
            "run": ctx.run_id,
            "call": ctx.call_id,
            "key": ctx.idempotency_key,
            "attempt": ctx.attempt,
            "fence": ctx.fence,
        }
        try:
            await asyncio.sleep(self._pause / 2)
            self._points.hit("tool.before_effect")
            self._ledger.write("effect", **about)
            self._points.hit("tool.after_effect")
            await asyncio.sleep(self._pause / 2)
        except asyncio.CancelledError:
            self._ledger.write("cancelled", **about)
            raise
        self._points.hit("tool.before_return")
        return f"{ctx.name} {amount}"


def make_tools(effects: Path, points: KillPoints, pause: float) -> ToolRegistry:
    """Return the registry; a tool takes about ``pause`` seconds, its effect in the middle."""
    tools = ToolRegistry()
    do = _Doing(effects, points, pause)

    @tools.tool(timeout=60.0)
    async def charge(amount: int, ctx: ToolContext) -> str:
        """Charge a card; doing it twice would be a disaster."""
        return await do(ctx, amount)

    @tools.tool(timeout=0.5, idempotent=True)
    async def book(amount: int, ctx: ToolContext) -> str:
        """Book under a key: the second time changes nothing."""
        return await do(ctx, amount)

    def look_up_payment(ctx: ToolContext, arguments: dict[str, Any]) -> str:
        done = any((e["run"], e["call"]) == (ctx.run_id, ctx.call_id) for e in read_ledger(effects))
        if not done:
            # A holder that is only frozen may still do it.
            raise OutcomeUnknown("no payment is known")
        return f"pay {arguments['amount']}"

    @tools.tool(timeout=60.0, reconcile=look_up_payment)
    async def pay(amount: int, ctx: ToolContext) -> str:
        """Pay; the bank can be asked afterwards."""
        return await do(ctx, amount)

    @tools.tool(timeout=60.0)
    async def report(amount: int, ctx: ToolContext) -> AsyncIterator[Any]:
        """Write a report, and say how far it is."""
        for part in range(3):
            ctx.progress(f"part {part}", part / 3)
            await asyncio.sleep(pause / 4)
        yield Return(await do(ctx, amount))

    @tools.tool(timeout=60.0)
    async def big(amount: int, ctx: ToolContext) -> str:
        """Return a book."""
        await do(ctx, amount)
        return "x" * BIG

    @tools.tool(timeout=60.0)
    async def poison(amount: int, ctx: ToolContext) -> dict[str, Any]:
        """Return, and say on the way, what breaks stores."""
        ctx.progress(POISON, data={POISON: [POISON]})
        await do(ctx, amount)
        return {POISON: POISON}

    return tools
