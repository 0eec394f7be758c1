"""The demo's tools: quick and slow ones, one that costs, one that patches a page, one that fails at first,
one that the browser runs, and one that begins a job."""

from __future__ import annotations

import copy
import random
from collections.abc import AsyncGenerator
from typing import Any, Literal

import anyio
from pydantic import BaseModel

from streamchat.cli.demo.jobs import Jobs
from streamchat.tools import Deferred, Progress, ToolContext, ToolError, ToolRegistry

__all__ = ["make_tools"]

_PAGE: dict[str, Any] = {
    "title": "Our bakery",
    "sections": [{"heading": "Bread", "text": "Baked each morning."}],
}
_RENDER_STEPS = 20


class Weather(BaseModel):
    """What the sky does."""

    city: str
    degrees: int
    unit: Literal["c", "f"]
    sky: str


class Browser(BaseModel):
    """What a page says of the browser that it is shown in."""

    language: str
    time_zone: str
    width: int
    height: int


class Patch(BaseModel):
    """One JSON Patch operation (RFC 6902); the demo knows three of them."""

    op: Literal["add", "replace", "remove"]
    path: str
    value: Any = None


def make_tools(jobs: Jobs, render_seconds: float = 10.0) -> ToolRegistry:
    """Return the registry; the page and the flaky job's memory are its own. ``render_seconds`` is the
    video's."""
    tools = ToolRegistry()
    page = copy.deepcopy(_PAGE)
    failed_once: set[str] = set()

    # (short: a call whose worker died is repeated when its time is over)
    @tools.tool(timeout=5, idempotent=True)
    async def weather(city: str, unit: Literal["c", "f"] = "c") -> Weather:
        """Current weather.

        Args:
            city: City name, in English.
            unit: Celsius or Fahrenheit.
        """
        await anyio.sleep(1.0)
        celsius = sum(city.encode()) % 35 - 5
        degrees = celsius if unit == "c" else round(celsius * 9 / 5 + 32)
        return Weather(city=city, degrees=degrees, unit=unit, sky=("sunny", "cloudy", "rainy")[celsius % 3])

    @tools.tool
    def roll_dice(sides: int = 6, count: int = 1) -> list[int]:
        """Roll dice.

        Args:
            sides: How many sides each has, at least 2.
            count: How many to roll, 1 to 100.
        """
        if sides < 2 or not 1 <= count <= 100:
            raise ToolError("sides must be at least 2, and count 1 to 100")
        return [random.randint(1, sides) for _ in range(count)]

    @tools.tool(timeout=120, concurrency=2)
    async def render_video(title: str) -> AsyncGenerator[Progress | dict[str, str], None]:
        """Render a short video; takes about ten seconds.

        Args:
            title: What the opening credits say.
        """
        for done in range(_RENDER_STEPS):
            yield Progress(f"frame {done * 12} of {_RENDER_STEPS * 12}", done / _RENDER_STEPS)
            await anyio.sleep(render_seconds / _RENDER_STEPS)
        yield Progress("encoded", 1.0)
        yield {"url": f"https://videos.example/{title.lower().replace(' ', '-')}.mp4", "length": "8 s"}

    @tools.tool(requires_approval=lambda ctx, arguments: f"Send this email to {arguments['to']}?")
    async def send_email(to: str, subject: str, body: str, ctx: ToolContext) -> str:
        """Send an email. Nothing leaves this machine: the demo only says that it did.

        Args:
            to: The recipient's address.
            subject: The subject line.
            body: The text.
        """
        await anyio.sleep(0.3)
        return f"sent to {to} (message id {ctx.idempotency_key})"

    @tools.tool(client_side=True, timeout=60)
    def browser_info() -> Browser:
        """What the user's browser says of itself; the page in it answers."""
        raise AssertionError("the page runs this")

    @tools.tool(deferred=True)
    async def build_site(name: str, ctx: ToolContext) -> Deferred:
        """Build a website in the background.

        Args:
            name: What the site is called, in lowercase letters and dashes.
        """
        jobs.begin(ctx.job_id, {"url": f"https://{name}.sites.example/", "pages": 3})
        return Deferred("The site is being built; that takes some seconds.", expires_in=60)

    @tools.tool
    def edit_page(patch: list[Patch]) -> dict[str, Any]:
        """Change the page with a JSON Patch and return the page as it then is.

        Args:
            patch: Operations, applied in order; all of them or none.
        """
        changed = copy.deepcopy(page)
        for operation in patch:
            _apply(changed, operation)
        page.clear()
        page.update(changed)
        return changed

    @tools.tool(idempotent=True, retries=2, retry_wait=0.5)
    async def flaky_job(name: str, ctx: ToolContext) -> str:
        """Run a job that fails at its first attempt.

        Args:
            name: What the job is called.
        """
        await anyio.sleep(0.3)
        if ctx.idempotency_key not in failed_once:
            failed_once.add(ctx.idempotency_key)
            raise ToolError("the job's machine went away", retry=True)
        return f"{name} is done, at attempt {ctx.attempt}"

    return tools


def _apply(page: Any, operation: Patch) -> None:
    """Apply one operation, or raise `ToolError` saying what is wrong with its path."""
    steps = [step.replace("~1", "/").replace("~0", "~") for step in operation.path.split("/")[1:]]
    if not steps:
        raise ToolError(f"the path {operation.path!r} names no field; begin with a slash, like /title")
    at = page
    try:
        for step in steps[:-1]:
            at = at[int(step)] if isinstance(at, list) else at[step]
        last = steps[-1]
        if isinstance(at, list):
            _change_list(at, last, operation)
        elif operation.op == "remove":
            del at[last]
        elif operation.op == "replace" and last not in at:
            raise KeyError(last)
        else:
            at[last] = operation.value
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise ToolError(f"nothing stands at {operation.path!r}") from error


def _change_list(items: list[Any], last: str, operation: Patch) -> None:
    if operation.op == "add":
        items.insert(len(items) if last == "-" else int(last), operation.value)
    elif operation.op == "replace":
        items[int(last)] = operation.value
    else:
        del items[int(last)]
