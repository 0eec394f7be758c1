"""The model provider of the attack, which the zygote runs in a process of its own.

It keeps nothing: what it answers follows from the request alone, so that whoever asks again after a crash is
told the same. The user's message is a `Plan` as JSON.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Self

from streamchat.testing import Call, ProviderRequest, Reply, ScriptedProvider, Step
from tests.chaos.tools import POISON

__all__ = ["Plan", "answer", "provide"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What an answer is made of: for each step the tools that it calls at once, and then ``words`` of text.

    ``delay`` is seconds between two chunks. ``tag`` marks the run's texts. With ``poison`` the answer's text
    and the user's message hold what no store can be trusted with.
    """

    tag: str
    steps: tuple[tuple[str, ...], ...] = ()
    words: int = 40
    delay: float = 0.01
    poison: bool = False

    def encode(self) -> str | list[dict[str, Any]]:
        """Write the plan as a user's message."""
        text = json.dumps(asdict(self))
        if not self.poison:
            return text
        return [{"type": "text", "text": text}, {"type": "text", "text": POISON}]

    @classmethod
    def decode(cls, text: str) -> Self:
        """Read a user's message."""
        fields = json.loads(text)
        return cls(**{**fields, "steps": tuple(tuple(step) for step in fields["steps"])})

    def text(self, step: int) -> str:
        """The text of a step, counted from 0; the last one has the most."""
        last = step >= len(self.steps)
        words = [f"{self.tag}-{step}-{word}" for word in range(self.words if last else 3)]
        return " ".join([*words, POISON] if self.poison else words)


def answer(request: ProviderRequest) -> Reply:
    """Answer a request for the next step of its plan."""
    plan, step = _where(request.messages)
    calls: list[Call] = []
    if step < len(plan.steps):
        # The same ids in every step, as some providers write them.
        calls = [
            Call(name, {"amount": step * 10 + place}, id=f"call_{place}")
            for place, name in enumerate(plan.steps[step])
        ]
    return Reply(step=Step(plan.text(step), calls=calls, pieces_of=12), delay=plan.delay)


def _where(messages: list[dict[str, Any]]) -> tuple[Plan, int]:
    """The plan that the newest user's message holds, and how many steps of it there were."""
    steps = 0
    for message in reversed(messages):
        if message["role"] == "user":
            content = message["content"]
            return Plan.decode(content if isinstance(content, str) else content[0]["text"]), steps
        if message["role"] == "assistant" and message.get("tool_calls"):
            steps += 1
    raise ValueError("no user's message")


class _Forgetful(list[Any]):
    """A record of requests that keeps none: a long run makes tens of thousands."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    def append(self, _: Any) -> None:
        self._count += 1

    def __len__(self) -> int:
        return self._count


async def provide(ready: Callable[[str], None]) -> None:
    """Serve for ever; ``ready`` is told the base URL."""
    async with ScriptedProvider(answer) as provider:
        provider.requests = _Forgetful()
        ready(provider.base_url)
        await asyncio.Event().wait()
