"""The tools of the runs under attack: what they do is written down outside of the process, on the disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from streamchat.tools import OutcomeUnknown, Return, ToolContext, ToolRegistry
from tests.chaos.ledger import Ledger, read_ledger
from tests.chaos.seams import KillPoints

__all__ = ["IDEMPOTENT", "ONCE", "make_tools"]

ONCE = ("charge", "pay", "report")
"""Tools whose effect may happen at most once for each call."""

IDEMPOTENT = ("book",)
"""Tools whose effect may happen again, under the same key."""


def make_tools(effects: Path, points: KillPoints, pause: float) -> ToolRegistry:
    """Return the registry; a tool takes about ``pause`` seconds, its effect in the middle."""
    tools = ToolRegistry()
    ledger = Ledger(effects, sync=True)

    async def effect(ctx: ToolContext, amount: int) -> str:
        await asyncio.sleep(pause / 2)
        points.hit("tool.before_effect")
        ledger.write(
            "effect",
            tool=ctx.name,
            run=ctx.run_id,
            call=ctx.call_id,
            key=ctx.idempotency_key,
            attempt=ctx.attempt,
            fence=ctx.fence,
        )
        points.hit("tool.after_effect")
        await asyncio.sleep(pause / 2)
        points.hit("tool.before_return")
        return f"{ctx.name} {amount}"

    @tools.tool(timeout=10.0)
    async def charge(amount: int, ctx: ToolContext) -> str:
        """Charge a card; doing it twice would be a disaster."""
        return await effect(ctx, amount)

    @tools.tool(timeout=0.5, idempotent=True)
    async def book(amount: int, ctx: ToolContext) -> str:
        """Book under a key: the second time changes nothing."""
        return await effect(ctx, amount)

    def look_up_payment(ctx: ToolContext, arguments: dict[str, Any]) -> str:
        done = any((e["run"], e["call"]) == (ctx.run_id, ctx.call_id) for e in read_ledger(effects))
        if not done:
            # A holder that is only frozen may still do it.
            raise OutcomeUnknown("no payment is known")
        return f"pay {arguments['amount']}"

    @tools.tool(timeout=10.0, reconcile=look_up_payment)
    async def pay(amount: int, ctx: ToolContext) -> str:
        """Pay; the bank can be asked afterwards."""
        return await effect(ctx, amount)

    @tools.tool(timeout=10.0)
    async def report(amount: int, ctx: ToolContext) -> AsyncIterator[Any]:
        """Write a report, and say how far it is."""
        for part in range(3):
            ctx.progress(f"part {part}", part / 3)
            await asyncio.sleep(pause / 4)
        yield Return(await effect(ctx, amount))

    return tools
