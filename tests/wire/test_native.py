"""The native wire: what a reader of server-sent events gets is the stored bytes, with a cursor for each."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamchat.core.cursor import parse_cursor
from streamchat.core.sse import Frame, SSEDecoder
from streamchat.events import StoredEvent, TextDelta
from streamchat.service.hub import HistoryReset
from streamchat.testing.strategies import SECRET, events, stored_logs
from streamchat.wire.native import HEARTBEAT, NATIVE, padding


def decode(data: bytes) -> list[Frame]:
    return SSEDecoder().feed(data)


def test_a_frame_is_id_event_and_data_with_lf_only() -> None:
    event = StoredEvent(7, 1_700_000_000_123, TextDelta(step=1, part=0, text="Hi"), "abc")
    assert NATIVE.event(event) == (
        b"id: abc.7\nevent: text_delta\n"
        b'data: {"type":"text_delta","step":1,"part":0,"text":"Hi","seq":7,"at":1700000000123}\n\n'
    )


@given(events(), st.integers(1, 2**53), st.integers(0, 2**53), st.data())
def test_any_event_is_one_frame_that_carries_its_public_json_however_it_is_split(
    event: object, seq: int, at: int, data: st.DataObject
) -> None:
    stored = StoredEvent(seq, at, event, "g-1")  # type: ignore[arg-type]
    frame = NATIVE.event(stored)
    assert b"\r" not in frame
    cut = data.draw(st.integers(0, len(frame)))
    decoder = SSEDecoder()
    (got,) = decoder.feed(frame[:cut]) + decoder.feed(frame[cut:])
    assert (got.data, got.id) == (stored.public_json(), f"g-1.{seq}")
    assert got.event in (stored.type, "message")
    assert SECRET.encode() not in frame


@given(stored_logs(), st.sampled_from(["g-1", "100%d}", "%b."]))
def test_several_events_at_once_come_out_as_one_by_one(log: list[StoredEvent], other: str) -> None:
    mixed = [
        StoredEvent(event.seq, event.at, None, other, type=event.type, data=event.data) for event in log[::2]
    ]
    odd = StoredEvent(9, 9, None, "g", type="of_later", data=b'{"type":"of_later",\n"x":1}')
    for several in (log, mixed, [*log, odd, *mixed], []):
        assert NATIVE.events(several) == [NATIVE.event(event) for event in several]


@given(stored_logs())
def test_a_log_comes_out_whole_with_each_event_under_its_own_id(log: list[StoredEvent]) -> None:
    frames = decode(b"".join(map(NATIVE.event, log)))
    assert [frame.id for frame in frames] == [event.id for event in log]
    assert [json.loads(frame.data)["seq"] for frame in frames] == [event.seq for event in log]


def test_stored_bytes_go_through_as_they_are() -> None:
    data = b'{"type":"text_delta" , "step":1,"part":0,"text":"\\u0041"}'
    frame = NATIVE.event(StoredEvent(1, 2, None, "g", type="text_delta", data=data))
    assert data[:-1] in frame


def test_line_ends_between_the_tokens_of_stored_json_do_not_break_the_frame() -> None:
    data = b'{"type":"text_delta",\r\n"step":1,\n"part":0,"text":"x"}'
    (frame,) = decode(NATIVE.event(StoredEvent(1, 2, None, "g", type="text_delta", data=data)))
    assert json.loads(frame.data)["text"] == "x"


@pytest.mark.parametrize("kind", ["a\nid: evil.1", "a\rb", "", "a\0b"])
def test_a_type_that_would_break_out_of_its_line_is_left_to_the_data(kind: str) -> None:
    stored = StoredEvent(3, 2, None, "g", type=kind, data=json.dumps({"type": kind}).encode())
    (frame,) = decode(NATIVE.event(stored))
    assert (frame.event, frame.id, json.loads(frame.data)["type"]) == ("message", "g.3", kind)


def test_the_priming_frame_sets_the_id_and_dispatches_nothing() -> None:
    decoder = SSEDecoder()
    assert NATIVE.begin("g.0") == b"id: g.0\n\n"
    assert decoder.feed(NATIVE.begin("g.0")) == []
    assert decoder.last_event_id == "g.0"


def test_retry_is_in_milliseconds_and_dispatches_nothing() -> None:
    decoder = SSEDecoder()
    assert decoder.feed(NATIVE.retry(1.2344)) == []
    assert decoder.retry == 1234


@pytest.mark.parametrize("comment", [HEARTBEAT, NATIVE.heartbeat(), padding(2048)])
def test_heartbeats_are_comments(comment: bytes) -> None:
    assert comment.startswith(b":")
    assert decode(comment + comment) == []
    assert decode(comment + b"data: x\n\n")[0].data == b"x"


@given(st.integers(16, 5000))
def test_padding_has_the_size_that_was_asked_for(size: int) -> None:
    assert len(padding(size)) == size


def test_a_reset_carries_the_snapshot_and_the_cursor_to_go_on_from() -> None:
    reset = HistoryReset("trimmed", 4, 9, b'{"status":"running","parts":[]}', "gen.9")
    (frame,) = decode(NATIVE.reset(reset))
    assert (frame.event, frame.id) == ("history_reset", "gen.9")
    assert json.loads(frame.data) == {
        "type": "history_reset",
        "reason": "trimmed",
        "first_seq": 4,
        "last_seq": 9,
        "snapshot": {"status": "running", "parts": []},
    }
    assert parse_cursor(frame.id).seq == 9
