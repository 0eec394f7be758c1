from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamchat.core.sse import Frame, SSEDecoder, SSEError, encode_comment, encode_frame
from streamchat.errors import StreamChatError

EMOJI = "\N{GRINNING FACE}"

# Name, the stream, its frames as (event, data, id, retry), the last event id after it.
TABLE: list[tuple[str, bytes, list[tuple[str, str, str, int | None]], str]] = [
    ("one line", b"data: a\n\n", [("message", "a", "", None)], ""),
    ("no space", b"data:a\n\n", [("message", "a", "", None)], ""),
    ("one of two spaces goes", b"data:  a\n\n", [("message", " a", "", None)], ""),
    ("a tab is data", b"data:\ta\n\n", [("message", "\ta", "", None)], ""),
    ("two frames", b"data: a\n\ndata: b\n\n", [("message", "a", "", None), ("message", "b", "", None)], ""),
    ("several lines", b"data: a\ndata: b\ndata\n\n", [("message", "a\nb\n", "", None)], ""),
    ("field without colon", b"data\n\n", [("message", "", "", None)], ""),
    ("empty data", b"data:\n\n", [("message", "", "", None)], ""),
    ("colons in data", b"data: a:b: c\n\n", [("message", "a:b: c", "", None)], ""),
    ("blank lines alone", b"\n\n\n\n", [], ""),
    ("more blank lines", b"data: a\n\n\n\n\ndata: b\n\n", [("message", x, "", None) for x in "ab"], ""),
    ("event", b"event: delta\ndata: a\n\n", [("delta", "a", "", None)], ""),
    ("event after data", b"data: a\nevent: delta\n\n", [("delta", "a", "", None)], ""),
    ("the last event name counts", b"event: x\nevent: y\ndata: a\n\n", [("y", "a", "", None)], ""),
    ("an empty event name", b"event: \ndata: a\n\n", [("message", "a", "", None)], ""),
    (
        "an event name does not outlive its frame",
        b"event: x\n\ndata: a\n\n",
        [("message", "a", "", None)],
        "",
    ),
    ("id stays", b"id: 1\ndata: a\n\ndata: b\n\n", [("message", x, "1", None) for x in "ab"], "1"),
    ("id in a frame without data", b"id: 7\n\ndata: a\n\n", [("message", "a", "7", None)], "7"),
    ("id taken back", b"id: 1\n\nid\ndata: a\n\n", [("message", "a", "", None)], ""),
    ("id with NUL", b"id: 1\n\nid: 2\x003\ndata: a\n\n", [("message", "a", "1", None)], "1"),
    ("retry", b"retry: 1500\ndata: a\n\n", [("message", "a", "", 1500)], ""),
    ("retry of a frame before", b"retry: 10\n\ndata: a\n\n", [("message", "a", "", None)], ""),
    ("retry with letters", b"retry: 10s\ndata: a\n\n", [("message", "a", "", None)], ""),
    ("retry negative", b"retry: -1\ndata: a\n\n", [("message", "a", "", None)], ""),
    (
        "retry of a thousand digits",
        b"retry: " + b"9" * 5000 + b"\ndata: a\n\n",
        [("message", "a", "", None)],
        "",
    ),
    ("comments", b": hello\n\n:\ndata: a\n: between\ndata: b\n\n", [("message", "a\nb", "", None)], ""),
    ("unknown fields", b"foo: 1\nfoo\ndata: a\nDATA: b\n data: c\n\n", [("message", "a", "", None)], ""),
    ("error is no field", b"error: x\n\n", [], ""),
    ("byte order mark", b"\xef\xbb\xbfdata: a\n\n", [("message", "a", "", None)], ""),
    (
        "a second mark is data",
        b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n",
        [("message", "b", "", None)],
        "",
    ),
    ("half a mark is a field", b"\xef\xbb\ndata: a\n\n", [("message", "a", "", None)], ""),
    ("CRLF", b"id: 1\r\ndata: a\r\n\r\ndata: b\r\n\r\n", [("message", x, "1", None) for x in "ab"], "1"),
    (
        "CR",
        b"data: a\rdata: b\r\rdata: c\r\r",
        [("message", "a\nb", "", None), ("message", "c", "", None)],
        "",
    ),
    ("mixed ends", b"data: a\r\ndata: b\rdata: c\n\r\n", [("message", "a\nb\nc", "", None)], ""),
    ("CR CRLF is two ends", b"data: a\r\r\ndata: b\n\n", [("message", x, "", None) for x in "ab"], ""),
    ("UTF-8", f"data: {EMOJI}é\n\n".encode(), [("message", f"{EMOJI}é", "", None)], ""),
    ("not UTF-8", b"data: \xff\nevent: \xff\n\n", [("\ufffd", "\ufffd", "", None)], ""),
    ("cut before the blank line", b"data: a\n\ndata: b\n", [("message", "a", "", None)], ""),
    ("cut in a line", b"data: a\n\nda", [("message", "a", "", None)], ""),
    ("an id counts at the blank line", b"data: a\n\nid: 5\n\n", [("message", "a", "", None)], "5"),
    ("and not when only its line ends", b"data: a\n\nid: 5\n", [("message", "a", "", None)], ""),
    (
        "nor before its data has come",
        b"id: 4\ndata: a\n\nid: 5\ndata: b\n",
        [("message", "a", "4", None)],
        "4",
    ),
    ("a space stands alone", b"data: \n\n", [("message", "", "", None)], ""),
]


