"""The whole way from a provider's bytes to deltas: SSE frames, JSON, accumulator; still pure."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from jiter import from_json

from streamchat.core.chat_accumulator import ChatCompletionAccumulator
from streamchat.core.completion import Completion, Delta
from streamchat.core.jsontext import decode_json
from streamchat.core.responses_accumulator import ResponsesAccumulator
from streamchat.core.sse import Frame, SSEDecoder

__all__ = ["Api", "CompletionReader"]

Api: TypeAlias = Literal["chat", "responses"]


class CompletionReader:
    """Reads the body of one streamed response.

    ``feed`` takes blocks of bytes of any size and returns what they changed; ``close`` says that the body
    has ended, and takes a last frame whose blank line was forgotten; ``finish`` gives the completion.
    ``frames`` counts the frames with data so far, so that a caller can count idle time in data and not in
    comments. ``done`` is true after ``[DONE]``: the rest of the body needs no reading.

    A body that is no event stream but one JSON object (a server that does not stream, or an error answered
    with status 200) is read as a whole at ``close``. ``one_choice`` is `ChatCompletionAccumulator`'s.
    """

    def __init__(self, api: Api = "chat", *, one_choice: bool = False) -> None:
        self.accumulator: ChatCompletionAccumulator | ResponsesAccumulator
        if api == "chat":
            self.accumulator = ChatCompletionAccumulator(one_choice=one_choice)
        elif api == "responses":
            self.accumulator = ResponsesAccumulator()
        else:
            raise ValueError(f"api is {api!r}; it must be 'chat' or 'responses'")
        self.frames = 0
        self._decoder = SSEDecoder(error_field=True)
        # The white space before the first character, which tells what the body is.
        self._head: bytes | None = b""
        self._body: list[bytes] | None = None

    @property
    def done(self) -> bool:
        """Whether the stream's own end mark came."""
        return self.accumulator.done

    @property
    def left_out(self) -> bool:
        """Whether there were choices that ``one_choice`` has left out."""
        return isinstance(self.accumulator, ChatCompletionAccumulator) and self.accumulator.left_out

    def feed(self, block: bytes) -> list[Delta]:
        """What the next bytes of the body changed, in order."""
        if self._head is not None:
            block = self._look_at_head(block)
        if self._body is not None:
            self._body.append(block)
            return []
        frames = self._decoder.feed(block)
        self.frames += len(frames)
        out: list[Delta] = []
        add = self.accumulator.add
        for frame in frames:
            event, data, _, _ = frame
            if data[:1] == b"{" and event != "error":
                try:
                    chunk = from_json(data)
                except ValueError:
                    self._read(frame, out)
                    continue
                if "type" not in chunk and event.startswith("response."):
                    chunk["type"] = event
                out += add(chunk)
            else:
                self._read(frame, out)
        return out

    def close(self) -> list[Delta]:
        """The body has ended, whether the provider meant it or the connection broke."""
        out: list[Delta] = []
        if self._body is not None:
            self._read_body(b"".join(self._body), out)
            self._body = None
            return out
        if self._head:
            self._decoder.feed(self._head)
            self._head = None
        for frame in self._decoder.flush():
            try:
                whole = frame.data.strip() == b"[DONE]" or decode_json(frame.data) is not None
            except ValueError:
                whole = False  # cut off in the middle
            if whole:
                self.frames += 1
                self._read(frame, out)
        return out

    def finish(self) -> Completion:
        """What it all came to."""
        return self.accumulator.finish()

    def _look_at_head(self, block: bytes) -> bytes:
        block = (self._head or b"") + block
        start = block.removeprefix(b"\xef\xbb\xbf").lstrip()
        if not start and len(block) < 64:
            self._head = block
            return b""
        self._head = None
        if start[:1] in (b"{", b"["):
            self._body = []
        return block

    def _read(self, frame: Frame, out: list[Delta]) -> None:
        data = frame.data.strip()
        if not data:
            return
        if data == b"[DONE]":
            self.accumulator.mark_done()
            return
        try:
            value = decode_json(data)
        except ValueError:
            self.accumulator.fail(data.decode("utf-8", "replace"))
            return
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                self._add(frame.event, item, out)
            elif frame.event == "error":
                self.accumulator.fail(item)

    def _add(self, event: str, item: dict[str, Any], out: list[Delta]) -> None:
        if event == "error" and not item.get("error") and item.get("type") != "error":
            self.accumulator.fail(item)
            return
        if "type" not in item and event.startswith("response."):
            item = {**item, "type": event}
        out += self.accumulator.add(item)

    def _read_body(self, body: bytes, out: list[Delta]) -> None:
        try:
            value = decode_json(body.removeprefix(b"\xef\xbb\xbf").strip())
        except ValueError:
            self.accumulator.fail(body[:2000].decode("utf-8", "replace"))
            return
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                out += self.accumulator.add(item)
                whole = item.get("choices") or item.get("object") == "response"
                if whole and self.accumulator.error is None:
                    self.accumulator.mark_done()
