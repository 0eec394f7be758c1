"""Whatever a log holds, each version of the AI SDK takes it, and arrives at what the log says."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from streamchat.core.fold import fold
from streamchat.events import StoredEvent
from streamchat.http.vercel_rest import rest_of
from streamchat.testing.choices import SeededChoices
from streamchat.testing.log_walk import ENDINGS, LogWalk
from streamchat.wire.vercel import DONE, Target, VercelEncoder, VercelWire, frames
from tests.http.test_vercel_rest import copy_of, knows_its_place, rewrites, streamed
from tests.npm.support import package_versions, run_node
from tests.npm.test_vercel import CLIENTS, parts_of
from tests.wire.test_vercel import in_order
from tests.wire.vercel_rules import Message, chunks_of, expected

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]


def walked(seed: int) -> list[StoredEvent]:
    """A whole log as a store keeps it."""
    walk = LogWalk(SeededChoices(seed))
    while len(walk.log) < 5 + seed % 60:
        walk.step()
    walk.finish(ENDINGS[seed % len(ENDINGS)])
    return [StoredEvent(seq, seq, event, "g") for seq, event in enumerate(walk.log, 1)]


def responses(log: Sequence[StoredEvent], target: Target, seed: int) -> list[bytes]:
    """The bodies that a client gets: replayed, live, or one for each pause."""
    options: dict[str, Any] = {"dynamic": seed % 2 == 0, "progress": ("output", "data")[seed // 2 % 2]}
    if seed % 3 == 0:
        wire = VercelWire(target, **options)
        return [wire.replay(log) + wire.close()]
    pauses = [i for i, event in enumerate(log, 1) if event.type == "suspended"] if seed % 3 == 1 else []
    bodies, begin = [], 0
    for end in [*pauses, len(log)]:
        wire = VercelWire(target, hold_steps=bool(pauses), **options)
        first = wire.resume(log[:begin], after_end=True) if begin else b""
        bodies.append(first + b"".join(wire.events(log[begin:end])) + wire.close())
        begin = end
    return bodies


def halves(log: Sequence[StoredEvent], target: Target, seed: int) -> list[bytes]:
    """A body that was cut off behind a call, and what its page is sent then; none where there is no such
    place."""
    options: dict[str, Any] = {"dynamic": seed % 2 == 0, "progress": ("output", "data")[seed // 2 % 2]}
    chunks = streamed(list(log), target, **options)
    pages = [Message(target).take(chunks[:count]) for count in range(1, len(chunks) + 1)]
    counts = [count for count, page in enumerate(pages[:-1], 1) if knows_its_place(page)]
    if not counts or rewrites(list(log)) or pages[-1].error == VercelEncoder.BEGUN_ANEW:
        return []
    count = counts[seed % len(counts)]
    rest = rest_of(log, copy_of(pages[count - 1]), VercelEncoder(target, **options), "m1")
    assert rest is not None
    return [frames(chunks[:count]) + DONE, frames(rest) + DONE]


def comparable(part: tuple[Any, ...]) -> tuple[Any, ...]:
    """A part as JavaScript has it: numbers without a difference of 1 and 1.0, or beyond 2^53."""

    def number(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: number(each) for key, each in value.items()}
        if isinstance(value, list):
            return [number(each) for each in value]
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        return value

    return tuple(number(json.loads(json.dumps(each))) for each in part)


def interleaved(log: Sequence[StoredEvent]) -> bool:
    """Whether a text goes on after something else was said; no model of this package does that, and a client
    shows it in two pieces."""
    seen: set[int] = set()
    current = -1
    for stored in log:
        part = getattr(stored.event, "part", None)
        if part is None:
            continue
        if (
            part in seen
            and part != current
            and stored.type in ("text_delta", "reasoning_delta", "refusal_delta")
        ):
            return True
        seen.add(part)
        current = part
    return False


def told(message: dict[str, Any]) -> list[tuple[Any, ...]]:
    """What a client shows, without calls that were never completed."""
    kept = [p for p in message["parts"] if p.get("errorText") != "The call was never completed."]
    kinds = ("source-url", "source-document", "file", "data-file")
    parts: list[tuple[Any, ...]] = []
    for part in kept:
        if part["type"] in kinds:
            parts.append((part["type"], part.get("url")))
        else:
            parts += parts_of({"parts": [part]})
    return parts


async def replay(client: str, numbers: Iterable[int], folder: Path, bodies_of: Any = responses) -> None:
    target: Target = f"v{package_versions()[client][0]}"  # type: ignore[assignment]
    seeds = [seed for seed in numbers if bodies_of(walked(seed), target, seed)]
    logs = [walked(seed) for seed in seeds]
    made = [bodies_of(log, target, seed) for seed, log in zip(seeds, logs, strict=True)]
    file = folder / "responses.json"
    file.write_text(json.dumps([[body.decode() for body in bodies] for bodies in made]), encoding="utf-8")
    ends = await run_node("vercel_logs.mjs", package=client, file=str(file))
    for seed, log, bodies, end in zip(seeds, logs, made, ends, strict=True):
        state = fold(log)
        message: Message | None = None
        for body in bodies:
            message = Message(target, message).take(chunks_of(body))
        assert message is not None
        message.finish()
        # The rules of the validator are the client's: both end the same way.
        failed = [f"Error: {message.error}"] if message.ended_by == "error" else []
        assert (seed, end["errors"], end["count"]) == (seed, failed, 2)
        if message.error == VercelEncoder.BEGUN_ANEW:
            continue
        if interleaved(log):
            continue
        got, right = told(end["message"]), expected(state, target)
        if target == "v5":
            # A call that began under another name keeps that there.
            got, right = [_nameless(part) for part in got], [_nameless(part) for part in right]
        got, right = ([comparable(part) for part in in_order(parts, list(log))] for parts in (got, right))
        assert (seed, got) == (seed, right)


def _nameless(part: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*part[:2], *part[3:]) if part[0] == "tool" else part


@pytest.mark.parametrize("client", CLIENTS)
async def test_the_client_arrives_at_what_the_log_says(client: str, tmp_path: Path) -> None:
    await replay(client, range(30), tmp_path)


@pytest.mark.parametrize("client", CLIENTS)
async def test_the_client_arrives_there_by_a_half_and_its_rest(client: str, tmp_path: Path) -> None:
    await replay(client, range(60), tmp_path, halves)


@pytest.mark.slow
@pytest.mark.parametrize("client", CLIENTS)
async def test_the_client_arrives_at_what_many_logs_say(client: str, tmp_path: Path) -> None:
    await replay(client, range(30, 800), tmp_path)
    await replay(client, range(800), tmp_path, halves)