def read(pieces: list[bytes]) -> tuple[list[tuple[str, str, str, int | None]], str]:
    decoder = SSEDecoder()
    frames = [frame for piece in pieces for frame in decoder.feed(piece)]
    return [(f.event, f.text, f.id, f.retry) for f in frames], decoder.last_event_id


def splits(stream: bytes) -> list[list[bytes]]:
    """The stream whole, in two at every place, and a byte at a time."""
    halves = [[stream[:at], stream[at:]] for at in range(len(stream) + 1)] if len(stream) < 200 else []
    return [[stream], *halves, [bytes([byte]) for byte in stream]]


@pytest.mark.parametrize(("stream", "frames", "last"), [row[1:] for row in TABLE], ids=[r[0] for r in TABLE])
def test_each_stream_gives_its_frames_however_it_is_split(
    stream: bytes, frames: list[tuple[str, str, str, int | None]], last: str
) -> None:
    for pieces in splits(stream):
        assert read(pieces) == (frames, last)


@pytest.mark.parametrize("stream", [row[1] for row in TABLE if row[1].endswith((b"\n\n", b"\r\r"))])
def test_what_follows_a_whole_stream_changes_nothing_before_its_end(stream: bytes) -> None:
    before = read([stream])[0]
    for tail in (b"d", b"data: half", b": comment", b"event: x", b"\r"):
        for pieces in ([stream + tail], [stream, tail], [bytes([byte]) for byte in stream + tail]):
            assert read(pieces)[0] == before


def test_a_frame_is_given_with_the_byte_that_ends_it_also_where_a_line_feed_may_follow() -> None:
    decoder = SSEDecoder()
    assert decoder.feed(b"data: a\r\n\r")[0].data == b"a"
    assert decoder.feed(b"\ndata: b\r\n") == []
    assert decoder.feed(b"\n")[0].data == b"b"


def test_a_decoder_starts_from_the_id_that_the_reader_has() -> None:
    decoder = SSEDecoder(last_event_id="4")
    assert decoder.feed(b"data: a\n\n") == [Frame("message", b"a", "4", None)]


def test_retry_is_kept_for_whoever_reconnects() -> None:
    decoder = SSEDecoder()
    assert decoder.feed(b"retry: 250\n\n") == []
    assert decoder.retry == 250


def test_the_error_field_of_model_servers_is_a_frame_only_on_request() -> None:
    stream = b'error: {"message": "boom"}\n\n'
    assert SSEDecoder().feed(stream) == []
    assert SSEDecoder(error_field=True).feed(stream) == [Frame("error", b'{"message": "boom"}', "", None)]


def test_flush_gives_the_frame_whose_blank_line_was_forgotten() -> None:
    for pieces in splits(b"data: a\n\nevent: x\ndata: b"):
        decoder = SSEDecoder()
        for piece in pieces:
            decoder.feed(piece)
        assert decoder.flush() == [Frame("x", b"b", "", None)]
        assert decoder.flush() == []


