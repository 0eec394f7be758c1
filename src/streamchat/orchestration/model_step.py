"""One step's share of the model: from its batches of deltas to typed events with part numbers and call ids.

It waits with no scope or task held across a yield, because it does not yield: the orchestrator does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from typing import Any

from streamchat.concurrency import Deadline
from streamchat.core.accumulator import CallDelta, ContentDelta, SourceDelta, ToolCall
from streamchat.errors import InvalidInput, ModelError
from streamchat.events import (
    CallProblem,
    CustomEvent,
    FinishedPart,
    ModelCompleted,
    ReasoningDelta,
    RefusalDelta,
    SourceEvent,
    StatusEvent,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    ToolCallEvent,
    ToolResult,
)
from streamchat.models.base import (
    PROVIDER_POSITIONS,
    CustomOutput,
    FinishedContent,
    Model,
    ModelOutput,
    ModelRequest,
    ModelResult,
    ModelRetry,
    NextStep,
    ProviderCall,
)
from streamchat.tools import Tool, ToolRegistry

__all__ = ["ModelStep"]

log = logging.getLogger("streamchat.run")

_DELTAS: dict[str, type[TextDelta | ReasoningDelta | RefusalDelta]] = {
    "text": TextDelta,
    "reasoning": ReasoningDelta,
    "refusal": RefusalDelta,
}
_MAX_ID = 128


class ModelStep:
    """One attempt at a step: asks the model once and translates its answer.

    ``step`` is the run's, whatever a hook made of the request. ``first_part`` is the number of the attempt's
    first part; ``taken`` are the call ids that the run has used. Raises `ModelError` where the model cannot
    even be asked. A workflow answers with several steps: before each, `next_step` reads its name and `begin`
    makes ready for it.
    """

    def __init__(
        self,
        model: Model,
        request: ModelRequest,
        *,
        step: int,
        first_part: int,
        taken: Iterable[str],
        tools: ToolRegistry,
    ) -> None:
        self._tools = tools
        self.named: NextStep | None = None
        """The step that comes next, once `next_step` has found it."""
        self.ended = False
        """Whether `next_step` has found that there is none."""
        self.begin(step, first_part=first_part, taken=taken)
        try:
            self._stream: AsyncGenerator[Sequence[ModelOutput], None] = model.stream(request)
            self.next: Callable[[], Awaitable[Sequence[ModelOutput]]] = self._stream.__anext__
            """Waits for what the next read of the provider brings; `failure` says what its exceptions are."""
        except Exception as error:
            raise self._broken(error) from error

    def begin(self, step: int, *, first_part: int, taken: Iterable[str]) -> None:
        """Make ready for the output of ``step``."""
        self.result: ModelResult | None = None
        self.visible = False
        """Whether anything was handed out that a reader could have seen."""
        self.first_token_at: float | None = None
        self._step = step
        self._next_part = first_part
        self._parts: dict[int, int] = {}
        # Stores may compare ids without regard to case, so a case variant counts as taken.
        self._taken = {call_id.casefold() for call_id in taken}
        self._ids: dict[int, str] = {}
        self.named = None

    async def next_step(self, deadline: Deadline) -> list[StreamEvent]:
        """Read on to where a workflow's next step begins (``named``) or where it ends (``ended``).

        Returns what it says in between; nothing if ``deadline`` ended the wait. Raises `ModelError`.
        """
        batch: Sequence[ModelOutput] = ()
        try:
            with deadline:
                batch = await anext(self._stream)
        except StopAsyncIteration:
            self.ended = True
        except ModelError:
            raise
        except Exception as error:
            raise self._broken(error) from error
        events: list[StreamEvent] = []
        for output in batch:
            if isinstance(output, NextStep):
                self.named = output
            elif isinstance(output, CustomOutput):
                events.append(CustomEvent(name=output.name, data=output.data))
            else:
                text = f"the workflow yielded {output!r:.200} where a step must begin"
                raise ModelError(text, code="provider_error")
        return events

    def failure(self, error: Exception) -> ModelError:
        """What an exception of `next` or `translate` means, with ``error`` as its cause."""
        if isinstance(error, ModelError):
            return error
        if isinstance(error, StopAsyncIteration):
            text = f"the model's stream of step {self._step} ended without a result"
            return ModelError(text, code="incomplete_stream", retryable=True)
        failure = self._broken(error)
        failure.__cause__ = error
        return failure

    def _broken(self, error: Exception) -> ModelError:
        code = "bad_request" if isinstance(error, InvalidInput) else "provider_error"
        return ModelError(f"the model raised {type(error).__name__} in step {self._step}: {error}", code=code)

    async def drain(self, deadline: Deadline) -> None:
        """Let the model finish with its response after the result: the connection may be used again."""
        try:
            with deadline:
                async for _ in self._stream:
                    pass
        except Exception as error:
            # The answer is whole: whatever the connection does now is no failure of it.
            log.info("step %d: the model failed after its result: %r", self._step, error)

    async def close(self, seconds: float) -> None:
        """Close the provider's response within so many seconds; idempotent, raises nothing."""
        try:
            with Deadline(seconds) as deadline:
                await self._stream.aclose()
            if deadline.expired:
                log.warning("step %d: the model's response did not close within %g s", self._step, seconds)
        except Exception as error:
            log.warning("step %d: the model's response did not close", self._step, exc_info=error)

    def translate(self, batch: Sequence[ModelOutput]) -> list[StreamEvent]:
        """The events of what `next` brought: perhaps none yet.

        After the batch with ``model_completed`` (``result`` is set) there is nothing to read any more.
        """
        step, parts = self._step, self._parts
        events: list[StreamEvent] = []
        for output in batch if len(batch) == 1 else _joined(batch):
            if type(output) is ContentDelta:
                kind, local, text, _ = output
                part = parts.get(local)
                if part is None:
                    part = self._part(local)
                # Without the class's own constructor, a Python function around this one.
                make = _DELTAS[kind].__pydantic_validator__.validate_python
                events.append(make({"step": step, "part": part, "text": text}))
            elif type(output) is CallDelta:
                events.append(self._call_delta(output))
            else:
                events += self._other(output)
                if self.result is not None:
                    break
        if events and not self.visible and any(event.type != "status" for event in events):
            self.visible = True
            self.first_token_at = time.monotonic()
        return events

    def _part(self, local: int) -> int:
        """The run's number for a part of the model's: the next one when it is first seen."""
        part = self._parts.get(local)
        if part is None:
            part = self._parts[local] = self._next_part
            self._next_part += 1
        return part

    def _other(self, output: ModelOutput) -> list[StreamEvent]:
        if isinstance(output, ModelResult):
            return self._completed(output)
        if isinstance(output, ModelRetry):
            detail = f"{output.code}, attempt {output.attempt}, again in {output.seconds:.1f} s"
            return [StatusEvent(step=self._step, status="retrying", detail=detail)]
        if isinstance(output, CustomOutput):
            return [CustomEvent(step=self._step, name=output.name, data=output.data)]
        if isinstance(output, SourceDelta):
            data: dict[str, Any] = dict(output.data)
            source = SourceEvent(
                step=self._step,
                part=self._part(output.part),
                url=_text(data.get("url")),
                title=_text(data.get("title")),
                data=data,
            )
            return [source]
        raise ModelError(f"the model yielded {output!r:.200}, which is no ModelOutput", code="provider_error")

    def _call_delta(self, delta: CallDelta) -> StreamEvent:
        return ToolCallDelta(
            step=self._step,
            part=self._part(delta.part),
            call_id=self._call_id(delta.position, delta.id),
            index=delta.position,
            name=delta.name,
            arguments=delta.arguments,
        )

    def _call_id(self, position: int, provider_id: str | None) -> str:
        """The run's id for a call, fixed when it is first seen, whatever the provider sends later."""
        known = self._ids.get(position)
        if known is not None:
            return known
        call_id = provider_id if provider_id is not None and _usable(provider_id) else ""
        count = 0
        while not call_id or call_id.casefold() in self._taken:
            call_id = f"call_{self._step}_{position}" + (f"_{count}" if count else "")
            count += 1
        self._taken.add(call_id.casefold())
        self._ids[position] = call_id
        return call_id

    def _completed(self, result: ModelResult) -> list[StreamEvent]:
        self.result = result
        events: list[StreamEvent] = []
        results: list[StreamEvent] = []
        kept: dict[str, dict[str, Any]] = {}
        # Numbers grow as parts are first seen, so what was not seen yet comes in the model's own order.
        for item in sorted(self._whole(result), key=lambda item: item.part):
            if isinstance(item, FinishedContent):
                # A provider that sends only the whole: its readers see one delta.
                events.append(_DELTAS[item.kind](step=self._step, part=self._part(item.part), text=item.text))
            elif isinstance(item, ToolCall):
                called = self._tool_call(item)
                events.append(called)
                kept[called.call_id] = {"arguments": item.arguments_json}
                if item.extra:
                    kept[called.call_id]["extra"] = item.extra
            else:
                position = PROVIDER_POSITIONS + len(results)
                called = self._provider_call(position, item)
                events.append(called)
                results.append(self._provider_result(called.call_id, item))
        extras = {**(result.extras or {}), **({"calls": kept} if kept else {})}
        if result.more:
            extras["workflow"] = {**extras.get("workflow", {}), "more": True}
        completed = ModelCompleted(
            step=self._step,
            finish_reason=result.finish_reason,
            parts=tuple(
                FinishedPart(part=self._parts[p.part], text=p.text if p.replaced else None)
                for p in result.parts
                if p.kind in _DELTAS and p.part in self._parts
            ),
            call_ids=tuple(event.call_id for event in events if isinstance(event, ToolCallEvent)),
            usage=result.usage,
            private=extras or None,
        )
        return [*events, completed, *results]

    def _whole(self, result: ModelResult) -> list[FinishedContent | ToolCall | ProviderCall]:
        unseen = [p for p in result.parts if p.part not in self._parts and p.text and p.kind in _DELTAS]
        return [*unseen, *result.calls, *result.provider_calls]

    def _tool_call(self, call: ToolCall) -> ToolCallEvent:
        tool = self._tools.get(call.name or "")
        return ToolCallEvent(
            step=self._step,
            part=self._part(call.part),
            call_id=self._call_id(call.position, call.id),
            provider_call_id=call.id,
            name=call.name or "",
            arguments=call.arguments,
            arguments_text=call.arguments_json if call.arguments is None else None,
            problem=_problem(call, tool),
            executed_by="client" if tool is not None and tool.client_side else "server",
        )

    def _provider_call(self, position: int, call: ProviderCall) -> ToolCallEvent:
        return ToolCallEvent(
            step=self._step,
            part=self._part(call.part),
            call_id=self._call_id(position, call.id),
            provider_call_id=call.id or None,
            name=call.name,
            arguments=call.arguments,
            executed_by="provider",
        )

    def _provider_result(self, call_id: str, call: ProviderCall) -> StreamEvent:
        if call.error is not None:
            return ToolResult(step=self._step, call_id=call_id, outcome="error", error=call.error)
        return ToolResult(step=self._step, call_id=call_id, outcome="ok", output=call.output)


