"""Whatever a log holds, AG-UI's own client takes what is made of it, and arrives at what the log says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from streamchat.core.fold import fold
from streamchat.events import StreamEvent
from streamchat.testing.choices import SeededChoices
from streamchat.testing.log_walk import ENDINGS, LogWalk
from streamchat.wire.ag_ui import ag_ui_frame
from tests.npm.support import run_node
from tests.npm.test_ag_ui import CLIENTS
from tests.wire.test_ag_ui import USER, encoder_of, expected, settled, until_it_ends

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]


def walked(seed: int) -> list[StreamEvent]:
    choices = SeededChoices(seed)
    walk = LogWalk(choices, as_written=seed % 3 > 0)
    while len(walk.log) < 10 + seed % 50:
        walk.step()
    walk.finish(ENDINGS[seed % len(ENDINGS)])
    return walk.log


def recorded(seed: int, old: bool) -> tuple[dict[str, Any], list[StreamEvent]]:
    """A response, to a client that was there from the beginning or that came late; and the log behind it."""
    log = walked(seed)
    encoder = encoder_of(**({"protocol_version": None} if old else {}))
    late = seed % 2 and seed % len(log)
    said = encoder.rejoin(log[:late]) if late else []
    told = log[:late] if encoder.over else [*log[:late], *until_it_ends(log[late:])]
    if not encoder.over:
        said += [each for event in told[late:] for each in encoder.add(event)]
    said += encoder.pause() if encoder.paused else []
    had = expected(fold(log[:late])) if late and seed % 3 else [USER]
    body = b"".join(map(ag_ui_frame, said)).decode()
    return {"body": body, "had": had}, told


async def replay(package: str, seeds: range, folder: Path) -> None:
    made = [recorded(seed, old=package != CLIENTS[0]) for seed in seeds]
    file = folder / "responses.json"
    file.write_text(json.dumps([response for response, _ in made]), encoding="utf-8")
    ends = await run_node("ag_ui_logs.mjs", package=package, file=str(file))
    for seed, (_, log), end in zip(seeds, made, ends, strict=True):
        state = fold(log)
        assert (seed, end["rejected"]) == (seed, None)
        complaints = [warning for warning in end["warnings"] if "state patch" not in warning]
        assert (seed, complaints) == (seed, [])
        messages, right = settled(end["messages"], log), settled(expected(state), log)
        if package != CLIENTS[0]:
            # Before 1.0 nothing could tell the client that a source or a file was withdrawn.
            messages = [each for each in messages if each["role"] != "activity" or each in right]
        assert messages == right, seed
        asked = [wait.approval_id for wait in state.waits if wait.kind == "approval"]
        assert [interrupt["id"] for interrupt in end["interrupts"]] == asked


async def test_the_client_arrives_at_what_the_log_says(tmp_path: Path) -> None:
    await replay("@ag-ui/client", range(60), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("package", CLIENTS)
async def test_the_client_arrives_at_what_many_logs_say(package: str, tmp_path: Path) -> None:
    await replay(package, range(60, 2000), tmp_path)
