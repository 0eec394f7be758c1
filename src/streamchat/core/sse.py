"""Server-sent events as bytes: an incremental decoder and an encoder, both pure.

The decoder follows the event stream rules of the WHATWG HTML standard (section 9.2.6): a byte order mark at
the start, CR, LF or CRLF also across the borders of two feeds, ids that hold a NUL are ignored, comments
are skipped, what stands behind the last blank line is discarded. Whatever the splits, its cost is linear in
the bytes.
"""

from __future__ import annotations

from typing import NamedTuple

from streamchat.errors import StreamChatError

__all__ = ["Frame", "SSEDecoder", "SSEError", "encode_comment", "encode_frame"]

_BOM = b"\xef\xbb\xbf"
_DEFAULT_EVENT = "message"


class SSEError(StreamChatError, ValueError):
    """A value cannot be written as a server-sent event."""

    code = "sse_error"


class Frame(NamedTuple):
    """One dispatched event: what came between two blank lines, if it had data.

    ``event`` is ``"message"`` where the stream named none. ``data`` is the bytes of all its data lines,
    joined by LF; ``text`` decodes them. ``id`` is the last event id in force at this frame, ``retry`` the
    milliseconds that this frame set, or None.
    """

    event: str
    data: bytes
    id: str
    retry: int | None

    @property
    def text(self) -> str:
        """The data as text; bytes that are not UTF-8 become U+FFFD."""
        return self.data.decode("utf-8", "replace")


# The constructor of a NamedTuple is a Python function; this one is not.
_new = tuple.__new__


class SSEDecoder:
    """Turns the bytes of an event stream, in pieces of any size, into frames.

    ``feed`` returns the frames that the piece completed. Frames are data; comments and blank lines give none,
    so "a frame was returned" is what an idle timeout should count. ``last_event_id`` and ``retry``
    (milliseconds) hold what the stream set last, also in a frame without data; an id counts from the blank
    line on, so it never names a frame that was cut off.

    ``error_field=True`` reads a line ``error: …`` as data of a frame with the event ``error``: no part of the
    standard, but some model servers report a failure in that way.
    """

    __slots__ = (
        "_data",
        "_error_field",
        "_event",
        "_id",
        "_open",
        "_retry",
        "_skip_lf",
        "_start",
        "_tail",
        "last_event_id",
        "retry",
    )

    def __init__(self, *, last_event_id: str = "", error_field: bool = False) -> None:
        self.last_event_id = self._id = last_event_id
        self.retry: int | None = None
        self._error_field = error_field
        self._start: bytes | None = b""  # what came so far, while it may still be a byte order mark
        self._skip_lf = False  # the last byte was a CR: a LF that follows belongs to it
        self._tail: list[bytes] = []  # a line without its end
        self._data: list[bytes] = []
        self._event = b""
        self._retry: int | None = None
        self._open = False  # a field of the present frame was read

    def feed(self, block: bytes) -> list[Frame]:
        """The frames that ``block`` completed, in order."""
        if self._start is not None:
            block = self._without_bom(block)
        if not block:
            return []
        if self._skip_lf:
            self._skip_lf = False
            if block[0] == 10:
                block = block[1:]
        if b"\r" in block:
            self._skip_lf = block[-1] == 13
            block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        frames: list[Frame] = []
        position = 0
        while self._open or self._tail:  # until a blank line: the frame that an earlier block began
            end = block.find(b"\n", position)
            if end < 0:
                if position < len(block):
                    self._tail.append(block[position:])
                return frames
            line = block[position:end]
            if self._tail:
                self._tail.append(line)
                line = b"".join(self._tail)
                self._tail.clear()
            self._line(line, frames)
            position = end + 1
        pieces = (block[position:] if position else block).split(b"\n\n")
        rest = pieces.pop()
        for piece in pieces:
            if piece.startswith(b"data: ") and b"\n" not in piece:
                frames.append(_new(Frame, (_DEFAULT_EVENT, piece[6:], self.last_event_id, None)))
                continue
            if piece.startswith(b"event: "):
                head, _, data = piece.partition(b"\ndata: ")
                if data and b"\n" not in head and b"\n" not in data:
                    event = head[7:].decode("utf-8", "replace") or _DEFAULT_EVENT
                    frames.append(_new(Frame, (event, data, self.last_event_id, None)))
                    continue
            if piece:
                for line in piece.split(b"\n"):
                    self._line(line, frames)
                self._line(b"", frames)
        if rest:
            *lines, tail = rest.split(b"\n")
            for line in lines:
                self._line(line, frames)
            if tail:
                self._tail.append(tail)
        return frames

    def flush(self) -> list[Frame]:
        """The frame that the end of the stream cut off before its blank line; the standard discards it.

        For streams where the sender may forget the last blank line. Whether the data is whole, the caller
        must see.
        """
        frames: list[Frame] = []
        if self._start:
            self._tail.insert(0, self._start)
            self._start = None
        if self._tail:
            line = b"".join(self._tail)
            self._tail.clear()
            self._line(line, frames)
        if self._open:
            self._dispatch(frames)
        return frames

    def _without_bom(self, block: bytes) -> bytes:
        block = (self._start or b"") + block
        if len(block) < 3 and _BOM.startswith(block):
            self._start = block
            return b""
        self._start = None
        return block[3:] if block.startswith(_BOM) else block

    def _line(self, line: bytes, frames: list[Frame]) -> None:
        if not line:
            if self._open:
                self._dispatch(frames)
            return
        field, colon, value = line.partition(b":")
        if not field:
            return
        if colon and value[:1] == b" ":
            value = value[1:]
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._event = value
        elif field == b"id":
            if b"\0" not in value:
                self._id = value.decode("utf-8", "replace")
        elif field == b"retry":
            # Python refuses to read thousands of digits, and no delay has them.
            if value.isdigit() and len(value) <= 18:
                self.retry = self._retry = int(value)
        elif field == b"error" and self._error_field:
            self._event = b"error"
            self._data.append(value)
        self._open = True

    def _dispatch(self, frames: list[Frame]) -> None:
        # Not before: who resumes behind a frame that was cut off after its id would never see its data.
        self.last_event_id = self._id
        if self._data:
            data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
            event = self._event.decode("utf-8", "replace") if self._event else _DEFAULT_EVENT
            frames.append(_new(Frame, (event, data, self.last_event_id, self._retry)))
            self._data.clear()
        self._event = b""
        self._retry = None
        self._open = False


