"""The registry as type checkers see it; `make types` checks this file, with mypy and with pyright."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Literal, assert_type

from streamchat.tools import Progress, Return, Tool, ToolContext, ToolOutcome, ToolRegistry, run_attempt


class Deps:
    url: str = "https://example.com"


tools = ToolRegistry()


@tools.tool
async def bare(city: str, ctx: ToolContext[Deps]) -> int:
    assert_type(ctx.deps, Deps)
    assert_type(ctx.cancelled, bool)
    return len(city)


@tools.tool()
def parentheses(city: str, unit: Literal["c", "f"] = "c") -> dict[str, str]:
    return {city: unit}


@tools.tool(
    timeout=None, retries=1, idempotent=True, requires_approval=lambda ctx, arguments: bool(arguments)
)
async def options(city: str) -> AsyncIterator[Progress | Return[str]]:
    yield Progress(city)


@tools.tool(timeout="soon")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
def wrong_type(city: str) -> None: ...


@tools.tool(retrys=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
def unknown_option(city: str) -> None: ...


async def use(ctx: ToolContext[Deps], plain: ToolContext) -> None:
    assert_type(await bare("Rome", ctx), int)
    assert_type(parentheses("Rome", "f"), dict[str, str])
    assert_type(options("Rome"), AsyncIterator[Progress | Return[str]])
    parentheses(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(plain.deps, Any)
    assert_type(tools.add(bare, name="again", concurrency=2), Tool)
    assert_type(tools | ToolRegistry(), ToolRegistry)
    found = tools.get("bare")
    if found is not None:
        assert_type(found, Tool)
        assert_type(await run_attempt(found, {}, plain), ToolOutcome)


keeps_its_type: Callable[[str, ToolContext[Deps]], Any] = bare
