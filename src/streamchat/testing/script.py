"""What a scripted model or provider says: steps, calls, and the stalls and failures between chunks.

A `Step` is one model answer. It is cut into *pieces*, each of which becomes one chunk of a stream; all counts
(``error_after``, ``cut_after``, ``stall_after``) are numbers of pieces, so one script means the same to
`ScriptedModel` and, over real HTTP, to `ScriptedProvider`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import anyio

from streamchat.concurrency import LoopHandle
from streamchat.core.jsontext import encode_json
from streamchat.errors import ModelError, StreamChatError
from streamchat.messages import Usage

__all__ = ["Call", "Flag", "Piece", "ScriptExhausted", "Stall", "Step", "Waitable", "failure"]

_FINAL_WORDS = {"authentication", "bad_request"}
_STATUS = {
    "rate_limited": 429,
    "authentication": 401,
    "bad_request": 400,
    "server_error": 500,
    "timeout": 408,
}


class ScriptExhausted(StreamChatError, AssertionError):
    """A scripted model or provider was asked more often than its script says, or less often."""

    code = "script_exhausted"


def failure(code: str, message: str | None = None, *, retry_after: float | None = None) -> ModelError:
    """The `ModelError` that a provider's failure of this code (see `ModelError`) comes to."""
    return ModelError(
        message or f"scripted failure: {code}",
        code=code,
        retryable=code not in _FINAL_WORDS,
        retry_after=retry_after,
        status=_STATUS.get(code),
    )


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call that the model makes.

    ``arguments`` as text is sent as it is, so that it may be broken on purpose. ``id`` is the provider's id;
    None makes one that no other call of this script has. ``extra`` stands beside ``function``, as thought
    signatures do (``{"extra_content": {…}}``; Chat Completions only). ``fragments`` is how many pieces the
    arguments come in.
    """

    name: str
    arguments: Mapping[str, Any] | str = "{}"
    id: str | None = None
    extra: Mapping[str, Any] | None = None
    fragments: int = 2

    @property
    def arguments_text(self) -> str:
        """The arguments as the provider writes them."""
        return self.arguments if isinstance(self.arguments, str) else encode_json(dict(self.arguments))


class Waitable(Protocol):
    """What a stall waits for: an event of asyncio, anyio or trio, or a `Stall`."""

    async def wait(self) -> Any:
        """Return once it is set."""


class Stall:
    """A point at which a scripted stream stands still until `release`; `reached` says that it got there.

    Works across threads and loops, so a test may hold it while the provider runs in a thread.
    """

    def __init__(self) -> None:
        self._reached = Flag()
        self._released = Flag()

    async def wait(self) -> None:
        """Called by the script: mark the point as reached and wait for `release`."""
        self._reached.set()
        await self._released.wait()

    async def reached(self) -> None:
        """Wait until a stream stands here."""
        await self._reached.wait()

    def release(self) -> None:
        """Let all streams that stand here, or will, go on."""
        self._released.set()


class Flag:
    """A one-way event that any thread may set and any loop may await."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._set = False
        self._waiting: list[tuple[LoopHandle, anyio.Event]] = []

    def set(self) -> None:
        """Set it, for good."""
        with self._lock:
            self._set = True
            waiting, self._waiting = self._waiting, []
        for loop, event in waiting:
            loop.call_soon(event.set)

    async def wait(self) -> None:
        """Wait until it is set."""
        event = anyio.Event()
        with self._lock:
            if self._set:
                return
            self._waiting.append((LoopHandle(), event))
        await event.wait()


class Piece(NamedTuple):
    """The content of one chunk. ``call`` numbers the call; ``first`` is True for the piece that names it."""

    kind: Literal["reasoning", "text", "refusal", "call"]
    text: str
    call: int = 0
    first: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One model answer: reasoning, then text or a refusal, then calls, then the finish.

    ``finish_reason`` None means ``tool_calls`` where there are calls, else ``stop``. ``usage`` None means
    counts made up from the content; False means that the provider tells none.

    ``error`` is a `ModelError`, or its code: raised before the first piece, or after ``error_after`` pieces
    (over HTTP: a status, or an error object in the stream). ``cut_after``: the stream ends after so many
    pieces, without a finish. ``stall_after``: it stands still after so many, until ``stall`` is released
    (None: for ever). ``retries``: so many notices of failures before the first token come first
    (`ScriptedModel` only).

    ``pieces_of`` is the number of characters to a piece; None cuts at words.
    """

    text: str = ""
    calls: Sequence[Call] = ()
    reasoning: str = ""
    refusal: str = ""
    finish_reason: str | None = None
    usage: Usage | Literal[False] | None = None
    error: ModelError | str | None = None
    error_after: int | None = None
    cut_after: int | None = None
    stall_after: int | None = None
    stall: Waitable | None = None
    retries: int = 0
    pieces_of: int | None = None

    @property
    def finish(self) -> str:
        """The finish reason that the provider gives."""
        return self.finish_reason or ("tool_calls" if self.calls else "stop")

    @property
    def failure(self) -> ModelError | None:
        """The error as `ModelError`."""
        return failure(self.error) if isinstance(self.error, str) else self.error

    def pieces(self) -> list[Piece]:
        """The whole content, cut; what a cut, stall or error leaves out is still in it."""
        pieces = [Piece("reasoning", text) for text in self._cut(self.reasoning)]
        pieces += [Piece("text", text) for text in self._cut(self.text)]
        pieces += [Piece("refusal", text) for text in self._cut(self.refusal)]
        for index, call in enumerate(self.calls):
            pieces.append(Piece("call", "", index, first=True))
            pieces += [Piece("call", text, index) for text in _fragments(call)]
        return pieces

    def call_id(self, index: int, number: int) -> str:
        """The provider's id of a call, in the ``number``-th answer of a script."""
        return self.calls[index].id or f"call_{number}_{index}"

    def told_usage(self) -> Usage | None:
        """The usage that the provider tells."""
        if self.usage is False:
            return None
        if self.usage is not None:
            return self.usage
        reasoning = len(self._cut(self.reasoning))
        output = reasoning + sum(piece.kind != "reasoning" for piece in self.pieces())
        return Usage(
            input_tokens=10, output_tokens=output, total_tokens=10 + output, reasoning_tokens=reasoning
        )

    def _cut(self, text: str) -> list[str]:
        if self.pieces_of is not None:
            return [text[i : i + self.pieces_of] for i in range(0, len(text), self.pieces_of)]
        return re.findall(r"\s*\S+|\s+$", text)


def _fragments(call: Call) -> list[str]:
    text = call.arguments_text
    size = max(1, -(-len(text) // max(1, call.fragments)))
    return [text[i : i + size] for i in range(0, len(text), size)]
