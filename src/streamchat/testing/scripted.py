"""A model that answers from a script, in process, by way of the accumulator that real answers take."""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from types import TracebackType
from typing import Self, TypeAlias

import anyio
import anyio.lowlevel

from streamchat.core.accumulator import ChatCompletionAccumulator, Delta
from streamchat.errors import InvalidInput, ModelError
from streamchat.models.base import ModelOutput, ModelRequest, ModelRetry
from streamchat.models.chat_requests import chat_messages
from streamchat.models.results import chat_result
from streamchat.testing.chunks import ChatWriter
from streamchat.testing.histories import HistoryError, check_history
from streamchat.testing.script import Piece, ScriptExhausted, Step

__all__ = ["ScriptedModel", "ScriptedStep"]

ScriptedStep: TypeAlias = "Step | str | Exception | Callable[[ModelRequest], Step | str | Exception]"
"""A step; the text of one; an exception to raise; or a function of the request that gives one of these."""


class ScriptedModel:
    """Answers each request with the next step of a script.

    ``steps`` are taken in the order in which requests come; with ``repeat`` they start again at the end. A
    request past the end raises `ScriptExhausted`. ``strict`` (the default) refuses, with the `ModelError`
    ``bad_request`` of a real provider, a history in which a call has no answer (`check_history`). ``batch``
    is the number of pieces that come in one list, as if one read of the network had brought them.

    ``requests`` are those that came. As a context manager it asserts at the end that the script was used up.
    """

    def __init__(
        self,
        steps: Iterable[ScriptedStep] | Callable[[ModelRequest], Step | str | Exception] = (),
        *,
        repeat: bool = False,
        strict: bool = True,
        batch: int = 1,
        name: str = "scripted",
    ) -> None:
        self._steps: list[ScriptedStep] = [steps] if callable(steps) else list(steps)
        self._repeat = repeat or callable(steps)
        self._strict = strict
        self._batch = batch
        self._name = name
        self._used = 0
        self.requests: list[ModelRequest] = []
        self.problems: list[str] = []

    @classmethod
    def text(cls, text: str, repeat: bool = False) -> Self:
        """A model that answers ``text``: once, or with ``repeat`` every time."""
        return cls([Step(text)], repeat=repeat)

    @property
    def name(self) -> str:
        """The model's name."""
        return self._name

    def assert_used_up(self) -> None:
        """Raise `ScriptExhausted` unless each step was asked for, and none was asked for in vain."""
        left = 0 if self._repeat else len(self._steps) - self._used
        unused = [f"{left} of {len(self._steps)} steps were never asked for"] if left else []
        if unused or self.problems:
            raise ScriptExhausted("; ".join([*self.problems, *unused]))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.assert_used_up()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelOutput], None]:
        """Say the next step; raises what the step says, and `ScriptExhausted` past the end."""
        self.requests.append(request)
        number = len(self.requests)
        step = self._next(request)
        await anyio.lowlevel.checkpoint()
        for attempt in range(1, step.retries + 1):
            yield [ModelRetry(attempt, 0.0, "connection")]
        failure = copy.copy(step.failure)
        if failure is not None and step.error_after is None:
            raise failure
        accumulator = ChatCompletionAccumulator()
        writer = ChatWriter(step, number=number, model=self._name, usage=True)
        pieces = step.pieces()
        pending: list[Delta] = []
        for sent in range(len(pieces) + 1):
            if sent in (step.stall_after, step.error_after, step.cut_after) and pending:
                yield pending
                pending = []
            if step.stall_after == sent:
                await (step.stall.wait() if step.stall is not None else anyio.sleep_forever())
            if step.error_after == sent and failure is not None:
                raise failure
            if step.cut_after == sent:
                raise ModelError(
                    "the stream ended without a finish reason", code="incomplete_stream", retryable=True
                )
            if sent < len(pieces):
                pending += _said(accumulator, writer, pieces[sent])
                if (sent + 1) % self._batch == 0:
                    yield pending
                    pending = []
        for chunk in writer.closing():
            pending += accumulator.add(chunk)
        accumulator.mark_done()
        yield [*pending, chat_result(accumulator.finish(), provider=None, model=self._name)]

    def _next(self, request: ModelRequest) -> Step:
        if self._strict:
            try:
                # What would be sent: broken arguments stand in the log, but go to no provider.
                check_history(chat_messages(request.messages, None))
            except HistoryError as error:
                self.problems.append(str(error))
                raise ModelError(str(error), code="bad_request", status=400) from error
        index = self._used % len(self._steps) if self._repeat and self._steps else self._used
        if index >= len(self._steps):
            self.problems.append(
                f"request {len(self.requests)} came after the script's {len(self._steps)} steps"
            )
            raise ScriptExhausted(self.problems[-1])
        self._used += 1
        step = self._steps[index]
        if callable(step):
            step = step(request)
        if isinstance(step, Exception):
            raise copy.copy(step)
        if isinstance(step, str):
            step = Step(step)
        if not isinstance(step, Step):
            raise InvalidInput(f"{step!r} is not a step: give a Step, text or an exception")
        return step


def _said(accumulator: ChatCompletionAccumulator, writer: ChatWriter, piece: Piece) -> list[Delta]:
    return [delta for chunk in writer.piece(piece) for delta in accumulator.add(chunk)]