def _problem(call: ToolCall, tool: Tool | None) -> CallProblem | None:
    if call.problem is not None:
        return call.problem
    if tool is None:
        return "unknown_tool"
    return "invalid_arguments" if tool.check(call.arguments or {}) is not None else None


def _joined(batch: Sequence[ModelOutput]) -> list[ModelOutput]:
    """Join what one read brought of one part: it came together, so nobody is kept waiting.

    In a burst this halves what a chunk costs; live, a read brings one chunk and nothing is joined.
    """
    out: list[ModelOutput] = []
    pieces: list[str] = []
    open_delta: ContentDelta | CallDelta | None = None
    for output in batch:
        if type(output) is ContentDelta:
            if type(open_delta) is ContentDelta and output.part == open_delta.part:
                pieces.append(output.text)
                continue
            text = output.text
        elif type(output) is CallDelta:
            if type(open_delta) is CallDelta and output.part == open_delta.part and output.name is None:
                pieces.append(output.arguments)
                continue
            text = output.arguments
        else:
            text = None
        if len(pieces) > 1:
            out[-1] = _with_text(open_delta, "".join(pieces))
        out.append(output)
        open_delta, pieces = (None, []) if text is None else (output, [text])  # type: ignore[assignment]
    if len(pieces) > 1:
        out[-1] = _with_text(open_delta, "".join(pieces))
    return out


def _with_text(delta: ContentDelta | CallDelta | None, text: str) -> ContentDelta | CallDelta:
    assert delta is not None
    return delta._replace(text=text) if isinstance(delta, ContentDelta) else delta._replace(arguments=text)


def _usable(provider_id: str) -> bool:
    """Whether an id may stand in our log: short, printable ASCII without spaces."""
    return (
        0 < len(provider_id) <= _MAX_ID
        and provider_id.isascii()
        and provider_id.isprintable()
        and (" " not in provider_id)
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
