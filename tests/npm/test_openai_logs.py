"""Whatever a log holds, OpenAI's client from npm takes it, and has what the log says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from streamchat.core.fold import fold
from streamchat.events import StreamEvent
from streamchat.testing.choices import SeededChoices
from streamchat.testing.log_walk import ENDINGS, LogWalk
from tests.npm.support import run_node
from tests.wire.openai_rules import read_stream
from tests.wire.test_openai_chat import DECLARED, HELD, answered_part, encoder, texts_of

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]


def walked(seed: int) -> list[StreamEvent]:
    """A whole log."""
    walk = LogWalk(SeededChoices(seed), as_written=seed % 2 == 0)
    while len(walk.log) < 5 + seed % 60:
        walk.step()
    walk.finish(ENDINGS[seed % len(ENDINGS)])
    return walk.log


@pytest.mark.parametrize("count", [300, pytest.param(3000, marks=pytest.mark.slow)])
async def test_npms_client_has_of_any_log_what_its_fold_holds(count: int, tmp_path: Path) -> None:
    logs = [walked(seed) for seed in range(count)]
    tools = [DECLARED if seed % 4 else () for seed in range(count)]
    bodies = [
        encoder(usage=True, hold=seed % 3 == 0, tools=tools[seed]).encode(log)
        for seed, log in enumerate(logs)
    ]
    recorded = tmp_path / "bodies.json"
    recorded.write_text(json.dumps([body.decode() for body in bodies]), encoding="utf-8")
    ends = await run_node("openai_logs.mjs", file=str(recorded))
    finished = passed_on = 0
    for log, declared, body, end in zip(logs, tools, bodies, ends, strict=True):
        told = read_stream(body, usage=True)
        assert (end["code"], end["finish"], end["usage"]) == (told.code, told.finish_reason, told.usage)
        assert end["calls"] == [call["arguments"] for call in told.calls]
        if end["code"] is None:
            assert end["fields"] == texts_of(fold(answered_part(log, declared)))
            finished += 1
            passed_on += bool(end["calls"])
        elif end["code"] not in HELD:
            state = fold(log)
            assert end["code"] == ("run_cancelled" if state.cancelled else state.error.code)
    assert finished > count / 5
    assert passed_on > count / 200