# ------------------------------------------------------------------------------------------------ laws

_PIECES = [
    b"data",
    b"event",
    b"id",
    b"retry",
    b"x",
    b":",
    b" ",
    b"a",
    b"1",
    b"\0",
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\n",
]
STREAMS = st.lists(st.sampled_from([*_PIECES, "é".encode(), b"\xef\xbb\xbf"]), max_size=40).map(b"".join)


def by_the_book(stream: bytes) -> list[tuple[str, str, str, int | None]]:
    """The algorithm of the standard, over the whole text at once."""
    text = stream.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    lines = re.split("\r\n|\n|\r", text)[:-1]
    frames: list[tuple[str, str, str, int | None]] = []
    data, event, last, retry = "", "", "", None
    for line in lines:
        if line == "":
            if data:
                frames.append((event or "message", data.removesuffix("\n"), last, retry))
            data, event, retry = "", "", None
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            data += value + "\n"
        elif field == "event":
            event = value
        elif field == "id" and "\0" not in value:
            last = value
        elif field == "retry" and re.fullmatch("[0-9]{1,18}", value):
            retry = int(value)
    return frames


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[start:end] for start, end in pairwise(edges)] or [b""]


@given(STREAMS, st.lists(st.integers(0, 200), max_size=8))
def test_any_split_gives_the_frames_of_the_standards_algorithm(stream: bytes, places: list[int]) -> None:
    # A lone CR at the very end ends a line for us at once; the book above sees it as well.
    assert read(cut(stream, places))[0] == by_the_book(stream)


LINE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), max_size=20)
DATA = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=40)


@given(
    st.lists(
        st.tuples(DATA, LINE | st.none(), LINE | st.none(), st.integers(0, 10**9) | st.none()), max_size=5
    ),
    st.lists(st.integers(0, 400), max_size=8),
    st.text(max_size=10),
)
def test_what_is_encoded_is_decoded_again(frames, places: list[int], comment: str) -> None:
    stream = b"".join(
        encode_comment(comment.encode("utf-8", "replace").decode())
        + encode_frame(data, event=event, id=id, retry=retry)
        for data, event, id, retry in frames
    )
    assert b"\r" not in stream
    expected, last = [], ""
    for data, event, id, retry in frames:
        last = last if id is None else id
        expected.append((event or "message", data, last, retry))
    assert read(cut(stream, places)) == (expected, last)


# ------------------------------------------------------------------------------------------------ encoder


def test_the_encoder_writes_what_a_native_client_reads() -> None:
    frame = encode_frame('{"a":1}', event="text_delta", id="g.7")
    assert frame == b'id: g.7\nevent: text_delta\ndata: {"a":1}\n\n'
    assert encode_frame(b"a\r\nb\rc\nd") == b"data: a\ndata: b\ndata: c\ndata: d\n\n"
    assert encode_frame("") == b"data: \n\n"


def test_a_frame_without_data_sets_the_id_and_dispatches_nothing() -> None:
    frame = encode_frame(None, id="g.0", retry=2000)
    assert frame == b"id: g.0\nretry: 2000\n\n"
    decoder = SSEDecoder()
    assert decoder.feed(frame) == []
    assert (decoder.last_event_id, decoder.retry) == ("g.0", 2000)


def test_a_comment_of_several_lines_stays_a_comment() -> None:
    assert encode_comment() == b":\n\n"
    assert encode_comment("a\ndata: b\r\rc") == b": a\n: data: b\n:\n: c\n\n"


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b", "\ud83d"])
@pytest.mark.parametrize("field", ["id", "event"])
def test_what_would_break_out_of_a_field_is_refused(field: str, value: str) -> None:
    with pytest.raises(SSEError, match=field) as caught:
        encode_frame("x", **{field: value})  # type: ignore[arg-type]
    assert isinstance(caught.value, StreamChatError)
    assert isinstance(caught.value, ValueError)


def test_data_that_utf8_cannot_carry_and_negative_retries_are_refused() -> None:
    with pytest.raises(SSEError, match="surrogate"):
        encode_frame("\ud83d")
    with pytest.raises(SSEError, match="-1"):
        encode_frame("x", retry=-1)
