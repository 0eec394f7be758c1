"""The native wire as lines: the same data under the same ids as its server-sent events."""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from streamchat.core.sse import SSEDecoder
from streamchat.events import StoredEvent
from streamchat.service.hub import HistoryReset
from streamchat.testing.strategies import SECRET, stored_logs
from streamchat.wire.native import NATIVE
from streamchat.wire.native_lines import LINES, MESSAGE, messages


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


@given(
    st.lists(st.one_of(st.integers(1, 50), st.sampled_from([MESSAGE - 2, MESSAGE - 1, MESSAGE, 2 * MESSAGE])))
)
def test_messages_are_cut_between_lines_and_none_is_larger_than_it_must_be(sizes: list[int]) -> None:
    lines = [b"%d" % at + b"x" * size + b"\n" for at, size in enumerate(sizes)]
    sent = list(messages("r", b"".join(lines)))
    head = b'{"type":"events","run_id":"r"}\n'
    assert all(text.startswith(head) and not text.endswith(b"\n") for text in sent)
    bodies = [text[len(head) :] + b"\n" for text in sent]
    assert b"".join(bodies) == b"".join(lines)
    assert all(len(body) <= MESSAGE or body in lines for body in bodies)
    assert all(
        len(body) + len(following.partition(b"\n")[0]) + 1 > MESSAGE for body, following in pairwise(bodies)
    )
