"""The native wire as lines: the same data under the same ids as its server-sent events."""

from __future__ import annotations

import json

from hypothesis import given

from streamchat.core.sse import SSEDecoder
from streamchat.events import StoredEvent
from streamchat.service.hub import HistoryReset
from streamchat.testing.strategies import SECRET, stored_logs
from streamchat.wire.native import NATIVE
from streamchat.wire.native_lines import LINES


@given(stored_logs())
def test_a_line_holds_what_a_frame_holds(log: list[StoredEvent]) -> None:
    lines = b"".join(map(LINES.event, log))
    assert SECRET.encode() not in lines
    frames = SSEDecoder().feed(b"".join(map(NATIVE.event, log)))
    read = [json.loads(line) for line in lines.splitlines()]
    assert [(line["id"], line["data"]) for line in read] == [(f.id, json.loads(f.data)) for f in frames]


def test_line_ends_between_the_tokens_of_stored_json_do_not_break_the_line() -> None:
    data = b'{"type":"text_delta",\r\n"step":1,\n"part":0,"text":"x\\n"}'
    line = LINES.event(StoredEvent(1, 2, None, "g", type="text_delta", data=data))
    assert line.count(b"\n") == 1
    assert json.loads(line)["data"]["text"] == "x\n"


def test_a_reset_is_a_line_with_the_cursor_to_go_on_from() -> None:
    line = LINES.reset(HistoryReset("trimmed", 4, 9, b'{"parts":[]}', "gen.9"))
    assert json.loads(line) == {
        "id": "gen.9",
        "data": {
            "type": "history_reset",
            "reason": "trimmed",
            "first_seq": 4,
            "last_seq": 9,
            "snapshot": {"parts": []},
        },
    }