def encode_frame(
    data: str | bytes | None, *, event: str | None = None, id: str | None = None, retry: int | None = None
) -> bytes:
    """One frame with LF line ends.

    ``data`` may hold line ends of any kind; each line becomes a ``data:`` line, so a reader gets LF for all
    of them. None writes no data line: such a frame sets ``id`` or ``retry`` and dispatches nothing.
    ``retry`` is in milliseconds, not negative.

    Raises ``SSEError`` if ``event`` or ``id`` holds CR, LF or NUL, any of them half of a surrogate pair, or
    ``retry`` is negative.
    """
    head = b""
    if id is not None:
        head += b"id: " + _one_line("id", id) + b"\n"
    if event is not None:
        head += b"event: " + _one_line("event", event) + b"\n"
    if retry is not None:
        if retry < 0:
            raise SSEError(f"retry is {retry!r}; it must be a number of milliseconds, 0 or more")
        head += b"retry: %d\n" % retry
    if data is None:
        return head + b"\n"
    body = _encode("data", data) if isinstance(data, str) else data
    if b"\r" in body:
        body = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if b"\n" in body:
        body = body.replace(b"\n", b"\ndata: ")
    return head + b"data: " + body + b"\n\n"


def encode_comment(text: str = "") -> bytes:
    """A comment, which readers skip; each line of ``text`` becomes a comment line. Used as a heartbeat."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "".join(f": {line}\n" if line else ":\n" for line in lines).encode() + b"\n"


def _one_line(field: str, value: str) -> bytes:
    if "\n" in value or "\r" in value or "\0" in value:
        raise SSEError(f"{field} is {value!r}; it must not hold CR, LF or NUL")
    return _encode(field, value)


def _encode(field: str, value: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        message = f"{field} holds half of a surrogate pair at {error.start}; UTF-8 cannot carry it"
        raise SSEError(message) from error
