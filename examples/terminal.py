"""A chat in the terminal, with a tool and Ctrl+C to stop an answer: ``python examples/terminal.py``."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import aclosing

from openai import AsyncOpenAI

from streamchat import ModelMessage, RunContext, ToolRegistry, fold, orchestrate
from streamchat.core.history import messages_of_content
from streamchat.events import ErrorEvent, StepReset, TextDelta, ToolResult
from streamchat.models import OpenAIChatModel

tools = ToolRegistry()


@tools.tool
def clock() -> str:
    """The time on this machine."""
    return time.strftime("%H:%M")


async def answer(model: OpenAIChatModel, messages: list[ModelMessage]) -> None:
    """Print one run as it comes, and append what was said to ``messages``."""
    context = RunContext()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, context.stop, "Ctrl+C")
    log = []
    async with aclosing(orchestrate(model, messages, tools=tools, context=context)) as events:
        async for event in events:
            log.append(event)
            match event:
                case TextDelta(text=text):
                    print(text, end="", flush=True)
                case ToolResult(call_id=call_id, outcome=outcome):
                    print(f"[{call_id}: {outcome}]", flush=True)
                case StepReset():
                    print("\n[the answer broke off and is asked for again]", flush=True)
                case ErrorEvent(message=message):
                    print(f"\n[{message}]", flush=True)
    asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
    state = fold(log)
    print(f"\n[{state.status}, {state.usage.total_tokens if state.usage else '?'} tokens]", flush=True)
    messages += messages_of_content(state.parts)


def ask() -> str | None:
    """A line from the user; None at the end of the input."""
    try:
        return input("> ")  # blocks the event loop, in which nothing else happens meanwhile
    except EOFError:
        return None


async def main() -> None:
    """Ask for a line, answer it, until the input ends."""
    messages: list[ModelMessage] = []
    async with AsyncOpenAI() as client:
        model = OpenAIChatModel(client, os.environ.get("MODEL", "gpt-5-mini"))
        while (line := ask()) is not None:
            messages.append(ModelMessage(role="user", content=line))
            await answer(model, messages)


if __name__ == "__main__":
    asyncio.run(main())
