"""A conversation over a real server and the Python client, in which somebody answers what they are asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Any

from streamchat import MemoryEventBuffer, ServiceLimits, StreamChat, StreamEvent
from streamchat.adapters.asgi import asgi_app
from streamchat.client import Reset, StreamChatClient
from streamchat.models import Model
from tests.adapters.serving import serve


async def talk(
    model: Model,
    *messages: str,
    decide: Callable[[Any], Mapping[str, Any]] = lambda asked: {"approved": True},
) -> list[list[StreamEvent]]:
    """Send the messages one after the other; return the events of each run as they came over SSE.

    ``decide`` is given what was asked (the ``approval_requested``) and returns what to answer.
    """
    chat = StreamChat(
        model=model,
        buffer=MemoryEventBuffer(),
        allow_anonymous=True,
        limits=ServiceLimits(drain_seconds=0),
    )
    runs: list[list[StreamEvent]] = []
    async with serve(asgi_app(chat)) as port, StreamChatClient(f"http://127.0.0.1:{port}") as client:
        for message in messages:
            seen: list[StreamEvent] = []
            run_id = ""
            asked: list[Any] = []
            async with aclosing(client.ask(message, conversation_id="talk")) as events:
                async for got in events:
                    assert not isinstance(got, Reset)
                    event: Any = got.event
                    seen.append(event)
                    run_id = getattr(event, "run_id", run_id)
                    if event.type == "approval_requested":
                        asked.append(event)
                    elif event.type == "suspended":
                        for question in asked:
                            await client.resolve_approval(run_id, question.call_id, **decide(question))
                        asked = []
            runs.append(seen)
    return runs
